"""Firings: due times become pending firings, and those become executions.

Each step is a separate transaction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.rows import DictRow

from opsjobs import failpoints
from opsjobs.clock import Clock, SystemClock, uuid7
from opsjobs.model.access import Reach
from opsjobs.model.errors import NotFound
from opsjobs.model.execution import moment
from opsjobs.model.firing import FiringKind, FiringRule, FiringStatus, span_words
from opsjobs.model.run_views import Execution
from opsjobs.model.time_zones import tzdata_version
from opsjobs.store import audit
from opsjobs.store.paging import ROWS_MAX, PageRequest
from opsjobs.store.paging import Page as ListPage
from opsjobs.store.scheduling import firing_transitions as moves
from opsjobs.store.scheduling.due_firings import (
    CLAIM_SECONDS,
    CalendarReader,
    Due,
    Fired,
    ReadyFiring,
    ScheduleBatch,
    event_data,
    no_calendars,
)
from opsjobs.store.scheduling.firing_transitions import (
    Deferral,
    FiringEnd,
    FiringLaunch,
    LaunchBatch,
)
from opsjobs.store.scheduling.rows import (
    ALL_FIRINGS,
    COLUMNS,
    FIRINGS,
    ClosedReason,
    CompiledSchedules,
    Firing,
    NamedFiring,
    StoredSchedule,
    parse_firing,
    parse_named_firing,
)
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry.logs import log

_Ids = list[int]
JUDGE_SECONDS = 1.0
"""Time limit for evaluating timetables and calendars in one round.

PostgreSQL ends a transaction that is idle for 3 s.
"""
UNREADABLE_SECONDS = 60.0
"""The pause before a schedule whose timetable failed is tried again."""


@dataclass(frozen=True, slots=True)
class FiringsDue:
    """The work that waits for the scheduler."""

    due: bool
    """True if a schedule is due."""
    pending: bool
    """True if firings wait for their launch or have expired."""
    next_seconds: float | None
    """The time until the next schedule is due; None if there is none."""


# Reads the front of three indexes, however many schedules there are.
_CHECK_DUE = """
select extract(epoch from (select min(next_fire_at) from job_schedules
                           where next_fire_at is not null) - t.now)::float8 as due_in,
       exists (select from schedule_executions where status = 'pending'
               and (not_before <= t.now or expires_at <= t.now)) as pending
from (select opsjobs_now() as now offset 0) t"""

_DUE = f"""
select {COLUMNS}, (select opsjobs_now()) as now, w.pending
from job_schedules s cross join lateral (
  select count(*) as pending from schedule_executions f
  where f.schedule_id = s.id and f.status = 'pending' and not f.catch_up) w
where s.next_fire_at <= (select opsjobs_now()) - make_interval(secs => %(from)s)
  and s.next_fire_at > (select opsjobs_now()) - make_interval(secs => %(to)s)
order by s.next_fire_at limit %(limit)s for no key update of s skip locked"""

_UNREADABLE = """
update job_schedules set next_fire_at = opsjobs_now() + make_interval(secs => %s) where id = any(%s)
  and next_due_at is not null"""

# A firing in turn must be the first of its schedule, but one that is on time does not wait for one
# that is caught up; a firing whose previous execution has not ended is not taken.
_TAKE = f"""
with picked as (
  select f.id from schedule_executions f
  where f.status = 'pending' and f.catch_up = %(catch_up)s
    and f.not_before <= (select opsjobs_now())
    and (f.awaits is null or not exists (select from job_executions e where e.id = f.awaits
      and e.finished_at is null))
    and (not f.in_turn or not exists (
      select from schedule_executions b
      where b.schedule_id = f.schedule_id and b.status = 'pending' and b.catch_up <= f.catch_up
        and (b.due_at, b.id) < (f.due_at, f.id)))
  order by f.not_before limit %(limit)s for update of f skip locked
), taken as (
  update schedule_executions f set attempts = f.attempts + 1,
    not_before = opsjobs_now() + make_interval(secs => %(claim)s)
  from picked where f.id = any(array(select id from picked)) and f.id = picked.id
  returning f.id, f.uuid, f.schedule_id, f.due_at, f.fire_at, f.attempts, f.catch_up, f.reason
)
select t.id as firing, t.uuid as execution, t.due_at, t.fire_at, t.attempts, t.catch_up,
       t.reason as waited_for,
       extract(epoch from (select opsjobs_now()) - t.fire_at)::float8 as late, {COLUMNS}
from taken t join job_schedules s on s.id = t.schedule_id order by t.due_at, t.id"""

_EXPIRED = f"""
select f.id as firing, f.uuid as execution, f.due_at, f.fire_at, f.attempts, f.catch_up,
       f.reason as waited_for,
       extract(epoch from (select opsjobs_now()) - f.fire_at)::float8 as late, {COLUMNS}
from schedule_executions f join job_schedules s on s.id = f.schedule_id
where f.status = 'pending' and f.expires_at <= (select opsjobs_now()) order by f.expires_at limit %s
for update of f skip locked"""

# Only to newer rules: if processes have different rules, the newest apply, and no process undoes
# the work of another.
_OLD_RULES = f"""
select {COLUMNS}, (select opsjobs_now()) as now from job_schedules s
where s.tzdata < %(tzdata)s and s.next_due_at is not null order by s.tzdata limit %(limit)s
  for no key update of s skip locked"""

_NEW_RULES = """
update job_schedules s set next_due_at = m.due, next_fire_at = m.fire, tzdata = %(tzdata)s
from unnest(%(schedules)s::bigint[], %(due)s::timestamptz[], %(fire)s::timestamptz[])
  as m(id, due, fire) where s.id = m.id"""

_TRIGGERED = """
insert into schedule_executions (uuid, schedule_id, kind, due_at, fire_at, status, recorded_at,
                                 fired_at, late_ms, execution_id)
select %(uuid)s, s.id, 'trigger', %(at)s, %(at)s, 'triggered', %(at)s, %(at)s, 0, %(execution)s
from job_schedules s where s.id = %(schedule)s and s.deleted_at is null
returning id"""

_EVENT = (
    "insert into events (shard, type, subject, data) values (%s %% 16, 'schedule.triggered', "
    "%s, %s)"
)


class Firings:
    """Reads of firings, and the operations that move them.

    Each operation is one transaction, and safe to run concurrently with any number of others.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        *,
        compiled: CompiledSchedules | None = None,
        closer: CalendarReader = no_calendars,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._compiled = compiled or CompiledSchedules()
        self._closer = closer

    async def list(self, schedule: StoredSchedule, request: PageRequest) -> ListPage[Firing]:
        """Return a page of a schedule's firings.

        The latest due time comes first unless ordered otherwise.
        """
        return (await FIRINGS.page(self._database, request, {"schedule": schedule.id})).map(
            parse_firing
        )

    async def list_all(
        self, request: PageRequest, reach: Reach | None = None
    ) -> ListPage[NamedFiring]:
        """Return a page of the firings of all schedules within reach, the latest recorded first.

        With a job, they are looked for among the last 10,000 that the other filters find.
        """
        if "job_id" in request.filters:
            others = {name: v for name, v in request.filters.items() if name != "job_id"}
            wanted = replace(request, filters=others, sort=None)
            among = await ALL_FIRINGS.newest(self._database, wanted, ROWS_MAX, reach=reach)
            request = replace(request, among=among)
        page = await ALL_FIRINGS.page(self._database, request, reach=reach)
        return page.map(parse_named_firing)

    async def load_closed_reasons(self, schedules: Sequence[StoredSchedule]) -> ClosedReason:
        """Return a function that gives the reason why calendars close an instant.

        It returns None if the instant is open. The calendars are read now.
        """
        async with self._database.connection() as connection:
            return await self._closer(connection, schedules)

    async def check_due(self) -> FiringsDue:
        """Return the work due now; costs the same for any number of schedules."""
        row = await self._database.fetch_one(_CHECK_DUE)
        assert row is not None
        due_in = row["due_in"]
        return FiringsDue(due_in is not None and due_in <= 0, row["pending"], due_in)

    async def fire(
        self, limit: int, *, from_seconds: float = 0.0, to_seconds: float = 1e9
    ) -> Fired:
        """Record the due times of up to `limit` schedules, and find their next ones.

        Takes schedules due for at least `from_seconds`, but less than `to_seconds`. Rows locked by
        other processes are left to them.
        """
        bounds = {"from": from_seconds, "to": to_seconds, "limit": limit}

        async def once() -> Fired:
            async with self._database.transaction() as connection:
                rows = await (await connection.execute(_DUE, bounds)).fetchall()
                return await self._fire(connection, rows) if rows else Fired(0, {}, ())

        async with failpoints.at("fire"):
            return await self._database.retry(once)

    async def claim(self, limit: int, *, catch_up: bool) -> Sequence[ReadyFiring]:
        """Claim up to `limit` firings that may be launched now, for 15 seconds."""
        given = {"limit": limit, "catch_up": catch_up, "claim": CLAIM_SECONDS}
        rows = await self._database.retry(lambda: self._database.fetch(_TAKE, given))
        return [ready for ready in map(self._ready, rows) if ready is not None]

    async def launch(self, orders: Sequence[FiringLaunch]) -> LaunchBatch:
        """Turn these firings into executions, in one transaction.

        Only those that their schedules still allow are launched.
        """

        async def once() -> LaunchBatch:
            async with self._database.transaction() as connection:
                batch = LaunchBatch(orders)
                await batch.write(connection)
                return batch

        async with failpoints.at("firing.launch"):
            return await self._database.retry(once)

    async def settle(self, ended: Sequence[FiringEnd]) -> int:
        """End these firings without a launch, if they still belong to the caller.

        Returns how many did.
        """

        async def once() -> int:
            async with self._database.transaction() as connection:
                return await moves.settle(connection, ended)

        return await self._database.retry(once) if ended else 0

    async def defer(self, waiting: Sequence[Deferral]) -> None:
        """Defer these firings, if they still belong to the caller."""

        async def once() -> None:
            async with self._database.transaction() as connection:
                await moves.defer(connection, waiting)

        if waiting:
            await self._database.retry(once)

    async def expire(self, limit: int) -> int:
        """End firings that could not be launched within their time limit.

        Returns how many.
        """

        async def once() -> int:
            async with self._database.transaction() as connection:
                rows = await (await connection.execute(_EXPIRED, [limit])).fetchall()
                firings = [(self._ready(row), row["waited_for"]) for row in rows]
                ended = [
                    _give_up(ready, waited_for)
                    for ready, waited_for in firings
                    if ready is not None
                ]
                return await moves.settle(connection, ended)

        return await self._database.retry(once)

    async def recompute(self, limit: int) -> int:
        """Recompute the next due time of schedules in local time after a change of zone rules.

        Returns how many.
        """

        async def once() -> int:
            async with self._database.transaction() as connection:
                given = {"tzdata": tzdata_version(), "limit": limit}
                rows = await (await connection.execute(_OLD_RULES, given)).fetchall()
                found = [self._by_new_rules(row) for row in rows]
                if found:
                    columns = {
                        name: [one[n] for one in found]
                        for n, name in enumerate(("schedules", "due", "fire"))
                    }
                    await connection.execute(_NEW_RULES, {**given, **columns})
                return len(found)

        return await self._database.retry(once)

    async def record_trigger(
        self, connection: Connection, schedule: StoredSchedule, execution: Execution
    ) -> None:
        """Record, in the launch's transaction, that a user triggered the schedule.

        Raises NotFound.
        """
        at = execution.created_at
        row = {
            "uuid": uuid7(self._clock.now()),
            "schedule": schedule.id,
            "execution": execution.id,
            "at": at,
        }
        made = await (await connection.execute(_TRIGGERED, row)).fetchone()
        if made is None:
            raise NotFound.for_ref("schedule", schedule.id)
        firing = {
            "id": made["id"],
            "kind": FiringKind.TRIGGER.value,
            "due_at": moment(at),
            "status": FiringStatus.TRIGGERED.value,
            "execution_id": execution.id,
            "execution_uuid": execution.uuid,
            "fired_at": moment(at),
            "late_ms": 0,
            "moments": 1,
        }
        await connection.execute(_EVENT, [schedule.id, schedule.uuid, event_data(schedule, firing)])
        after = {"execution": execution.id}
        await audit.record(
            connection, "schedule.triggered", "schedule", schedule.id, schedule.name, after=after
        )

    async def _fire(self, connection: Connection, rows: Sequence[DictRow]) -> Fired:
        now = rows[0]["now"]
        page = ScheduleBatch(now)
        unreadable: _Ids = []
        read = [(row["pending"], self._read(row, unreadable)) for row in rows]
        readable = [(pending, schedule) for pending, schedule in read if schedule is not None]
        closed = await self._closer(connection, [schedule for _, schedule in readable])
        began = time.monotonic()
        for pending, schedule in readable:
            if time.monotonic() - began > JUDGE_SECONDS:
                break  # the others are left for the next round
            due = Due(schedule, pending)
            try:
                page.add(due, due.decide_due(now, closed))
            except Exception as wrong:  # noqa: BLE001  a broken schedule must not stop the others
                _log_unreadable(schedule.id, wrong)
                unreadable.append(schedule.id)
        if unreadable:
            await connection.execute(_UNREADABLE, [UNREADABLE_SECONDS, unreadable])
        return await page.write(connection)

    def _read(self, row: DictRow, unreadable: _Ids) -> StoredSchedule | None:
        try:
            return self._compiled.stored(row)
        except Exception as wrong:  # noqa: BLE001  as above
            _log_unreadable(row["id"], wrong)
            unreadable.append(row["id"])
            return None

    def _ready(self, row: DictRow) -> ReadyFiring | None:
        schedule = self._read(row, [])
        if schedule is None:
            return None
        return ReadyFiring(
            row["firing"],
            row["execution"],
            row["due_at"],
            row["fire_at"],
            row["attempts"],
            row["catch_up"],
            row["late"],
            schedule,
        )

    def _by_new_rules(self, row: DictRow) -> tuple[int, datetime | None, datetime | None]:
        """Return the next due time of a schedule under the new zone rules.

        A time that is already due stays.
        """
        schedule = self._read(row, [])
        now = row["now"]
        if schedule is None or row["next_fire_at"] <= now:
            return row["id"], row["next_due_at"], row["next_fire_at"]
        try:
            due = schedule.timetable.next_after(now)
            return row["id"], due, None if due is None else schedule.timetable.fire_at(due)
        except Exception as wrong:  # noqa: BLE001  as above
            _log_unreadable(schedule.id, wrong)
            return row["id"], row["next_due_at"], row["next_fire_at"]


def _log_unreadable(schedule_id: int, wrong: Exception) -> None:
    # In one line: on a busy machine, writing a whole traceback takes longer than a transaction may
    # stay idle.
    log.error("schedule_unreadable", schedule=schedule_id, error=repr(wrong))


def _give_up(ready: ReadyFiring, waited_for: str | None) -> FiringEnd:
    words = f"it could not be launched for {span_words(ready.late_seconds)}"
    reason = f"{words}: {waited_for}" if waited_for else words
    return FiringEnd(ready, FiringStatus.FAILED, FiringRule.EXPIRED, reason)
