"""`opsjobs safety`: check a command or a script, and list the rules."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from opsjobs.cli import input_files, options
from opsjobs.cli.client import Json, connect
from opsjobs.cli.exit_codes import ExitCode
from opsjobs.cli.render import Column, Form, plain, show_list, tell
from opsjobs.cli.terminal_escapes import escape_json

app = typer.Typer(
    help="Safety: check a command or a script, and list the rules.", no_args_is_help=True
)

BYTES_MAX = 256 << 10
_EXIT = {"block": ExitCode.NOT_ALLOWED, "needs_approval": ExitCode.NOT_SUCCEEDED}
RULES = (
    Column("rule", lambda r: r["name"]),
    Column("severity", lambda r: r["severity"]),
    Column("reason", lambda r: r["reason"]),
    Column("stricter", lambda r: ", ".join(f"{s['when']}: {s['severity']}" for s in r["stricter"])),
    Column("example", lambda r: r["example"], wide=True),
)


@app.command()
def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The command or script; - is standard input.")
    ] = "-",
    *,
    interpreter: Annotated[
        str,
        typer.Option(
            help="The interpreter: bash, sh, python, powershell, cmd, perl, node, or a path."
        ),
    ] = "bash",
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="A label of its targets. May be repeated."
        ),
    ] = None,
    become: Annotated[
        bool, typer.Option("--become", help="Check it as run with `become`.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole answer as JSON.")
    ] = False,
) -> None:
    """Check a command line or a script by the safety rules; nothing is run.

    Exit code 0 if the verdict is allow or warn, 3 if it needs an approval, 5 if it is blocked.
    """
    with connect() as client:
        body = {
            "interpreter": interpreter,
            "text": input_files.read_text(file, BYTES_MAX),
            "labels": label or [],
            "become": become,
        }
        answer = client.post("/safety/check", body)
    if as_json:
        print(escape_json(json.dumps(answer, ensure_ascii=False)))
    else:
        _print(answer)
    code = _EXIT.get(answer["verdict"])
    if code is not None:
        raise typer.Exit(code)


@app.command()
def rules(output: options.Output = Form.TABLE) -> None:
    """List the rules with their severity and reason."""
    with connect() as client:
        show_list(client.get("/safety/rules")["items"], RULES, output)


def _print(answer: Json) -> None:
    for finding in answer["findings"]:
        print(f"{finding['severity']}  {finding['rule']}: {finding['reason']}")
        if finding["excerpt"]:
            print(f"    {plain(finding['excerpt'])}")
    tell(f"verdict: {answer['verdict']}")
