"""Retention: delete data beyond the limits of age and number, in bounded parts.

Slots and states of deleted targets are deleted once no open run needs them, last outcomes once
their job or schedule is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

from psycopg import errors, sql

from opsjobs.store.feeds import EVENT_SOURCES
from opsjobs.store.transaction import Database

# Limits of one call: days of the log, executions (and the sum of their runs), artifacts, uploaded
# files (examined, not necessarily deleted).
DAYS = 4
EXECUTIONS = 200
RUNS = 5_000
ARTIFACTS = 1_000
FILES = 500
FIRINGS = 5_000
SCHEDULES = 200
NAMES = 5_000
# Number of parts without any execution to delete after which a call ends.
PARTS_MAX = 200
_START = {"after": datetime(1970, 1, 1, tzinfo=UTC), "after_id": 0}
# Detaching a day locks the log for a moment. While it waits for that lock, all other users wait
# behind it.
LOCK_WAIT_MS = 200


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """The time for which data is kept."""

    log_seconds: float
    artifact_seconds: float
    execution_seconds: float
    executions_per_job: int
    """The number of ended executions kept per job, the newest ones."""
    file_seconds: float
    firing_seconds: float = 90 * 86_400.0
    audit_seconds: float = 0.0
    """0: forever."""


# Each day has its own partition. An open execution keeps its day.
_OLD_DAYS = """
select p.day from (
  select to_date(substring(c.relname from '^execution_log_(\\d{8})$'), 'YYYYMMDD') as day
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
  where i.inhparent = 'execution_log'::regclass) p
where p.day < (((select opsjobs_now()) - make_interval(secs => %(seconds)s)) at time zone
               'UTC')::date
  and not exists (select from job_executions e where e.finished_at is null and e.log_day = p.day)
order by p.day limit %(limit)s"""
_DROPPED = "insert into dropped_log_days (log_day) values (%s) on conflict do nothing"
# A process that died between the two steps has left the table detached.
_LEFT_OVER = """
select d.log_day from dropped_log_days d
where to_regclass('execution_log_' || to_char(d.log_day, 'YYYYMMDD')) is not null
order by d.log_day limit %s"""

# Conditions for deletion: all events are published, and the sources of deliveries have read the
# events of its time; no folder is left on a target and no outcome is to be looked up there (within
# the time limit of these tries), no dead letter waits for an answer, and no child execution is
# open. Each is checked per execution by an index (offset 0: not joined, which might read a table),
# but the place of the sources once.
_DONE_WITH = f"""
e.finished_at < (select opsjobs_now()) - interval '1 hour'
and e.finished_at < (
  select coalesce(min(unread.at) - interval '1 hour', 'infinity') from (
    (select v.at from events v where v.position > (select min(s.position) from {EVENT_SOURCES})
     order by v.position limit 1)
    union all
    (select v.at from events v where v.position is null and exists (select from {EVENT_SOURCES})
     order by v.id limit 1)) unread)
and not exists (select from events v where v.published_at is null and v.execution_id = e.id
                offset 0)
and not exists (
  select from target_runs r where r.execution_id = e.id
    and (greatest(r.spool_due, r.sweep_due) > (select opsjobs_now()) - interval '14 days'
      or r.status in ('lost', 'dead') and not exists (select from dead_letter_answers a
        where a.run_id = r.id offset 0)) offset 0)
and not exists (
  select from execution_specs s join job_executions c on c.id = s.execution_id
  where s.parent_id = e.id and c.finished_at is null offset 0)"""
# Examines the next ones only, so that executions that stay do not block others. `last`: the last
# one that was handled; if there are too many runs for one statement, the one before the first that
# is left over.
_OLD_EXECUTIONS = f"""
with seen as materialized (
  select e.id, e.total, e.finished_at from job_executions e
  where e.finished_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
    and e.finished_at >= %(after)s and (e.finished_at, e.id) > (%(after)s, %(after_id)s)
  order by e.finished_at, e.id limit %(limit)s
), old as materialized (
  select e.id, e.finished_at, sum(e.total) over (order by e.finished_at, e.id) - e.total as before
  from seen e where {_DONE_WITH}
), gone as (
  delete from job_executions where id = any(array(select id from old where before < %(runs)s))
  returning 1
), rest as (
  select finished_at, id from old where before >= %(runs)s order by finished_at, id limit 1
)
select (select count(*) from gone) as gone, (select count(*) from seen) as looked,
       exists (select from rest) as cut,
       last.finished_at as after, last.id as after_id
from (select 1) one left join lateral (
  select s.finished_at, s.id from seen s
  where not exists (select from rest r where (r.finished_at, r.id) <= (s.finished_at, s.id))
  order by s.finished_at desc, s.id desc limit 1) last on true"""
_TOO_MANY = f"""
with old as (
  select e.id, e.total from jobs j cross join lateral (
    select e.id, e.total from job_executions e
    where e.job_id = j.id and e.number <= j.last_number - %(keep)s and {_DONE_WITH}
    order by e.number limit %(limit)s) e
  where j.last_number > %(keep)s limit %(limit)s
), bounded as (select id, sum(total) over (order by id) - total as before from old)
delete from job_executions where id = any(array(select id from bounded where before < %(runs)s))
returning 1"""

_OLD_ARTIFACTS = """
delete from artifacts where id in (
  select id from (select id, created_at from artifacts order by id limit %(limit)s) oldest
  where created_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)) returning 1"""

# Files that a kept job or execution transfers to targets stay, however old: it may be launched, or
# retried. (By id or uuid: jobs have either, executions the uuid.) Files that only a parameter's
# value names are unknown.
_OLD_FILES = """
with seen as materialized (
  select id, uuid, created_at from files where id > %(after)s order by id limit %(limit)s
), named as materialized (
  select a.definition ->> 'source' as source from jobs j join job_actions a on a.job_id = j.id
    and a.version = j.version
  where j.state <> 'archived' and a.type = 'file_transfer'
), gone as (
  delete from files where id in (
    select f.id from seen f
    where f.created_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
      and not exists (select from named n where n.source in (f.uuid::text, f.id::text))
      and not exists (
        select from execution_specs s
        where s.actions @> '[{"type": "file_transfer"}]'
          and s.actions @> jsonb_build_array(jsonb_build_object('source', f.uuid::text))))
  returning 1
)
select (select count(*) from gone) as gone, (select max(id) from seen) as last,
  (select count(*) from seen) as looked"""

# In insertion order, so that no index by age is needed; a firing that waits for its launch does not
# count as old.
_OLD_FIRINGS = """
delete from schedule_executions where id in (
  select id from (select id, recorded_at, status from schedule_executions order by id
                  limit %(limit)s) oldest
  where recorded_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
    and status <> 'pending') returning 1"""
_GONE_SCHEDULES = """
delete from job_schedules where id in (
  select s.id from job_schedules s
  where s.deleted_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
    and not exists (select from schedule_executions f where f.schedule_id = s.id) limit %(limit)s)
    returning 1"""

# Names of targets only: names of identities are kept forever.
_OLD_NAMES = """
delete from spent_names where noun = 'target' and name in (
  select name from spent_names where noun = 'target'
    and spent_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
  order by spent_at limit %(limit)s) returning 1"""


class Retention:
    """Deletes old data.

    Each method deletes a bounded part in its own transaction, and returns how much: 0 if nothing is
    left to do.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._files_seen = 0
        self._executions_seen = _START

    async def drop_days(self, keep: RetentionLimits) -> int:
        """Drop past days of the log as a whole.

        A day that is being read or written is left for later.
        """
        for row in await self._database.fetch(_LEFT_OVER, [DAYS]):
            await self._drop(row["log_day"])
        dropped = 0
        for row in await self._database.fetch(
            _OLD_DAYS, {"seconds": keep.log_seconds, "limit": DAYS}
        ):
            dropped += await self._detach(row["day"])
        return dropped

    async def delete_executions(self, keep: RetentionLimits) -> int:
        """Delete executions that ended too long ago, with all their data.

        Each call examines some more of them, and starts again after the last: executions that stay
        do not block others.
        """
        for _ in range(PARTS_MAX):
            bounds = {
                "runs": RUNS,
                "limit": EXECUTIONS,
                "seconds": keep.execution_seconds,
                **self._executions_seen,
            }
            (found,) = await self._database.retry(
                partial(self._database.fetch, _OLD_EXECUTIONS, bounds)
            )
            more = found["looked"] == EXECUTIONS or found["cut"]
            reached = (
                {"after": found["after"], "after_id": found["after_id"]}
                if found["after"]
                else self._executions_seen
            )
            self._executions_seen = reached if more else _START
            if found["gone"] or not more:
                return int(found["gone"])
        return 0

    async def delete_surplus(self, keep: RetentionLimits) -> int:
        """Delete executions above the number kept per job, with all their data."""
        return await self._delete(
            _TOO_MANY, {"runs": RUNS, "limit": EXECUTIONS, "keep": keep.executions_per_job}
        )

    async def delete_artifacts(self, keep: RetentionLimits) -> int:
        """Delete old artifacts; their bytes are deleted once nothing refers to them."""
        return await self._delete(
            _OLD_ARTIFACTS, {"limit": ARTIFACTS, "seconds": keep.artifact_seconds}
        )

    async def delete_files(self, keep: RetentionLimits) -> int:
        """Delete old uploaded files that nothing refers to; their bytes go as those of artifacts.

        Each call examines some more of them, and starts again after the last: files that stay do
        not block others.
        """
        bounds = {"after": self._files_seen, "limit": FILES, "seconds": keep.file_seconds}
        (found,) = await self._database.retry(lambda: self._database.fetch(_OLD_FILES, bounds))
        self._files_seen = found["last"] if found["looked"] == FILES else 0
        return int(found["gone"])

    async def delete_firings(self, keep: RetentionLimits) -> int:
        """Delete old firings, and deleted schedules that have no firings left."""
        seconds = keep.firing_seconds
        old = await self._delete(_OLD_FIRINGS, {"limit": FIRINGS, "seconds": seconds})
        return old or await self._delete(_GONE_SCHEDULES, {"limit": SCHEDULES, "seconds": seconds})

    async def forget_names(self, keep: RetentionLimits) -> int:
        """Forget names of targets that were deleted as long ago as executions are kept.

        The executions that ran there are deleted, too.
        """
        return await self._delete(_OLD_NAMES, {"limit": NAMES, "seconds": keep.execution_seconds})

    async def _delete(self, statement: str, bounds: dict[str, float]) -> int:
        return len(await self._database.retry(lambda: self._database.fetch(statement, bounds)))

    async def _detach(self, day: date) -> int:
        # Not CONCURRENTLY: PostgreSQL refuses that if there is a default partition. The day is
        # recorded as dropped in the same transaction.
        detach = sql.SQL("alter table execution_log detach partition {}").format(_table(day))
        try:
            async with self._database.transaction() as connection:
                await connection.execute(f"set local lock_timeout = '{LOCK_WAIT_MS}ms'")
                try:
                    await connection.execute(detach)
                except errors.LockNotAvailable as busy:
                    raise _BusyError from busy
                await connection.execute(_DROPPED, [day])
        except _BusyError:
            return 0
        await self._drop(day)
        return 1

    async def _drop(self, day: date) -> None:
        async with self._database.connection() as connection:
            await connection.execute(sql.SQL("drop table if exists {}").format(_table(day)))


class _BusyError(Exception):
    """The log is in use: try again later."""


def _table(day: date) -> sql.Identifier:
    return sql.Identifier(f"execution_log_{day:%Y%m%d}")


# Rows of each table that one call deletes at most; the rest is left to the next one.
ROWS = 50_000

# It reads all open runs, so it runs once a day. Ids that the inventory did not assign are left
# alone.
_GONE = """
with open as materialized (
  select distinct target_id from target_runs where status in ('waiting', 'running')
), gone as materialized (
  select k.target_id from {table} k
  where k.target_id ~ '^[0-9]{{1,18}}$' and not exists (select from targets t
    where t.id::text = k.target_id)
    and not exists (select from open o where o.target_id = k.target_id)
  limit %(rows)s
)
delete from {table} where target_id = any(array(select target_id from gone)){free} returning 1"""
_SLOTS = _GONE.format(table="target_slots", free=" and used = 0")
_STATE = _GONE.format(table="target_state", free="")

# Restores the slots for a run of a deleted target (such as a retry) that was launched while its
# slots were being deleted: without them it could never be claimed.
_RESTORE = """
insert into target_slots (target_id, slots)
select distinct r.target_id, 1 from target_runs r
where r.status = 'waiting' and not exists (select from target_slots s
  where s.target_id = r.target_id)
on conflict do nothing returning 1"""

# An execution that was open while its job was archived may still end, and compares its outcome.
_OUTCOMES = """
delete from notification_outcomes where (scope, scope_id) in (
  select o.scope, o.scope_id from notification_outcomes o
  where o.scope = 'job' and not exists (select from jobs j where j.id = o.scope_id
      and (j.state <> 'archived'
        or j.archived_at >= (select opsjobs_now()) - interval '30 days'))
    or o.scope = 'schedule' and not exists (select from job_schedules s where s.id = o.scope_id)
  limit %(rows)s) returning 1"""


class Leftovers:
    """Deletes slots and states of deleted targets, and last outcomes of deleted jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self) -> int:
        """Delete rows of targets, jobs and schedules that are gone; return how many."""
        await self._database.fetch(_RESTORE)
        slots = await self._database.fetch(_SLOTS, {"rows": ROWS})
        states = await self._database.fetch(_STATE, {"rows": ROWS})
        outcomes = await self._database.retry(
            partial(self._database.fetch, _OUTCOMES, {"rows": ROWS})
        )
        return len(slots) + len(states) + len(outcomes)
