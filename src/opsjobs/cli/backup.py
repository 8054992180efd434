"""`opsjobs backup` and `opsjobs restore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from opsjobs import settings
from opsjobs.cli import inputs
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.lazy_commands import load_module
from opsjobs.cli.render import tell

DataDir = Annotated[
    Path | None, typer.Option(help="The data folder of `opsjobs up` (default: OPSJOBS_DATA_DIR).")
]


def backup(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder in which to put the backup.")
    ],
    data_dir: DataDir = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="The file to write the keys to (default: beside the backup)."),
    ] = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Put the keys into the backup itself.")
    ] = False,
    without_missing_keys: Annotated[
        bool,
        typer.Option(
            "--without-missing-keys",
            help="Back up even if a key is lost: what it encrypts cannot be read.",
        ),
    ] = False,
) -> None:
    """Back up the database, and its keys to a separate file.

    Works while the service runs, on the database of `opsjobs up` or of DATABASE_URL. The backup
    is read back and checked. Prints the backup's folder.
    """
    if keys is not None and with_keys:
        raise CommandFailed("--keys and --with-keys exclude each other.", ExitCode.USAGE)
    configured = settings.load()
    module = load_module("opsjobs.standalone.backup")
    order = module.BackupOrder(
        configured,
        _absolute(data_dir or configured.data_dir),
        _absolute(folder),
        _absolute(keys) if keys is not None else None,
        with_keys,
        without_missing_keys,
    )
    print(module.back_up(order, tell))


def restore(
    backup: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="The folder that `opsjobs backup` made.")
    ],
    data_dir: DataDir = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="The file with its keys (default: in it, beside it, or ENCRYPTION_KEYS)."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Move database and keys that are in the data folder aside; "
            "with DATABASE_URL, drop what an unfinished restore has loaded.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --replace.")] = False,
) -> None:
    """Restore a backup, with the service stopped.

    Into an empty data folder, or the empty database of DATABASE_URL. Nothing is started, and
    executions that had not ended are paused: what ran since the backup is not recorded.
    """
    configured = settings.load()
    module = load_module("opsjobs.standalone.restore")
    place = _absolute(data_dir or configured.data_dir)
    if replace:
        _confirm_replace(place, yes=yes, url=bool(configured.database.url))
    order = module.RestoreOrder(
        configured,
        place,
        _absolute(backup),
        _absolute(keys) if keys is not None else None,
        replace,
    )
    module.restore(order, tell)


def _absolute(path: Path) -> Path:
    return inputs.expand(path).absolute()


def _confirm_replace(place: Path, *, yes: bool, url: bool) -> None:
    if yes or not (url or load_module("opsjobs.standalone.data_dir").DataFolder(place).holdings):
        return
    doing = (
        "drop what an unfinished restore has loaded into the database of DATABASE_URL"
        if url
        else f"replace the database and the keys in {place}"
    )
    if not sys.stdin.isatty():
        raise CommandFailed(f"stdin is not a terminal: to {doing}, pass --yes.", ExitCode.USAGE)
    kept = "" if url else " They are moved aside, not deleted."
    question = f"{doing[0].upper()}{doing[1:]}?{kept}"
    if not typer.confirm(question, err=True):
        raise CommandFailed("nothing was restored; nothing was changed.")
