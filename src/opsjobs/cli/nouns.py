"""Commands that many nouns share: `list`, `show` and `rm`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect, path_of
from opsjobs.cli.messages import plain, tell
from opsjobs.cli.render import Column, Form, show_list, show_one


@dataclass(frozen=True, slots=True)
class Noun:
    """A kind of resource that the service stores, such as a calendar."""

    name: str
    """Its name in messages and commands."""
    columns: Sequence[Column]
    """The columns of its table."""
    route: str = ""
    """Its name in the routes of the API, if that differs."""

    refs_help: str = "Names, ids or uuids."
    """The help of an argument that names several resources."""

    @property
    def argument(self) -> Any:
        """The type of the argument that names one resource."""
        return Annotated[str, typer.Argument(metavar=self.name.upper(), help="Name, id or uuid.")]

    @property
    def arguments(self) -> Any:
        """The type of the argument that names several resources."""
        return Annotated[list[str], typer.Argument(metavar=self.name.upper(), help=self.refs_help)]

    def find(self, client: Client, ref: str) -> Json:
        """Return the resource with this id, uuid or name. Raises RequestRefused (404)."""
        return client.by_name(self.route or self.name, ref, command=self.name)

    def path(self, found: Json) -> str:
        """Return the path of a resource."""
        return path_of(self.route or self.name, found["id"])


def add_list(app: typer.Typer, noun: Noun, text: str, limit: int = 200) -> None:
    """Add the command `list`, with this help text."""
    path = f"/{noun.route or noun.name}s"

    @app.command("list", help=text)
    def list_items(output: options.Output = Form.TABLE, limit: options.Limit = limit) -> None:
        with connect() as client:
            found, more = client.items(path, limit=limit)
        show_list(found, noun.columns, output)
        options.tell_more(more, limit)


def add_show(app: typer.Typer, noun: Noun, text: str) -> None:
    """Add the command `show`, with this help text."""

    def show(ref: str, output: options.Output = Form.TABLE) -> None:
        with connect() as client:
            show_one(noun.find(client, ref), output)

    show.__annotations__["ref"] = noun.argument
    app.command("show", help=text)(show)


def add_remove(app: typer.Typer, noun: Noun, text: str) -> None:
    """Add the command `rm`, with this help text."""

    def remove(client: Client, found: Json) -> None:
        client.delete(noun.path(found))

    add_each(app, noun, text, remove, verb="rm", done="removed")


def add_each(
    app: typer.Typer,
    noun: Noun,
    text: str,
    change: Callable[[Client, Json], object],
    *,
    verb: str,
    done: str,
) -> None:
    """Add the command `verb`, which changes several resources, one after the other."""

    def change_each(refs: list[str]) -> None:
        with connect() as client:
            for ref in refs:
                found = noun.find(client, ref)
                change(client, found)
                tell(f"{noun.name} {plain(found['name'])} is {done}")

    change_each.__annotations__["refs"] = noun.arguments
    app.command(verb, help=text)(change_each)
