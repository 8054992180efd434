"""The whole command: its nouns and verbs, and how every way of failing ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import typer

from opsjobs import __version__
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.lazy_commands import Commands, LazyCommand
from opsjobs.cli.render import hush, tell
from opsjobs.model.errors import Failure


class _All(Commands):
    """All that there is."""

    entries: ClassVar[dict[str, LazyCommand]] = {
        "demo": LazyCommand("server_commands", "demo", "Show it all, without any set-up, in under 15 s."),
        "up": LazyCommand("server_commands", "up", "Run everything on this machine."),
        "run": LazyCommand("run", "run", "Run a command or a script on targets, live.", bare=True),
        "login": LazyCommand("login", "login", "Log in, so that commands speak as you.", bare=True),
        "logout": LazyCommand("login", "logout", "Log out: the login ends there, and is forgotten here."),
        "status": LazyCommand("status", "status", "Show how the service is: parts, workers, queues."),
        "api": LazyCommand("server_commands", "api", "Serve the HTTP API."),
        "worker": LazyCommand("server_commands", "worker", "Run jobs on targets."),
        "scheduler": LazyCommand(
            "server_commands",
            "scheduler",
            "Rescue what a lost bell or a dead worker left behind, and tell the world what happened.",
        ),
        "jobs": LazyCommand("jobs", "app", "Jobs: list, show, run, check, export and apply them."),
        "executions": LazyCommand("executions", "app", "Executions: what ran, what runs, what it said."),
        "schedules": LazyCommand(
            "schedules", "app", "Schedules: when jobs are launched by themselves, and what became of each moment."
        ),
        "import": LazyCommand("importing_crontab", "app", "Import what other programs run."),
        "calendars": LazyCommand("calendars", "app", "Calendars: when schedules that name them do not fire."),
        "dead-letters": LazyCommand(
            "dead_letters", "app", "Runs that ended lost or dead, until somebody revives or discards them."
        ),
        "approvals": LazyCommand("approvals", "app", "Approvals: what executions wait for, until somebody decides."),
        "safety": LazyCommand("safety", "app", "Safety: what the check says of a text, and by which rules."),
        "targets": LazyCommand("targets", "app", "Targets: the machines, and their host keys."),
        "files": LazyCommand("files", "app", "Files: what transfers bring to targets."),
        "groups": LazyCommand("groups", "app", "Groups: targets under one name."),
        "circuits": LazyCommand("circuits", "app", "Circuits: which logins are not tried now, and why."),
        "credentials": LazyCommand("credentials", "app", "Credentials: logins, whose secrets never come back out."),
        "keys": LazyCommand("keys", "app", "Encryption keys: list, make, rotate and drop the keys of ENCRYPTION_KEYS."),
        "tokens": LazyCommand("tokens", "app", "Tokens: make API keys for people and programs."),
        "users": LazyCommand("users", "app", "Users: people who can log in, and what they may."),
        "services": LazyCommand("services", "app", "Services: other programs that sign their own tokens, and what they may."),
        "audit": LazyCommand("audit", "app", "The audit log: who did what to what, and whether the record of it is whole."),
        "config": LazyCommand("status", "config", "Settings: what they are and where they come from."),
        "db": LazyCommand("server_commands", "db", "The database's schema: upgrade it, check it."),
    }


app = typer.Typer(
    name="opsjobs",
    cls=_All,
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


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit code (exits.py). Errors that are ours are told on stderr; a bug is a traceback."""
    try:
        app(args=list(arguments), prog_name="opsjobs")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else ExitCode.OK if left.code is None else ExitCode.ERROR
    except Failure as failed:
        tell(f"opsjobs: {failed}")
        return failed.exit_code if isinstance(failed, CommandFailed) else ExitCode.ERROR
    except KeyboardInterrupt:
        tell("opsjobs: interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        hush()
        return ExitCode.ERROR
    return ExitCode.OK
