"""Approvals: asked by the first run that comes to one, decided by a person or by time; who waits is woken, or ended."""

from __future__ import annotations

from typing import Any

from opsjobs.model.approval import Approval, ApprovalStatus
from opsjobs.model.events import EventType
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.failures import Conflict, NotFound
from opsjobs.store.journal import write_event
from opsjobs.store.ledger.admit import LOCK
from opsjobs.store.ledger.cancel import Ending, end_refused
from opsjobs.store.ledger.waking import wake_answered
from opsjobs.store.transaction import Connection, Database

COLUMNS = "id, uuid, execution_id, action, message, status, asked_at, expires_at, decided_at, decided_by, reason"

_ASK = f"""
insert into approvals (execution_id, action, message, expires_at)
values (%(execution)s, %(action)s, %(message)s, opsjobs_now() + make_interval(secs => %(expires)s))
on conflict (execution_id, action) do nothing returning {COLUMNS}"""
_ASKED = f"select {COLUMNS} from approvals where execution_id = %(execution)s and action = %(action)s"
_FIND = f"select {COLUMNS} from approvals where id = %s"
_DECIDE = f"""
update approvals set status = %(status)s, decided_at = opsjobs_now(), decided_by = %(by)s, reason = %(reason)s
where id = %(id)s and status = 'pending' returning {COLUMNS}"""
_EXPIRED = """
select id from approvals where status = 'pending' and expires_at <= (select opsjobs_now()) order by expires_at limit %s"""
_LEFT_OVER = """
update approvals a set status = 'cancelled', decided_at = opsjobs_now(), reason = 'the execution has ended'
from job_executions e where a.status = 'pending' and e.id = a.execution_id and e.finished_at is not null returning a.id"""


async def ask_approval(
    database: Database, execution_id: int, action: str, message: str, expires_seconds: float | None
) -> Approval:
    """The approval of this action in this execution: asked now, or as it stands since it was asked."""
    asked = {"execution": execution_id, "action": action, "message": message, "expires": expires_seconds}
    async with database.transaction() as connection:
        row = await (await connection.execute(_ASK, asked)).fetchone()
        if row is not None:
            approval = approval_of(row)
            await _tell(connection, EventType.APPROVAL_REQUESTED, approval)
            return approval
        row = await (await connection.execute(_ASKED, asked)).fetchone()
    assert row is not None
    return approval_of(row)


async def decide(database: Database, approval_id: int, *, approve: bool, by: str, reason: str | None) -> Approval:
    """Approve or reject; runs that wait for it go on, or end cancelled. Raises NotFound, and Conflict where it is decided."""
    status = ApprovalStatus.APPROVED if approve else ApprovalStatus.REJECTED
    return await _settle(database, approval_id, status, by, reason)


async def expire(database: Database, limit: int) -> int:
    """Close what nobody decided in time, and what its execution did not wait for; says how many there were."""
    left_over = await database.fetch(_LEFT_OVER)
    due = await database.fetch(_EXPIRED, [limit])
    for row in due:
        try:
            await _settle(database, row["id"], ApprovalStatus.EXPIRED, None, "nobody decided in time")
        except Conflict:
            continue  # somebody did, at the last moment
    return len(left_over) + len(due)


async def _settle(database: Database, approval_id: int, status: ApprovalStatus, by: str | None, reason: str | None) -> Approval:
    found = await database.fetch_one(_FIND, [approval_id])
    if found is None:
        raise NotFound.of("approval", approval_id)
    decision = {"id": approval_id, "status": status.value, "by": by, "reason": reason}
    async with database.transaction() as connection:
        await connection.execute(LOCK, {"executions": [found["execution_id"]]})
        row = await (await connection.execute(_DECIDE, decision)).fetchone()
        if row is None:
            raise Conflict("approval_decided", f"Approval {approval_id} is decided already: see how in GET /approvals.")
        approval = approval_of(row)
        await _tell(connection, EventType.APPROVAL_DECIDED, approval)
    await database.repeat(lambda: _answer(database, approval))
    return approval


async def _answer(database: Database, approval: Approval) -> None:
    """What follows of it. Should this process die first, the reconciler wakes who waits, and the runs see the answer."""
    if approval.status is not ApprovalStatus.APPROVED:
        await end_refused(database, approval.execution_id, _refusal(approval), approval.action)
    await wake_answered(database, [approval.execution_id])


def _refusal(approval: Approval) -> Ending:
    who = f"by {approval.decided_by}" if approval.decided_by else "without a decision"
    why = f": {approval.reason}" if approval.reason else ""
    words = f"the approval {approval.action!r} was {approval.status.value} {who}{why}"
    return Ending(RunStatus.CANCELLED, ErrorCode.CANCELLED, words[:4_000])


async def _tell(connection: Connection, event: EventType, approval: Approval) -> None:
    await write_event(connection, event, approval.uuid, approval.data(), shard=approval.execution_id)


def approval_of(row: dict[str, Any]) -> Approval:
    """From a row with its COLUMNS."""
    return Approval(**{**row, "uuid": str(row["uuid"]), "status": ApprovalStatus(row["status"])})
