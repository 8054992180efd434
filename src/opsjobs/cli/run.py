"""`opsjobs run`: one command on many machines, now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.launching import launch


def run(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="One command line for the target's shell, in quotes.")],
    *,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Targets at a time (default: the service's).")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="How long the command may take, such as 30s.")] = None,
    reason: options.Reason = None,
    as_json: options.AsJson = False,
    detach: options.Detach = False,
) -> None:
    """Run a command on targets, live.

    Its stdout comes on stdout, its stderr and a summary on stderr. Exit code: 0 where all succeeded, 3 where not, 4 for an
    unknown target (then nothing has started), 124 on a timeout, 130 after Ctrl-C.

    \b
    Examples:
      opsjobs run 'uptime' -l env=prod
      opsjobs run 'systemctl restart nginx' -t web-1,web-2 --parallel 1
    """  # noqa: D301  the backspace is click's mark: do not wrap what follows
    selected = options.selection(targets, groups, selector)
    if not selected:
        raise CommandFailed("on which targets? Name them with -t web-1,web-2, -g GROUP or -l env=prod.", Exit.USAGE)
    body = request(command, selected, parallel=parallel, timeout=options.duration("--timeout", timeout), reason=reason)
    with connect() as client:
        raise typer.Exit(launch(client, "/run", body, as_json=as_json, detach=detach))


def request(
    command: str, selected: dict[str, Any], *, parallel: int | None, timeout: str | None, reason: str | None
) -> dict[str, Any]:
    """The body of POST /run."""
    action = {"type": "command", "command": command, "timeout": timeout}
    body = {"policy": {"max_parallel": parallel} if parallel else None, "reason": reason}
    return {
        "actions": [{key: value for key, value in action.items() if value is not None}],
        "targets": selected,
        **{key: value for key, value in body.items() if value is not None},
    }
