"""`opsjobs approvals`: list approval requests and decide on them."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.approval_view import action_lines, policy_lines
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.render import Column, Form, ago, plain, pluralize, show_list, show_one, tell
from opsjobs.model.approval import ApprovalStatus

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
