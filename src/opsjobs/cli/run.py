"""`opsjobs run`: one command on many machines, now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
    become: Annotated[bool, typer.Option("--become", help="Run it as root, by way of sudo.")] = False,
    become_user: Annotated[str | None, typer.Option(metavar="USER", help="Run it as this user instead of root.")] = None,
    become_method: Annotated[Literal["sudo", "su", "doas"] | None, typer.Option(help="Take this instead of sudo.")] = None,
    become_credential: Annotated[
        str | None, typer.Option(metavar="NAME", help="The credential whose password sudo or su asks for (default: none).")
    ] = None,
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
      opsjobs run 'systemctl restart nginx' -t web-1,web-2 --become --parallel 1
    """  # noqa: D301  the backspace is click's mark: do not wrap what follows
    selected = options.selection(targets, groups, selector)
    if not selected:
        raise CommandFailed("on which targets? Name them with -t web-1,web-2, -g GROUP or -l env=prod.", Exit.USAGE)
    action = {
        "command": command,
        "timeout": options.duration("--timeout", timeout),
        "become": wish(become, user=become_user, method=become_method, credential=become_credential),
    }
    body = request(action, selected, parallel=parallel, reason=reason)
    with connect() as client:
        raise typer.Exit(launch(client, "/run", body, as_json=as_json, detach=detach))


def wish(become: bool, **how: str | None) -> dict[str, Any] | None:
    """The `become` of an action; saying how is asking for it."""
    told = _told(how)
    return told if become or told else None


def request(action: dict[str, Any], selected: dict[str, Any], *, parallel: int | None, reason: str | None) -> dict[str, Any]:
    """The body of POST /run."""
    body = {"policy": {"max_parallel": parallel} if parallel else None, "reason": reason}
    return {"actions": [{"type": "command", **_told(action)}], "targets": selected, **_told(body)}


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
