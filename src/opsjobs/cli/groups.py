"""`opsjobs groups`: named sets of targets."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, RequestRefused, connect
from opsjobs.cli.render import Column, Form, ago, show_list, show_one, tell
from opsjobs.cli.targets import COLUMNS as TARGET_COLUMNS

app = typer.Typer(help="Groups: named sets of targets.", no_args_is_help=True)

Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name, id or uuid.")]
Description = Annotated[str | None, typer.Option(help="A description.")]
Members = Annotated[
    list[str] | None,
    typer.Option(
        "-t", "--target", metavar="NAME[,NAME]", help="Targets of the group. May be repeated."
    ),
]
Subgroups = Annotated[
    list[str] | None,
    typer.Option(
        "-g",
        "--group",
        metavar="GROUP[,GROUP]",
        help="Groups whose targets belong to it, too. May be repeated.",
    ),
]
COLUMNS = (
    Column("id", lambda g: g["id"]),
    Column("name", lambda g: g["name"]),
    Column("targets", lambda g: g["direct_targets"]),
    Column("selector", lambda g: g["selector"]),
    Column("groups", lambda g: g["groups"]),
    Column("description", lambda g: g["description"]),
    Column("changed", lambda g: ago(g["updated_at"]), wide=True),
)


@app.command("list")
def list_groups(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List groups by name."""
    with connect() as client:
        found, more = client.items("/target-groups", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(group: Group, output: options.Output = Form.TABLE) -> None:
    """Show one group."""
    with connect() as client:
        show_one(_find_group(client, group), output)


@app.command()
def targets(group: Group, output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List all targets of a group now: named, by selector, and of its groups."""
    with connect() as client:
        found, more = client.items(
            f"/target-groups/{_find_group(client, group)['id']}/targets", limit=limit
        )
    show_list(found, TARGET_COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web.")],
    *,
    description: Description = None,
    members: Members = None,
    subgroups: Subgroups = None,
    selector: options.Selector = None,
) -> None:
    """Add a group of named targets, of targets with certain labels, or of other groups."""
    with connect() as client:
        made = client.post(
            "/target-groups",
            {"name": name, **_build_body(description, members, subgroups, selector)},
        )
    print(made["id"])
    tell(f"group {name} is added")


@app.command()
def change(
    group: Group,
    *,
    name: Annotated[str | None, typer.Option(help="The new name.")] = None,
    description: Description = None,
    members: Members = None,
    subgroups: Subgroups = None,
    selector: options.Selector = None,
) -> None:
    """Change a group. Options that are not given change nothing.

    --target and --group replace the whole list.
    """
    with connect() as client:
        found = _find_group(client, group)
        kept = {field: found[field] for field in ("name", "description", "selector", "groups")}
        given = _build_body(description, members, subgroups, selector)
        client.put(
            f"/target-groups/{found['id']}", {**kept, **given, **({"name": name} if name else {})}
        )
    tell(f"group {name or found['name']} is changed")


@app.command()
def rm(
    groups: Annotated[list[str], typer.Argument(metavar="GROUP…", help="Names, ids or uuids.")],
) -> None:
    """Remove groups. Their targets stay."""
    with connect() as client:
        for ref in groups:
            found = _find_group(client, ref)
            client.delete(f"/target-groups/{found['id']}")
            tell(f"group {found['name']} is removed")


def _build_body(
    description: str | None,
    members: list[str] | None,
    subgroups: list[str] | None,
    selector: str | None,
) -> Json:
    """Return the given fields; an empty selector removes the selector."""
    body: Json = {
        "description": description,
        "targets": options.split(members) if members is not None else None,
        "groups": options.split(subgroups) if subgroups is not None else None,
    }
    given = {field: value for field, value in body.items() if value is not None}
    return given if selector is None else {**given, "selector": selector or None}


def _find_group(client: Client, ref: str) -> Json:
    """Return the group with this name, id or uuid. Raises RequestRefused (404)."""
    for item in client.items("/target-groups", limit=2, name=ref)[0]:
        if item["name"] == ref:
            return item
    try:
        return dict(client.get(f"/target-groups/{ref}"))
    except RequestRefused as refused:
        if refused.status != 404:
            raise
        raise RequestRefused(
            f"There is no group {ref}: `opsjobs groups list` shows them.", 404, "group_not_found"
        ) from None
