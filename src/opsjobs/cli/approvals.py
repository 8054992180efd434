"""`opsjobs approvals` and `opsjobs safety`: pending decisions, and the reasons for them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from opsjobs.cli import inputs, options
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.errors import ExitCode
from opsjobs.cli.inputs import find_interpreter
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, ago, shorten, show_list, show_one
from opsjobs.cli.terminal_escapes import escape_json
from opsjobs.model.action import DRAFT_TYPES
from opsjobs.model.approval import ApprovalStatus
from opsjobs.model.policy import Policy

app = typer.Typer(help="Approvals: list, show, approve and reject them.", no_args_is_help=True)

Approval = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id or uuid.")]

Hash = Annotated[
    str | None,
    typer.Option(
        "--hash",
        metavar="HASH",
        help="The hash that `show` printed; refused if the request has changed since then.",
    ),
]

NAMES_SHOWN = 20
COLUMNS = (
    Column("id", lambda a: a["id"]),
    Column("execution", lambda a: a["execution_id"]),
    Column("job", lambda a: a["job_name"]),
    Column("summary", lambda a: shorten(a.get("summary")), sparse=True),
    Column("for", lambda a: a["action"] or "the launch"),
    Column("status", lambda a: a["status"]),
    Column("requested", lambda a: ago(a.get("asked_at"))),
    Column("expires", lambda a: a.get("expires_at")),
    Column("requested by", lambda a: a.get("requested_by")),
    Column("decided by", lambda a: a.get("decided_by")),
    Column("reason", lambda a: a.get("reason"), wide=True),
    Column("message", lambda a: a.get("message")),
)


@app.command("list")
def list_approvals(
    status: Annotated[
        ApprovalStatus | None, typer.Option(help="Only those with this status.")
    ] = None,
    execution: Annotated[
        int | None, typer.Option(min=1, help="Only those of this execution.")
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List approvals, newest first. `--status pending` lists those that need a decision."""
    with connect() as client:
        found, more = client.items("/approvals", limit=limit, status=status, execution_id=execution)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def show(approval: Approval, output: options.Output = Form.TABLE) -> None:
    """Show an approval: what would run where, its hash, and its decisions."""
    with connect() as client:
        found = client.get(path_of("approval", approval))
    if output is not Form.TABLE:
        show_one(found, output, name="id")
        return
    would = found["would_run"]
    lines = [
        f"approval {found['id']} of execution {found['execution_id']}: {found['status']}",
        f"job       {would['job_name']}",
        *([f"summary   {would['summary']}"] if would.get("summary") else []),
        f"requester {found['requested_by']}: {found['message']}",
        *(
            f"author    {author['wrote']}: {author['name']}"
            for author in would.get("authors") or ()
        ),
        (
            f"approvers {found['approvers']}{_render_approvers(found)}, until "
            f"{found['expires_at'] or 'its execution ends'}"
        ),
        f"safety    {would['verdict'] or 'not checked'}",
        *(
            f"          {finding['rule']} ({finding['severity']}): {finding['reason']}"
            for finding in would["findings"]
        ),
        f"targets   {pluralize(would['total_targets'], 'target')}: {_names(would)}",
        *(f"parameter {name} = {value}" for name, value in would["parameters"].items()),
        *(f"action    {line}" for action in would["actions"] for line in action_lines(action)),
        *(f"policy    {line}" for line in policy_lines(would["policy"])),
        f"hash      {found['hash']}",
        *(f"decision  {_decision(decision)}" for decision in found["decisions"]),
    ]
    print("\n".join(plain(line) for line in lines))


@app.command()
def approve(
    approval: Approval,
    reason: options.Reason = None,
    seen: Hash = None,
    override_safety: options.OverrideSafety = None,
) -> None:
    """Approve. The execution continues once the required number of people have approved."""
    _decide(
        approval,
        "approve",
        {**options.because(reason, override_safety), **({"hash": seen} if seen else {})},
    )


@app.command()
def reject(approval: Approval, reason: options.Reason = None, seen: Hash = None) -> None:
    """Reject. Waiting targets end cancelled; an execution that has not started ends rejected."""
    _decide(
        approval, "reject", {**options.because(reason, None), **({"hash": seen} if seen else {})}
    )


def _decide(approval: str, verb: str, body: Json) -> None:
    with connect() as client:
        decided = client.post(f"{path_of('approval', approval)}/{verb}", body)
    approved = sum(decision["approve"] for decision in decided.get("decisions") or ())
    more = (
        f": {approved} of {decided['approvers']} have approved"
        if decided["status"] == ApprovalStatus.PENDING
        else ""
    )
    tell(
        f"approval {decided['id']} of execution {decided['execution_id']} is "
        f"{decided['status']}{more}"
    )


def _render_approvers(found: Json) -> str:
    who = [*(f"the role {role}" for role in found["roles"]), *found["users"]]
    return f" (of {', '.join(who)})" if who else ""


def _names(would: Json) -> str:
    names = [f"{target['name']} ({target['host']})" for target in would["targets"][:NAMES_SHOWN]]
    more = would["total_targets"] - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _decision(decision: Json) -> str:
    verb = "approved" if decision["approve"] else "rejected"
    how = ", by override" if decision.get("overridden") else ""
    return (
        f"{decision['by']} {verb}{how}{': ' + decision['reason'] if decision.get('reason') else ''}"
    )


# Fields in the first line.
_HEADLINE = ("key", "type", "command", "job")
_NOTHING: tuple[object, ...] = (None, "", [], {})


def action_lines(action: Mapping[str, Any]) -> list[str]:
    """Return the lines of one action: its key, its command or job, and non-default fields."""
    kind = str(
        action.get("type")
        or ("script" if "script" in action or "script_base64" in action else "command")
    )
    what = action.get("command") or action.get("job")
    if kind != "command":
        what = f"{kind} {what}" if what else kind
    head = f"{action['key']}: {what}"
    first, *more = head.split("\n")
    defaults = _defaults(DRAFT_TYPES[kind]) if kind in DRAFT_TYPES else {}
    fields = {name: value for name, value in action.items() if name not in _HEADLINE}
    # The interpreter is always shown, even the default: the effect of a script depends on it.
    always = {name: None for name in defaults if name != "interpreter"}
    shown = {
        name: value
        for name, value in fields.items()
        if name not in always or value != defaults[name]
    }
    return [first, *(f"  {line}" for line in [*more, *_field_lines(shown)])]


def policy_lines(policy: Mapping[str, Any]) -> list[str]:
    """Return the lines of the fields of an execution's policy that are not their defaults."""
    defaults = _defaults(Policy)
    return list(
        _field_lines(
            {
                name: value
                for name, value in policy.items()
                if name not in defaults or value != defaults[name]
            }
        )
    )


def _field_lines(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value in _NOTHING:
            continue
        text = _decoded(value) if name == "script_base64" else _render_value(value)
        if "\n" not in text:
            yield f"{name}: {text}"
            continue
        yield f"{name}:"
        yield from (f"  {line}" for line in text.removesuffix("\n").split("\n"))


def _render_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _decoded(text: str) -> str:
    """Return the script behind base64; for binary data, its size and digest."""
    data = base64.b64decode(text)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return (
            f"{len(data)} bytes of binary data, SHA-256 {hashlib.sha256(data).hexdigest()}: "
            "read them with -o json"
        )


@cache
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of an action type, as they look in an API response."""
    made = kind.model_construct()
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    return {
        name: value
        for name, value in made.model_dump(mode="json", warnings=False).items()
        if name not in required
    }


# --- safety


safety = typer.Typer(
    help="Safety: check a command or a script, and list the rules.", no_args_is_help=True
)

SAFETY_BYTES_MAX = 256 << 10
_EXIT_OF_VERDICT = {"block": ExitCode.NOT_ALLOWED, "needs_approval": ExitCode.NOT_SUCCEEDED}
RULES = (
    Column("rule", lambda r: r["name"]),
    Column("severity", lambda r: r["severity"]),
    Column("reason", lambda r: r["reason"]),
    Column("stricter", lambda r: ", ".join(f"{s['when']}: {s['severity']}" for s in r["stricter"])),
    Column("example", lambda r: r["example"], wide=True),
)


@safety.command("check")
def check_safety(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The command or script; - is standard input.")
    ] = "-",
    *,
    interpreter: Annotated[
        str | None,
        typer.Option(
            help="bash, sh, python, powershell, cmd, perl, node, or a path (default: by its #! "
            "line, its ending, else bash)."
        ),
    ] = None,
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
    text = inputs.read_text(file, SAFETY_BYTES_MAX)
    with connect() as client:
        body = {
            "interpreter": interpreter or find_interpreter(file, text.encode()),
            "text": text,
            "labels": label or [],
            "become": become,
        }
        answer = client.post("/safety/check", body)
    if as_json:
        print(escape_json(json.dumps(answer, ensure_ascii=False)))
    else:
        _print_findings(answer)
    code = _EXIT_OF_VERDICT.get(answer["verdict"])
    if code is not None:
        raise typer.Exit(code)


@safety.command("rules")
def list_rules(output: options.Output = Form.TABLE) -> None:
    """List the rules with their severity and reason."""
    with connect() as client:
        show_list(client.get("/safety/rules")["items"], RULES, output)


def _print_findings(answer: Json) -> None:
    for finding in answer["findings"]:
        print(f"{finding['severity']}  {finding['rule']}: {finding['reason']}")
        if finding["excerpt"]:
            print(f"    {plain(finding['excerpt'])}")
    tell(f"verdict: {answer['verdict']}")
