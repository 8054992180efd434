"""Commands of the service: run its processes, look after its database.

These are up, demo, api, worker, scheduler, db, backup and restore. The server's libraries are
imported when a command is called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from opsjobs import settings
from opsjobs.cli import inputs
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.lazy_commands import load_module
from opsjobs.cli.messages import tell

db = typer.Typer(help="The database schema: upgrade and check it.", no_args_is_help=True)


def up(
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder (default: OPSJOBS_DATA_DIR).")
    ] = None,
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Port to listen on (default: 8003); 0 takes a free one."
        ),
    ] = None,
    lab: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000,
            help="The number of SSH servers to start on loopback as targets, labelled lab=true.",
        ),
    ] = 0,
    lab_windows: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000,
            help=(
                "The number of stand-ins of Windows hosts to start on loopback as targets, "
                "labelled os=windows-like. They speak WinRM, and run commands in /bin/sh."
            ),
        ),
    ] = 0,
    worker_processes: Annotated[
        int, typer.Option(min=1, max=64, help="The number of worker processes.")
    ] = 1,
) -> None:
    """Run everything on this machine.

    PostgreSQL, Valkey, API, worker and scheduler, supervised, until Ctrl-C. Its data survives
    Ctrl-C and kill -9. DATABASE_URL and REDIS_URL replace the embedded servers.
    """
    configured = settings.load()
    module = load_module("opsjobs.standalone.up")
    chosen = module.StackOptions(
        data_dir=inputs.expand(data_dir or configured.data_dir).absolute(),
        host=host or configured.api.host,
        port=configured.api.port if port is None else port,
        lab=lab,
        lab_windows=lab_windows,
        worker_processes=worker_processes,
    )
    raise typer.Exit(module.up(chosen, _login_url if sys.stdout.isatty() else None))


def _login_url(stack: Any) -> str:
    """Return the address of the console of this stack, with a code for its administrator."""
    endpoint = ServiceEndpoint(stack.url, stack.token, local=True, data_dir=stack.options.data_dir)
    with load_module("opsjobs.cli.client").Client(endpoint) as client:
        url: str = load_module("opsjobs.cli.console").login_url(client)
    return url


def demo(
    targets: Annotated[int, typer.Option(min=1, max=200, help="The number of lab machines.")] = 12,
    windows: Annotated[
        int,
        typer.Option(min=0, max=200, help="The number of stand-ins of Windows hosts in addition."),
    ] = 1,
) -> None:
    """Demonstrate opsjobs without any set-up, in under 15 s.

    Starts a stack in a temporary folder and a lab of real SSH servers on this machine, and runs a
    job on all of them, live. Then it runs a PowerShell script over WinRM, on a stand-in of a
    Windows host.
    """
    raise typer.Exit(_call("opsjobs.cli.demo", "show", targets, windows))


def api(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default: OPSJOBS_API_HOST).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port to listen on (default: OPSJOBS_API_PORT)."),
    ] = None,
) -> None:
    """Serve the HTTP API."""
    configured = settings.for_service(settings.load())
    given = _drop_none(host=host or None, port=port)
    chosen = configured.model_copy(update={"api": configured.api.model_copy(update=given)})
    raise typer.Exit(_call("opsjobs.api.app", "serve", chosen))


def worker(
    zone: Annotated[
        str | None, typer.Option(help="Serve this zone's targets (default: OPSJOBS_ZONE).")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="Target runs at a time (default: OPSJOBS_CONCURRENCY)."
        ),
    ] = None,
) -> None:
    """Run a worker, which executes jobs on targets."""
    configured = settings.for_service(settings.load())
    given = _drop_none(zone=zone or None, concurrency=concurrency)
    chosen = configured.model_copy(update={"worker": configured.worker.model_copy(update=given)})
    raise typer.Exit(_call("opsjobs.composition.worker", "run", chosen))


def scheduler() -> None:
    """Run the scheduler: fire due schedules, recover orphaned runs, publish events."""
    raise typer.Exit(
        _call("opsjobs.composition.scheduler", "run", settings.for_service(settings.load()))
    )


@db.command()
def upgrade() -> None:
    """Upgrade the database to the schema of this release.

    Safe to repeat and to run concurrently. Needs ENCRYPTION_KEYS, as the processes have them, to
    sign the beginning of the audit log.
    """
    keys = settings.load().security.encryption_keys
    state = _call("opsjobs.store.migrations.runner", "upgrade", _database_url(), keys)
    tell(f"the database is at revision {state.current}")


@db.command()
def check() -> None:
    """Check the schema of the database and the rights on it. Exit code 1 if one is wrong.

    Its version and encoding are checked as well.
    """
    complaints = _call("opsjobs.store.migrations.runner", "inspect", _database_url())
    if complaints:
        raise CommandFailed("\n".join(complaint.detail for complaint in complaints))
    state = _call("opsjobs.store.migrations.runner", "check", _database_url())
    if not state.up_to_date:
        raise CommandFailed(
            f"the database is at revision {state.current or '(none)'}, this release needs "
            f"{state.head}: run `opsjobs db upgrade`."
        )
    tell(f"the database is at revision {state.current}, as this release needs")


def _database_url() -> str:
    url = settings.load().database.url
    if not url:
        raise CommandFailed(
            "DATABASE_URL is not set: write postgresql://USER@HOST/NAME.", ExitCode.USAGE
        )
    return url


def _call(module: str, function: str, *arguments: object) -> Any:
    return getattr(load_module(module), function)(*arguments)


def _drop_none(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


# --- backup and restore


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
