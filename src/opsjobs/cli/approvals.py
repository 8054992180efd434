"""`opsjobs approvals`: questions that stand in the way of executions, and their answers."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect, path_of
from opsjobs.cli.render import Column, Form, ago, show_list, tell
from opsjobs.model.approval import ApprovalStatus

app = typer.Typer(help="Approvals: what executions wait for, until somebody decides.", no_args_is_help=True)

Approval = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id or uuid.")]

COLUMNS = (
    Column("id", lambda a: a["id"]),
    Column("execution", lambda a: a["execution_id"]),
    Column("action", lambda a: a["action"]),
    Column("status", lambda a: a["status"]),
    Column("asked", lambda a: ago(a.get("asked_at"))),
    Column("expires", lambda a: a.get("expires_at")),
    Column("by", lambda a: a.get("decided_by")),
    Column("reason", lambda a: a.get("reason"), wide=True),
    Column("message", lambda a: a.get("message")),
)


@app.command("list")
def list_approvals(
    status: Annotated[ApprovalStatus | None, typer.Option(help="Only those with this status.")] = None,
    execution: Annotated[int | None, typer.Option(min=1, help="Only those of this execution.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List approvals, the newest first; `--status pending` are those that wait for somebody."""
    with connect() as client:
        found, more = client.items("/approvals", limit=limit, status=status, execution_id=execution)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def approve(approval: Approval, reason: options.Reason = None) -> None:
    """Approve: the targets that wait for it go on."""
    _decide(approval, "approve", reason)


@app.command()
def reject(approval: Approval, reason: options.Reason = None) -> None:
    """Reject: the targets that wait for it end cancelled."""
    _decide(approval, "reject", reason)


def _decide(approval: str, verb: str, reason: str | None) -> None:
    with connect() as client:
        decided = client.post(f"{path_of('approval', approval)}/{verb}", {"reason": reason} if reason else {})
    tell(f"approval {decided['id']} of execution {decided['execution_id']} is {decided['status']}")
