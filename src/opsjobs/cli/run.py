"""`opsjobs run`: run a command or a script on targets now."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import inputs, options
from opsjobs.cli.client import Client, Json, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.launch import launch, show_preview
from opsjobs.model.program import SCRIPT_BYTES_MAX

Interpreter = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The interpreter of the script (default: by its #! line, its ending, else bash).",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeOptions:
    """Options that select the user as which a command runs."""

    become: Annotated[bool | None, typer.Option("--become", help="Run it as root, with sudo.")]
    become_user: Annotated[
        str | None, typer.Option(metavar="USER", help="Run it as this user instead of root.")
    ]
    become_method: Annotated[
        Literal["sudo", "su", "doas"] | None, typer.Option(help="Use this instead of sudo.")
    ]
    become_credential: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The credential with the password for sudo or su (default: none)."
        ),
    ]

    def as_body(self) -> dict[str, Any] | None:
        """Return the `become` of an action; a method, user or credential implies it."""
        how = _drop_none(
            {
                "user": self.become_user,
                "method": self.become_method,
                "credential": self.become_credential,
            }
        )
        return how if self.become or how else None


@options.spread(BecomeOptions, "becoming")
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help=(
                "One command line for the target's shell, in quotes; with --script, its arguments."
            ),
        ),
    ] = None,
    *,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    exclude: options.Exclude = None,
    script: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Run this script instead of a command; - is standard input."
        ),
    ] = None,
    interpreter: Interpreter = None,
    params: options.Params = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            metavar="NAME=VALUE",
            help="An environment variable of the command. May be repeated.",
        ),
    ] = None,
    cwd: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The working directory on the target (default: the home directory).",
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of targets at a time (default: the service's)."),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="The timeout of the command, such as 30s."),
    ] = None,
    becoming: BecomeOptions,
    dry_run: options.DryRun = False,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
    as_json: options.AsJson = False,
    raw: options.Raw = False,
    detach: options.Detach = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Run a command or a script on targets, live.

    Remote stdout goes to stdout; remote stderr and a summary go to stderr. Exit code: 0 if all
    targets succeeded, 3 if not, 4 for an unknown target (nothing is started), 7 after --wait-limit,
    124 on a timeout, 130 after Ctrl-C.

    \b
    Examples:
      opsjobs run 'uptime' -l env=prod
      opsjobs run 'systemctl restart nginx' -t web-1,web-2 --become --parallel 1
      opsjobs run --script clean.sh -g web -- --older-than 7d
      opsjobs run --script restart.ps1 -l os=windows
    """  # noqa: D301  the backspace is click's mark: do not wrap what follows
    if not (selected := options.selection(targets, groups, selector, exclude)):
        raise CommandFailed(options.NO_TARGETS, ExitCode.USAGE)
    action = {
        **build_program(words or [], script, interpreter),
        "env": options.pairs("--env", env) or None,
        "cwd": cwd,
        "timeout": options.duration("--timeout", timeout),
        "become": becoming.as_body(),
    }
    why = options.because(reason, override_safety)
    parameters = options.pairs("--param", params) or None
    with connect() as client:
        if script is not None and interpreter is None:
            action["interpreter"] = _fit_interpreter(
                client, script, action["interpreter"], selected
            )
        body = build_request(action, selected, parallel=parallel, parameters=parameters, **why)
        if dry_run:
            raise typer.Exit(show_preview(client, "/run", body, as_json=as_json))
        raise typer.Exit(
            launch(
                client, "/run", body, as_json=as_json, detach=detach, raw=raw, wait_limit=wait_limit
            )
        )


def build_program(words: list[str], script: str | None, interpreter: str | None) -> dict[str, Any]:
    """Return the command, or the script with its arguments.

    Raises CommandFailed if neither or both are given.
    """
    if script is None:
        if interpreter is not None:
            raise CommandFailed("--interpreter: only valid with --script FILE.", ExitCode.USAGE)
        if len(words) > 1:
            raise CommandFailed(
                f"COMMAND: {len(words)} words are given. Put the command in quotes, such as "
                f"opsjobs run {shlex.quote(' '.join(words))}",
                ExitCode.USAGE,
            )
        if not words:
            raise CommandFailed(
                "missing COMMAND or --script FILE. Give one COMMAND in quotes, or a script with "
                "its arguments.",
                ExitCode.USAGE,
            )
        return {"type": "command", "command": words[0]}
    body = inputs.read_bytes(script, SCRIPT_BYTES_MAX)
    return {
        "type": "script",
        "interpreter": interpreter or inputs.find_interpreter(script, body),
        **_text_of(body),
        "args": words,
    }


def _text_of(body: bytes) -> dict[str, str]:
    try:
        return {"script": body.decode()}
    except UnicodeDecodeError:
        return {"script_base64": base64.b64encode(body).decode()}


def _fit_interpreter(client: Client, name: str, interpreter: str, selected: Json) -> str:
    """Return the interpreter for the kind of the targets. Raises CommandFailed.

    Callers who may not read targets get what the file alone says.
    """
    if not inputs.depends_on_targets(name):
        return interpreter
    try:
        found = client.post("/targets/resolve", {"targets": selected}, limit=1)
    except CommandFailed as refused:
        if refused.exit_code is not ExitCode.NOT_ALLOWED:
            raise
        return interpreter
    return inputs.fit_interpreter(name, interpreter, found["platforms"])


def build_request(
    action: dict[str, Any], selected: dict[str, Any], *, parallel: int | None, **more: Any
) -> dict[str, Any]:
    """Return the body of POST /run."""
    body = {"policy": {"max_parallel": parallel} if parallel else None, **more}
    return {"actions": [_drop_none(action)], "targets": selected, **_drop_none(body)}


def _drop_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
