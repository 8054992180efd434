"""The whole command: its nouns and verbs, and how every way of failing ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from opsjobs import __version__
from opsjobs.cli import (
    approvals,
    audit,
    calendars,
    circuits,
    credentials,
    dead_letters,
    executions,
    files,
    groups,
    importing_crontab,
    jobs,
    keys,
    login,
    processes,
    safety,
    schedules,
    status,
    targets,
    tokens,
    users,
)
from opsjobs.cli import run as ad_hoc
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.render import hush, tell
from opsjobs.model.failures import Failure

app = typer.Typer(
    name="opsjobs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"opsjobs {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Run jobs on many machines, agentless, over SSH.

    Try it: `opsjobs demo`. Stay: `opsjobs up --lab 12`, and in another terminal `opsjobs run 'hostname' -l lab=true`.
    """


app.command("demo")(processes.demo)
app.command("up")(processes.up)
app.command("run", no_args_is_help=True)(ad_hoc.run)
app.add_typer(jobs.app, name="jobs")
app.add_typer(executions.app, name="executions")
app.add_typer(schedules.app, name="schedules")
app.add_typer(importing_crontab.app, name="import")
app.add_typer(calendars.app, name="calendars")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(approvals.app, name="approvals")
app.add_typer(safety.app, name="safety")
app.add_typer(targets.app, name="targets")
app.add_typer(files.app, name="files")
app.add_typer(groups.app, name="groups")
app.add_typer(circuits.app, name="circuits")
app.add_typer(credentials.app, name="credentials")
app.add_typer(keys.app, name="keys")
app.add_typer(tokens.app, name="tokens")
app.add_typer(users.app, name="users")
app.command("login", no_args_is_help=True)(login.login)
app.command("logout")(login.logout)
app.add_typer(audit.app, name="audit")
app.command("status")(status.status)
app.add_typer(status.config, name="config")
app.command("api")(processes.api)
app.command("worker")(processes.worker)
app.command("scheduler")(processes.scheduler)
app.add_typer(processes.db, name="db")


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit code (exits.py). Errors that are ours are told on stderr; a bug is a traceback."""
    try:
        app(args=list(arguments), prog_name="opsjobs")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else Exit.OK if left.code is None else Exit.ERROR
    except Failure as failed:
        tell(f"opsjobs: {failed}")
        return failed.exit_code if isinstance(failed, CommandFailed) else Exit.ERROR
    except KeyboardInterrupt:
        tell("opsjobs: interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        hush()
        return Exit.ERROR
    return Exit.OK
