"""Rows of approvals: read them, publish their events, find the authors of an execution.

An execution that waits for an approval before it starts is written with a window of 0, and started
with the values that were withheld.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from opsjobs.model.access import Requester
from opsjobs.model.approval import (
    Approval,
    ApprovalKind,
    ApprovalStatus,
    ApprovalTerms,
    Author,
    Decision,
)
from opsjobs.model.errors import Conflict
from opsjobs.model.events import EventType
from opsjobs.store.ledger.admission import ADMIT
from opsjobs.store.ledger.advance import FIND_LOCK_CYCLE, GRANT_NAMES, REQUEST_NAMES
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
       a.kind, a.needed, a.roles, a.users, a.hash, s.job_name, s.summary, s.requested_by,
       s.requested_by_kind, s.labels, {_DECISIONS} as decisions
from approvals a join execution_specs s on s.execution_id = a.execution_id"""


async def load_approval(connection: Connection, approval_id: int) -> Approval:
    """Return an existing approval as this transaction sees it."""
    row = await (await connection.execute(f"{APPROVAL} where a.id = %s", [approval_id])).fetchone()
    assert row is not None
    return parse_approval(row)


def parse_approval(row: Mapping[str, Any]) -> Approval:
    """Return the approval of a row of APPROVAL."""
    columns = {
        **{name: row[name] for name in row if name not in ("labels", "requested_by_kind")},
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
    """Return the requester, with the fields that were stored."""
    return Requester(**stored) if stored is not None else Requester(name)


async def append_approval_event(
    connection: Connection, event: EventType, approval: Approval
) -> None:
    """Append the event of an approval to the outbox."""
    await append_event(
        connection, event, approval.uuid, approval.event_data(), shard=approval.execution_id
    )


_WROTE = load_statement(__file__, "authors")


async def load_authors(connection: Connection, execution_id: int) -> list[Author]:
    """Return all authors of the actions that an execution runs, at most 1,000."""
    return (await load_all_authors(connection, [execution_id]))[execution_id]


async def load_all_authors(
    connection: Connection, executions: Sequence[int]
) -> dict[int, list[Author]]:
    """Return the authors of the actions of each of these executions, as `load_authors`."""
    found: dict[int, list[Author]] = {execution: [] for execution in executions}
    rows = await connection.execute(_WROTE, {"executions": list(executions)})
    for row in await rows.fetchall():
        found[row["execution_id"]].append(_author(row))
    return found


def _author(row: Mapping[str, Any]) -> Author:
    return Author(Requester(**row["author"]), row["wrote"])


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """The approval that a launch requests."""

    terms: ApprovalTerms
    """The approvers, and the time until which they may decide."""
    hash: str
    """The hash of the actions and the targets."""
    salt: bytes
    """The salt of the hash."""


_REQUEST = """
insert into approvals (execution_id, action, kind, message, expires_at, needed, roles, users, hash,
                       salt, withheld)
values (%(execution)s, '', 'launch', %(message)s,
        opsjobs_now() + make_interval(secs => %(expires)s), %(needed)s,
        %(roles)s::text[], %(users)s::text[], %(hash)s, %(salt)s, %(withheld)s) returning id"""

_JOB = """
select j.name, j.state from job_executions e join jobs j on j.id = e.job_id where e.id = %s"""

# The deadline counts from now. An execution is watched if it would have been watched from its
# launch on (NewExecution.watched).
_BEGIN = """
with begun as (
  update job_executions e set status = 'queued', last_seq = e.last_seq + 1,
    "window" = (a.withheld ->> 'window')::int,
    deadline_at = t.now + make_interval(secs => (a.withheld ->> 'timeout')::float8),
    hold_until = t.now + make_interval(secs => (a.withheld ->> 'hold')::float8),
    watched = (a.withheld ->> 'watched')::boolean
  from approvals a cross join (select opsjobs_now() as now) t
  where e.id = %(execution)s and a.id = %(approval)s and a.execution_id = e.id
    and a.status = 'approved'
    and e.status = 'pending_approval' and not e.cancelling and e.finished_at is null
  returning e.id, e.uuid, e.log_day, e.last_seq
), logged as (
  insert into execution_log (log_day, execution_id, seq, event, body)
  select log_day, id, last_seq, 'status',
    jsonb_build_object('execution', id, 'status', 'queued', 'error', null) from begun
), published as (
  insert into events (shard, type, subject, execution_id) select id %% 16, 'execution.queued', uuid,
    id from begun
)
select b.id, a.withheld -> 'names' as names, (a.withheld ->> 'parent')::bigint as parent,
  s.triggered_by
from begun b join approvals a on a.id = %(approval)s
  join execution_specs s on s.execution_id = b.id"""


async def request_launch_approval(
    connection: Connection, execution_id: int, requested: PendingApproval, withheld: dict[str, Any]
) -> Approval:
    """Request the approval of a launch, in the launch's transaction.

    `withheld`: window, timeout, hold, watched, names and parent of the execution.
    """
    terms = requested.terms
    parameters = {
        "execution": execution_id,
        "message": terms.message,
        "expires": terms.expires_seconds,
        "needed": terms.needed,
        "roles": list(terms.roles),
        "users": list(terms.users),
        "hash": requested.hash,
        "salt": requested.salt,
        "withheld": Jsonb(withheld),
    }
    row = await (await connection.execute(_REQUEST, parameters)).fetchone()
    assert row is not None
    approval = await load_approval(connection, row["id"])
    await append_approval_event(connection, EventType.APPROVAL_REQUESTED, approval)
    return approval


async def start_approved_launch(connection: Connection, approval: Approval) -> None:
    """Queue an approved execution, under its lock, with its window, deadline and names.

    Raises Conflict if it cannot start, now or ever.
    """
    job = await (await connection.execute(_JOB, [approval.execution_id])).fetchone()
    if job is not None and job["state"] != "active":
        detail = f"Job {job['name']} is {job['state']}. Resume it, then approve."
        raise Conflict(f"job_is_{job['state']}", detail)
    named = {"execution": approval.execution_id, "approval": approval.id}
    begun = await (await connection.execute(_BEGIN, named)).fetchone()
    if begun is None:
        raise Conflict(
            "execution_ended",
            f"Execution {approval.execution_id} does not wait for its approval any more.",
        )
    if begun["names"]:
        await take_names(
            connection,
            begun["id"],
            begun["parent"],
            begun["names"],
            child=begun["triggered_by"] == "workflow",
        )
    await connection.execute(ADMIT, {"executions": [begun["id"]]})


async def take_names(
    connection: Connection,
    execution_id: int,
    parent: int | None,
    names: Sequence[str],
    *,
    child: bool,
) -> None:
    """Request the execution's exclusive names. Raises Conflict as `check_lock_cycle`."""
    await connection.execute(
        REQUEST_NAMES, {"id": execution_id, "parent": parent, "names": list(names)}
    )
    await connection.execute(GRANT_NAMES)
    if child:
        await check_lock_cycle(connection, execution_id)


async def check_lock_cycle(connection: Connection, execution_id: int) -> None:
    """Raise Conflict if the execution would wait for a name whose holder waits for it.

    The holder may wait for it directly or through others.
    """
    found = await (await connection.execute(FIND_LOCK_CYCLE, {"id": execution_id})).fetchone()
    if found is not None:
        detail = (
            f"The name {found['name']!r} is held by an execution that waits for a name of this "
            f"execution's parents: "
            "neither could ever continue. Let the outer job request all names that the inner jobs "
            "need."
        )
        raise Conflict("lock_cycle", detail)
