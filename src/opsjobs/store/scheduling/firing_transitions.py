"""Transitions of pending firings: triggered, ended otherwise, deferred.

Each is guarded by the mark of its claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringRule, FiringStatus
from opsjobs.store.scheduling.due_firings import ReadyFiring, event_data, event_type_of
from opsjobs.store.storable import storable
from opsjobs.store.transaction import Connection

REASON_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class FiringEnd:
    """The end of a firing that is not launched."""

    ready: ReadyFiring
    status: FiringStatus
    rule: FiringRule
    reason: str
    pauses: bool = False
    """True if no firing of its schedule can be launched until another owner takes it over."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """A firing that waits."""

    ready: ReadyFiring
    seconds: float
    """The time that it waits."""
    reason: str | None
    """The reason, until it is launched."""
    awaits: int | None = None
    """The execution whose end it waits for."""


@dataclass(frozen=True, slots=True)
class LaunchedFiring:
    """A firing that has become an execution."""

    ready: ReadyFiring
    execution_id: int
    execution_uuid: UUID
    at: datetime
    """The time of the launch."""

    @property
    def late_ms(self) -> int:
        """The delay of the launch after its due time, in milliseconds."""
        return int((self.at - self.ready.fire_at).total_seconds() * 1000)


_SETTLE = """
with settled as (
  update schedule_executions f set status = m.status, rule = m.rule, reason = m.reason,
    fired_at = t.now, not_before = null,
    expires_at = null, awaits = null, late_ms = extract(epoch from t.now - f.fire_at) * 1000
  from unnest(%(firings)s::bigint[], %(attempts)s::int[], %(statuses)s::text[], %(rules)s::text[],
              %(reasons)s::text[])
    as m(id, attempts, status, rule, reason) cross join (select opsjobs_now() as now) t
  where f.id = m.id and f.attempts = m.attempts and f.status = 'pending'
  returning f.id, f.schedule_id
), published as (
  insert into events (shard, type, subject, data)
  select s.schedule_id %% 16, e.type, e.subject, e.data
  from unnest(%(firings)s::bigint[], %(types)s::text[], %(subjects)s::uuid[], %(data)s::jsonb[])
    with ordinality
    as e(id, type, subject, data, nth) join settled s using (id) order by e.nth
)
select id from settled"""

_DEFER = """
update schedule_executions f set not_before = opsjobs_now() + make_interval(secs => m.seconds),
  reason = m.reason,
  awaits = m.awaits
from unnest(%(firings)s::bigint[], %(attempts)s::int[], %(seconds)s::float8[], %(reasons)s::text[],
            %(awaits)s::bigint[])
  as m(id, attempts, seconds, reason, awaits)
where f.id = m.id and f.attempts = m.attempts and f.status = 'pending'"""

# A schedule that has used up max_firings is not due again.
_TRIGGER = """
with moved as (
  update schedule_executions f set status = 'triggered', execution_id = m.execution, rule = null,
    reason = m.reason,
    fired_at = m.at, late_ms = m.late, not_before = null, expires_at = null, awaits = null
  from unnest(%(firings)s::bigint[], %(executions)s::bigint[], %(reasons)s::text[],
              %(at)s::timestamptz[], %(late)s::bigint[])
    as m(id, execution, reason, at, late)
  where f.id = m.id and f.status = 'pending' returning f.id, f.schedule_id
), counted as (
  select schedule_id, count(*) as n from moved group by 1
), published as (
  insert into events (shard, type, subject, data)
  select s.schedule_id %% 16, 'schedule.triggered', e.subject, e.data
  from unnest(%(firings)s::bigint[], %(subjects)s::uuid[], %(data)s::jsonb[]) with
    ordinality as e(id, subject, data, nth)
  join moved s using (id) order by e.nth
)
update job_schedules s set firings = s.firings + c.n,
  next_due_at = case when used.up then null else s.next_due_at end,
  next_fire_at = case when used.up then null else s.next_fire_at end
from counted c cross join lateral (
  select (s.firings + c.n >= (s.definition ->> 'max_firings')::bigint) is true as up
  from job_schedules s where s.id = c.schedule_id
) used
where s.id = c.schedule_id"""


async def settle(connection: Connection, ended: Sequence[FiringEnd]) -> int:
    """End these firings, if they still belong to the caller; return how many did."""
    if not ended:
        return 0
    rows = await connection.execute(
        _SETTLE,
        {
            **_claim_parameters([move.ready for move in ended]),
            "statuses": [move.status.value for move in ended],
            "rules": [move.rule.value for move in ended],
            "reasons": [_cut(move.reason) for move in ended],
            "types": [event_type_of(move.status).value for move in ended],
            "subjects": [move.ready.schedule.uuid for move in ended],
            "data": [event_data(move.ready.schedule, _end_data(move)) for move in ended],
        },
    )
    return len(await rows.fetchall())


async def defer(connection: Connection, waiting: Sequence[Deferral]) -> None:
    """Let these firings wait, if they still belong to the caller."""
    if not waiting:
        return
    await connection.execute(
        _DEFER,
        {
            **_claim_parameters([one.ready for one in waiting]),
            "seconds": [one.seconds for one in waiting],
            "reasons": [None if one.reason is None else _cut(one.reason) for one in waiting],
            "awaits": [one.awaits for one in waiting],
        },
    )


async def trigger(connection: Connection, launched: Sequence[LaunchedFiring]) -> None:
    """Record that these pending firings, locked by the caller, have become executions."""
    if not launched:
        return
    readies = [ran.ready for ran in launched]
    await connection.execute(
        _TRIGGER,
        {
            **_claim_parameters(readies),
            "executions": [ran.execution_id for ran in launched],
            "reasons": [
                "it was missed, and is caught up" if ready.catch_up else None for ready in readies
            ],
            "at": [ran.at for ran in launched],
            "late": [ran.late_ms for ran in launched],
            "subjects": [ready.schedule.uuid for ready in readies],
            "data": [event_data(ran.ready.schedule, _launch_data(ran)) for ran in launched],
        },
    )


def _claim_parameters(readies: Sequence[ReadyFiring]) -> dict[str, Any]:
    return {
        "firings": [ready.id for ready in readies],
        "attempts": [ready.attempts for ready in readies],
    }


def _end_data(move: FiringEnd) -> dict[str, Any]:
    return {
        "id": move.ready.id,
        "due_at": moment(move.ready.due_at),
        "status": move.status.value,
        "rule": move.rule.value,
        "reason": _cut(move.reason),
        "execution_id": None,
        "moments": 1,
    }


def _launch_data(ran: LaunchedFiring) -> dict[str, Any]:
    return {
        "id": ran.ready.id,
        "due_at": moment(ran.ready.due_at),
        "status": FiringStatus.TRIGGERED.value,
        "execution_id": ran.execution_id,
        "execution_uuid": str(ran.execution_uuid),
        "fired_at": moment(ran.at),
        "late_ms": ran.late_ms,
        "moments": 1,
    }


def _cut(text: str) -> str:
    # A refusal may quote user input.
    return storable(text, REASON_CHARACTERS_MAX)
