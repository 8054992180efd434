"""The `opsjobs` command: its groups, and its exit code for each kind of failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import typer

from opsjobs import __version__
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.lazy_commands import Commands, LazyCommand
from opsjobs.cli.messages import discard_stdout, plain, tell
from opsjobs.model.errors import Failure


class _All(Commands):
    """All commands."""

    entries: ClassVar[dict[str, LazyCommand]] = {
        "demo": LazyCommand(
            "server_commands", "demo", "Demonstrate opsjobs without any set-up, in under 15 s."
        ),
        "up": LazyCommand("server_commands", "up", "Run everything on this machine."),
        "run": LazyCommand("run", "run", "Run a command or a script on targets, live.", bare=True),
        "login": LazyCommand(
            "principals", "login", "Log in; later commands run as this user.", bare=True
        ),
        "logout": LazyCommand(
            "principals", "logout", "Log out: end the login at the service and delete it here."
        ),
        "console": LazyCommand(
            "console", "console", "Open the web console in your browser, logged in as you."
        ),
        "status": LazyCommand(
            "status", "status", "Show the state of the service: components, workers, queues."
        ),
        "logs": LazyCommand(
            "process_logs", "logs", "Show the logs of the processes of `up`, merged by time."
        ),
        "events": LazyCommand("events", "events", "Follow all events, live or after a place."),
        "stats": LazyCommand("status", "stats", "Show figures of the last hour, day and week."),
        "api": LazyCommand("server_commands", "api", "Serve the HTTP API."),
        "worker": LazyCommand(
            "server_commands", "worker", "Run a worker, which executes jobs on targets."
        ),
        "scheduler": LazyCommand(
            "server_commands",
            "scheduler",
            "Run the scheduler: fire due schedules, recover orphans.",
        ),
        "healthcheck": LazyCommand(
            "healthcheck", "healthcheck", "Check whether a process on this machine is healthy."
        ),
        "jobs": LazyCommand(
            "jobs", "app", "Jobs: list, show, run, validate, export and apply them."
        ),
        "executions": LazyCommand(
            "executions", "app", "Executions: list, show, follow, cancel and retry them."
        ),
        "schedules": LazyCommand(
            "schedules", "app", "Schedules: launch jobs at set times, and list past firings."
        ),
        "triggers": LazyCommand(
            "triggers", "app", "Triggers: URLs that launch a job, for GitHub, GitLab and others."
        ),
        "webhooks": LazyCommand("deliveries", "webhooks", "Webhooks: URLs that receive events."),
        "import": LazyCommand("importing_crontab", "app", "Import jobs from other schedulers."),
        "calendars": LazyCommand(
            "calendars", "app", "Calendars: times at which schedules do not fire."
        ),
        "dead-letters": LazyCommand(
            "dead_letters",
            "app",
            "Dead letters: runs that ended lost or dead.",
        ),
        "notifications": LazyCommand(
            "deliveries", "notifications", "Notifications: try channels, and list what was sent."
        ),
        "approvals": LazyCommand(
            "approvals", "app", "Approvals: list, show, approve and reject them."
        ),
        "safety": LazyCommand(
            "approvals", "safety", "Safety: check a command or a script, and list the rules."
        ),
        "targets": LazyCommand("targets", "app", "Targets: the machines, and their host keys."),
        "files": LazyCommand(
            "files", "app", "Files: upload and download the sources of file transfers."
        ),
        "groups": LazyCommand("targets", "groups", "Groups: named sets of targets."),
        "circuits": LazyCommand(
            "target_access", "circuits", "Circuits: logins that are paused after repeated failures."
        ),
        "credentials": LazyCommand(
            "credentials", "app", "Credentials: logins, and secrets of jobs."
        ),
        "keys": LazyCommand(
            "keys",
            "app",
            "Encryption keys: list, add, rotate and remove them.",
        ),
        "tokens": LazyCommand("principals", "tokens", "Tokens: add, list and remove API keys."),
        "users": LazyCommand(
            "principals", "users", "Users: people who can log in, and their roles."
        ),
        "services": LazyCommand(
            "principals",
            "services",
            "Services: programs that sign their own tokens, and their roles.",
        ),
        "audit": LazyCommand("audit", "app", "The audit log: list, verify and export it."),
        "config": LazyCommand(
            "status", "config", "Settings: show their values and origins, and check them."
        ),
        "backup": LazyCommand(
            "server_commands",
            "backup",
            "Back up the database, and its keys apart from it.",
            bare=True,
        ),
        "restore": LazyCommand(
            "server_commands", "restore", "Restore a backup, with the service stopped.", bare=True
        ),
        "db": LazyCommand("server_commands", "db", "The database schema: upgrade and check it."),
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run jobs on many machines, agentless, over SSH.

    To try it: `opsjobs demo`. To keep it: `opsjobs up --lab 12`, and in another terminal `opsjobs
    run 'hostname' -l lab=true`.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code (`exit_codes`).

    Expected errors are printed on stderr; a bug is a traceback.
    """
    try:
        app(args=list(arguments), prog_name="opsjobs")
    except SystemExit as ended:
        code = ExitCode.OK if ended.code is None else ended.code
        return code if isinstance(code, int) else ExitCode.ERROR
    except Failure as failed:
        tell(f"opsjobs: {failed}")
        return failed.exit_code if isinstance(failed, CommandFailed) else ExitCode.ERROR
    except KeyboardInterrupt:
        tell("opsjobs: interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return ExitCode.ERROR
    except OSError as failed:
        if failed.filename is None:
            raise
        tell(f"opsjobs: {plain(failed.filename)} cannot be used: {failed.strerror}.")
        return ExitCode.ERROR
    return ExitCode.OK
