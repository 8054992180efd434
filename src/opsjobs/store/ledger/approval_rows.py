"""Read rows of approvals, publish their events, and find the authors of an execution."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opsjobs.model.approval import (
    Approval,
    ApprovalKind,
    ApprovalStatus,
    Author,
    Decision,
    Requester,
)
from opsjobs.model.events import EventType
from opsjobs.store.outbox import append_event
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

_DECISIONS = """
coalesce((select jsonb_agg(jsonb_build_object('by', d.decided_by, 'approve', d.approve, 'reason',
  d.reason, 'at', d.at,
                                              'overridden', d.overridden) order by d.at, d.person)
          from approval_decisions d where d.approval_id = a.id), '[]')"""

APPROVAL = f"""
select a.id, a.uuid, a.execution_id, a.action, a.message, a.status, a.asked_at, a.expires_at,
       a.decided_at, a.decided_by, a.reason,
       a.kind, a.needed, a.roles, a.users, a.hash, s.requested_by, s.labels,
       {_DECISIONS} as decisions
from approvals a join execution_specs s on s.execution_id = a.execution_id"""


async def load_approval(connection: Connection, approval_id: int) -> Approval:
    """Return an existing approval as this transaction sees it."""
    row = await (await connection.execute(f"{APPROVAL} where a.id = %s", [approval_id])).fetchone()
    assert row is not None
    return parse_approval(row)


def parse_approval(row: Mapping[str, Any]) -> Approval:
    """Return the approval of a row of APPROVAL."""
    columns = {
        **{name: value for name, value in row.items() if name != "labels"},
        "uuid": str(row["uuid"]),
        "kind": ApprovalKind(row["kind"]),
        "status": ApprovalStatus(row["status"]),
        "decisions": tuple(
            Decision(**{**decision, "at": datetime.fromisoformat(decision["at"])})
            for decision in row["decisions"]
        ),
    }
    return Approval(**columns)


def parse_requester(name: str, stored: Mapping[str, Any] | None) -> Requester:
    """Return the requester, as far as it was stored."""
    return Requester(**stored) if stored is not None else Requester(name)


async def append_approval_event(
    connection: Connection, event: EventType, approval: Approval
) -> None:
    """Append the event of an approval to the outbox."""
    await append_event(
        connection, event, approval.uuid, approval.data(), shard=approval.execution_id
    )


_WROTE = load_statement(__file__, "authors")


async def load_authors(connection: Connection, execution_id: int) -> list[Author]:
    """Return all authors of what an execution runs, at most 1,000."""
    rows = await (await connection.execute(_WROTE, {"execution": execution_id})).fetchall()
    return [_author(row) for row in rows]


def _author(row: Mapping[str, Any]) -> Author:
    return Author(Requester(**row["author"]), row["wrote"])
