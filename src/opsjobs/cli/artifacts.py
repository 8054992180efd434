"""`opsjobs executions artifacts`: list files of an execution or save them to a folder.

Nothing is written outside of the folder, whatever the targets name their files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed
from opsjobs.cli.render import Column, Form, pluralize, show_list, size, tell

NAME_CHARACTERS_MAX = 200
_UNFIT = re.compile(r"[^\w.,+=@~ -]")
COLUMNS = (
    Column("id", lambda a: a["id"]),
    Column("target", lambda a: a["target"]["name"]),
    Column("path", lambda a: a["path"]),
    Column("size", lambda a: size(a["size"])),
    Column("action", lambda a: a["action_key"], wide=True),
    Column("sha256", lambda a: a["sha256"], wide=True),
)


def artifacts(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Save the files as FOLDER/TARGET/path."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("-t", "--target", help="Only files of this target. May be repeated."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List the files that an execution downloaded, or save them to a folder."""
    with connect() as client:
        path = f"{path_of('execution', execution)}/artifacts"
        found, more = client.items(path, limit=0 if to else limit, target_name=target)
        if to is None:
            show_list(found, COLUMNS, output, name="id")
            options.tell_more(more, limit)
            return
        for artifact in found:
            _fetch(client, to, artifact)
    tell(f"{pluralize(len(found), 'file')} in {to}")


def _fetch(client: Client, folder: Path, artifact: Json) -> None:
    parts = local_parts(str(artifact["target"]["name"]), str(artifact["path"]))
    try:
        write_below(folder, parts, client.raw(f"/artifacts/{artifact['id']}"))
    except OSError as error:
        raise CommandFailed(
            f"{folder.joinpath(*parts)} cannot be written: {error.strerror}."
        ) from None


def local_parts(target: str, path: str) -> list[str]:
    """Return the path of a target's file below the folder, without parts that leave it."""
    return [_fit(target), *(_fit(part) for part in path.split("/") if part not in ("", "."))]


def _fit(name: str) -> str:
    fit = _UNFIT.sub("_", name)[:NAME_CHARACTERS_MAX]
    return fit if fit.strip(".") else "_" * max(1, len(fit))


def write_below(folder: Path, parts: Sequence[str], pieces: Iterable[bytes]) -> None:
    """Write a file below the folder. Raises OSError.

    A symbolic link on the way, or in place of the file, is not followed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            if not _is_there(part, at):
                os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        made = os.open(
            parts[-1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644, dir_fd=at
        )
        with os.fdopen(made, "wb") as file:
            file.writelines(pieces)
    finally:
        os.close(at)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
