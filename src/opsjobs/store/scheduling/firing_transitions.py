"""Transitions of pending firings: launched, triggered, ended otherwise, deferred.

Each is guarded by the mark of its claim. A launch turns firings into executions in one transaction,
and only those that their schedules still allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringRule, FiringStatus, paused_words
from opsjobs.store.ledger.launch import NewExecution, launch
from opsjobs.store.ledger.launch_many import is_plain, launch_many
from opsjobs.store.scheduling.due_firings import ReadyFiring, event_data, event_type_of
from opsjobs.store.statements import storable
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
    """True if no firing of its schedule can be launched until the schedule has another owner."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """A firing whose launch is deferred."""

    ready: ReadyFiring
    seconds: float
    """The duration of the deferral."""
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
    """Defer these firings, if they still belong to the caller."""
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
    # The message of a refusal may quote user input.
    return storable(text, REASON_CHARACTERS_MAX)


RETRY_SECONDS = 0.0
WAITING_REASON = "execution {} of the schedule has not ended"


@dataclass(frozen=True, slots=True)
class FiringLaunch:
    """A firing, and the execution to make of it."""

    ready: ReadyFiring
    new: NewExecution


@dataclass(frozen=True, slots=True)
class CancelPrevious:
    """A firing whose schedule requires that earlier executions are cancelled first."""

    ready: ReadyFiring
    executions: Sequence[int]


# Schedules before jobs, jobs before executions, each by id: the order of every transaction that
# locks several of them.
_LOCK = """
select id, job_id, version, enabled, paused_reason, firings, definition ->> 'overlap' as overlap,
       deleted_at is not null as deleted,
       (definition ->> 'max_firings')::bigint as max_firings
from job_schedules where id = any(%(schedules)s) order by id for no key update"""
_LOCK_FIRINGS = """
select f.id from schedule_executions f join unnest(%(firings)s::bigint[], %(attempts)s::int[])
  as m(id, attempts) using (id, attempts)
where f.status = 'pending' order by f.id for update of f"""
_MARK_OVER = """
update schedule_executions f set over = true
where f.schedule_id = any(%(schedules)s) and f.status = 'triggered' and not f.over
  and not exists (select from job_executions e where e.id = f.execution_id
                  and e.finished_at is null)"""
_OPEN = """
select f.schedule_id, array_agg(f.execution_id order by f.execution_id) as executions
from schedule_executions f
where f.schedule_id = any(%(schedules)s) and f.status = 'triggered' and not f.over
  and f.execution_id is not null group by 1"""
_LAUNCHED = "select id, uuid, created_at from job_executions where uuid = any(%(uuids)s)"
_LOCK_JOBS = (
    "select id, name, state from jobs where id = any(%(jobs)s) order by id for no key update"
)

_JOB_RULES = {
    "archived": (FiringRule.JOB_DELETED, "its job was deleted"),
    "draft": (FiringRule.JOB_DRAFT, "the job {name} is a draft"),
    "paused": (FiringRule.JOB_PAUSED, "the job {name} is paused"),
}


class LaunchBatch:
    """The decisions on some firings, made under the locks of their schedules.

    Read its fields only after the transaction is committed.
    """

    def __init__(self, orders: Sequence[FiringLaunch]) -> None:
        self.ran: list[LaunchedFiring] = []
        self.ended: list[FiringEnd] = []
        self.waiting: list[Deferral] = []
        self.before: list[CancelPrevious] = []
        self._orders = orders
        self._schedules: dict[int, DictRow] = {}
        self._jobs: dict[int, DictRow] = {}
        self._own_firings: set[int] = set()
        self._open: dict[int, list[int]] = {}
        self._launched: dict[UUID, tuple[int, datetime]] = {}
        self._firings: dict[int, int] = {}
        self._firing: set[int] = set()
        self._chosen: list[FiringLaunch] = []

    async def write(self, connection: Connection) -> None:
        """Lock, decide, launch, and write the outcome."""
        await self._lock(connection)
        for order in self._orders:
            if order.ready.id in self._own_firings:
                self._decide(order)
        await self._launch(connection)
        async with connection.pipeline():
            await trigger(connection, self.ran)
            await defer(connection, self.waiting)
            await settle(connection, self.ended)

    async def _lock(self, connection: Connection) -> None:
        readies = [order.ready for order in self._orders]
        named = {
            "schedules": sorted({ready.schedule.id for ready in readies}),
            "jobs": sorted({ready.schedule.job_id for ready in readies}),
            "firings": [ready.id for ready in readies],
            "attempts": [ready.attempts for ready in readies],
            "uuids": [ready.uuid for ready in readies],
        }
        async with connection.pipeline():
            schedules = await connection.execute(_LOCK, named)
            ours = await connection.execute(_LOCK_FIRINGS, named)
            jobs = await connection.execute(_LOCK_JOBS, named)
            await connection.execute(_MARK_OVER, named)
            still_open = await connection.execute(_OPEN, named)
            launched = await connection.execute(_LAUNCHED, named)
        self._schedules = {row["id"]: row for row in await schedules.fetchall()}
        self._own_firings = {row["id"] for row in await ours.fetchall()}
        self._jobs = {row["id"]: row for row in await jobs.fetchall()}
        self._open = {row["schedule_id"]: row["executions"] for row in await still_open.fetchall()}
        self._launched = {
            row["uuid"]: (row["id"], row["created_at"]) for row in await launched.fetchall()
        }
        self._firings = {row["id"]: row["firings"] for row in self._schedules.values()}

    def _decide(self, order: FiringLaunch) -> None:
        ready = order.ready
        schedule = self._schedules[ready.schedule.id]
        if (launched := self._launched.get(ready.uuid)) is not None:
            self.ran.append(LaunchedFiring(ready, launched[0], ready.uuid, launched[1]))
        elif (why := self._find_refusal(schedule)) is not None:
            self.ended.append(FiringEnd(ready, FiringStatus.SKIPPED, *why))
        elif schedule["version"] != ready.schedule.version:
            self.waiting.append(Deferral(ready, RETRY_SECONDS, None))
        elif (others := self._open.get(schedule["id"])) and schedule["overlap"] != "allow":
            self._overlap(ready, schedule["overlap"], others)
        elif schedule["id"] in self._firing and schedule["overlap"] != "allow":
            # Behind a firing of this batch.
            self.waiting.append(Deferral(ready, RETRY_SECONDS, None))
        else:
            self._firing.add(schedule["id"])
            self._firings[schedule["id"]] += 1
            self._chosen.append(order)

    def _find_refusal(self, schedule: DictRow) -> tuple[FiringRule, str] | None:
        job = self._jobs[schedule["job_id"]]
        if schedule["deleted"] and job["state"] != "archived":
            return FiringRule.DELETED, "the schedule was deleted"
        if job["state"] in _JOB_RULES:
            rule, words = _JOB_RULES[job["state"]]
            return rule, words.format(name=job["name"])
        if not schedule["enabled"]:
            return FiringRule.PAUSED, paused_words(schedule["paused_reason"])
        if (
            schedule["max_firings"] is not None
            and self._firings[schedule["id"]] >= schedule["max_firings"]
        ):
            return (
                FiringRule.MAX_FIRINGS,
                f"max_firings is {schedule['max_firings']}, and that many were launched",
            )
        return None

    def _overlap(self, ready: ReadyFiring, overlap: str, others: Sequence[int]) -> None:
        words = WAITING_REASON.format(others[-1])
        if overlap == "skip":
            self.ended.append(
                FiringEnd(
                    ready, FiringStatus.SKIPPED, FiringRule.OVERLAP, f"{words}, and overlap is skip"
                )
            )
        elif overlap == "queue":
            self.waiting.append(Deferral(ready, RETRY_SECONDS, words, others[-1]))
        else:
            self.before.append(CancelPrevious(ready, others))

    async def _launch(self, connection: Connection) -> None:
        """Write the chosen executions: the plain ones together, the others one by one."""
        together = [order for order in self._chosen if is_plain(order.new)]
        if together:
            made = await launch_many(connection, [order.new for order in together])
            self.ran += [
                LaunchedFiring(order.ready, one.id, one.uuid, one.created_at)
                for order, one in zip(together, made, strict=True)
            ]
        for order in self._chosen:
            if not is_plain(order.new):
                async with connection.pipeline():
                    execution = await launch(connection, order.new)
                self.ran.append(
                    LaunchedFiring(
                        order.ready, execution.id, order.ready.uuid, execution.created_at
                    )
                )
