"""Load commands on demand: a command's module is imported when it is called.

This is the only place in opsjobs with a late import. The server's libraries take over a second to
import, the models of jobs and schedules a third of one; `opsjobs --version` needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo

OTHER_VERBS = {
    **dict.fromkeys(("create", "new", "register"), ("add", "apply", "upload")),
    **dict.fromkeys(("update", "change", "edit", "modify"), ("set", "apply", "rotate")),
    **dict.fromkeys(("delete", "remove", "del", "drop", "revoke"), ("rm",)),
    **dict.fromkeys(("get", "describe", "info"), ("show",)),
    **dict.fromkeys(("ls", "index"), ("list",)),
    "resend": ("redeliver",),
    # Jobs are written in files.
    "add": ("apply", "upload"),
    "set": ("apply", "rotate"),
}
"""Verbs of other programs, and the verbs here that mean the same, the first choice first."""


def load_module(module: str) -> Any:
    """Import a module of opsjobs and return it."""
    return import_module(module)


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command: the function, or the Typer group, `name` in `opsjobs.cli.<module>`."""

    module: str
    name: str
    help: str
    bare: bool = False


class Commands(TyperGroup):
    """A group whose commands are loaded one at a time.

    A subclass lists its commands in `entries`, in the order of the help.
    """

    entries: ClassVar[dict[str, LazyCommand]]

    def resolve_command(  # type: ignore[override]  # Typer has its own copy of click's Context
        self, ctx: typer.Context, args: list[str]
    ) -> Any:
        """Return the command that the first argument names.

        Suggests similar names itself, because Typer considers only loaded commands.
        """
        name = args[0] if args else ""
        unknown = name not in self.entries and not name.startswith("-")
        if (
            unknown
            and not ctx.resilient_parsing
            and (near := get_close_matches(name, self.entries))
        ):
            ctx.fail(f"No such command {name!r}. Did you mean {', '.join(map(repr, near))}?")
        return super().resolve_command(ctx, args)

    def list_commands(self, _: typer.Context) -> list[str]:  # type: ignore[override]  # its Context
        """Return the names of the commands."""
        return list(self.entries)

    def get_command(  # type: ignore[override]  # its Context
        self, _: typer.Context, cmd_name: str
    ) -> Any:
        """Return the command of this name, or None."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        found = getattr(load_module(f"opsjobs.cli.{entry.module}"), entry.name)
        command: Any
        if isinstance(found, typer.Typer):
            command = get_group_from_info(
                TyperInfo(found, name=cmd_name, cls=Verbs),
                pretty_exceptions_short=True,
                suggest_commands=True,
                rich_markup_mode=None,
            )
        else:
            info = CommandInfo(cmd_name, callback=found, no_args_is_help=entry.bare)
            command = get_command_from_info(
                info, pretty_exceptions_short=True, rich_markup_mode=None
            )
        _name_values(command)
        return command

    def format_commands(  # type: ignore[override]  # its Context
        self, _: typer.Context, formatter: Any
    ) -> None:
        """Write the list of commands without loading any of them."""
        room = formatter.width - 6 - max(map(len, self.entries))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _cut(entry.help, room)) for name, entry in self.entries.items()]
            )


class Verbs(TyperGroup):
    """The commands of one noun. An unknown verb gets the one that opsjobs has for its meaning."""

    def resolve_command(  # type: ignore[override]  # Typer has its own copy of click's Context
        self, ctx: typer.Context, args: list[str]
    ) -> Any:
        """Return the command that the first argument names."""
        name = args[0] if args else ""
        meant = [verb for verb in OTHER_VERBS.get(name, ()) if verb in self.commands]
        if meant and name not in self.commands and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}. Did you mean {meant[0]!r}?")
        return super().resolve_command(ctx, args)


def _name_values(command: Any) -> None:
    """Make the help name a value by its meaning, such as `--zone ZONE`, not its Python type."""
    for inner in getattr(command, "commands", {}).values():
        _name_values(inner)
    for parameter in command.params:
        value = parameter.type_descriptor
        if parameter.metavar is None and not value.is_choice and value.annotation is not bool:
            name = max(parameter.opts, key=len).lstrip("-").replace("-", "_").upper()
            parameter.metavar = "N" if value.annotation is int else name


def _cut(words: str, room: int) -> str:
    """Return the first whole words of at most `room` characters."""
    if len(words) <= room:
        return words
    return words[: room - 2].rpartition(" ")[0] + "..."
