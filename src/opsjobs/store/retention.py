"""Retention: what is older, or more, than is to be kept goes, a bounded part at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from psycopg import errors, sql

from opsjobs.store.transaction import Database

# At a time: days of the log, executions (and their runs together), artifacts, uploaded files (looked at, not all of them to go).
DAYS = 4
EXECUTIONS = 200
RUNS = 5_000
ARTIFACTS = 1_000
FILES = 500
FIRINGS = 5_000
SCHEDULES = 200
NAMES = 5_000
# Detaching a day needs the log for itself for a moment. Who waits for that moment keeps all others waiting behind him.
LOCK_WAIT_MS = 200


@dataclass(frozen=True, slots=True)
class Keep:
    """For how long what is kept; `executions_per_job`: of each job the newest that have ended; `audit_seconds` 0: for ever."""

    log_seconds: float
    artifact_seconds: float
    execution_seconds: float
    executions_per_job: int
    file_seconds: float
    firing_seconds: float = 90 * 86_400.0
    audit_seconds: float = 0.0


# One process at a time, and none again before the pause is over.
_TURN = """
insert into services as s (name, ticked_at) values ('retention', opsjobs_now())
on conflict (name) do update set ticked_at = excluded.ticked_at
where s.ticked_at <= (select opsjobs_now()) - make_interval(secs => %s) returning true as ours"""

# Days have partitions of their own. An open execution keeps its day.
_OLD_DAYS = """
select p.day from (
  select to_date(substring(c.relname from '^execution_log_(\\d{8})$'), 'YYYYMMDD') as day
  from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'execution_log'::regclass) p
where p.day < (((select opsjobs_now()) - make_interval(secs => %(seconds)s)) at time zone 'UTC')::date
  and not exists (select from job_executions e where e.finished_at is null and e.log_day = p.day)
order by p.day limit %(limit)s"""
_DROPPED = "insert into dropped_log_days (log_day) values (%s) on conflict do nothing"
# A process that died between the two steps left the table behind, detached.
_LEFT_OVER = """
select d.log_day from dropped_log_days d where to_regclass('execution_log_' || to_char(d.log_day, 'YYYYMMDD')) is not null
order by d.log_day limit %s"""

# What may go: all is told of it, nothing of it lies on a machine or is looked for there (within the time that this is tried), no
# dead letter waits for an answer, and no execution that comes of it is open.
_DONE_WITH = """
e.finished_at is not null and e.finished_at < (select opsjobs_now()) - interval '1 hour'
and not exists (select from events v where v.published_at is null and v.shard = e.id %% 16 and v.execution_id = e.id)
and not exists (
  select from target_runs r where r.execution_id = e.id
    and (greatest(r.spool_due, r.sweep_due) > (select opsjobs_now()) - interval '14 days' or r.status in ('lost', 'dead') and not exists (
      select from dead_letter_answers a where a.run_id = r.id)))
and not exists (
  select from execution_specs s join job_executions c on c.id = s.execution_id
  where s.parent_id = e.id and c.finished_at is null)"""
_DELETE = """
, bounded as (select id, sum(total) over (order by id) - total as before from old)
delete from job_executions where id in (select id from bounded where before < %(runs)s) returning 1"""
_OLD_EXECUTIONS = f"""
with old as (
  select e.id, e.total from job_executions e
  where e.finished_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s) and {_DONE_WITH}
  order by e.finished_at limit %(limit)s
){_DELETE}"""
_TOO_MANY = f"""
with old as (
  select e.id, e.total from jobs j cross join lateral (
    select e.id, e.total from job_executions e
    where e.job_id = j.id and e.number <= j.last_number - %(keep)s and {_DONE_WITH} order by e.number limit %(limit)s) e
  where j.last_number > %(keep)s limit %(limit)s
){_DELETE}"""

_OLD_ARTIFACTS = """
delete from artifacts where id in (
  select id from (select id, created_at from artifacts order by id limit %(limit)s) oldest
  where created_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)) returning 1"""

# What a job or an execution that is kept brings to targets stays, however old: it may be launched, or retried. (By its id or uuid:
# jobs have either, executions the uuid.) Of what only a parameter's value names nothing is known.
_OLD_FILES = """
with seen as materialized (
  select id, uuid, created_at from files where id > %(after)s order by id limit %(limit)s
), named as materialized (
  select a.definition ->> 'source' as source from jobs j join job_actions a on a.job_id = j.id and a.version = j.version
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
select (select count(*) from gone) as gone, (select max(id) from seen) as last, (select count(*) from seen) as looked"""

# In the order in which they came, so that no index by age is needed; what waits for its launch is not old.
_OLD_FIRINGS = """
delete from schedule_executions where id in (
  select id from (select id, recorded_at, status from schedule_executions order by id limit %(limit)s) oldest
  where recorded_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s) and status <> 'pending') returning 1"""
_GONE_SCHEDULES = """
delete from job_schedules where id in (
  select s.id from job_schedules s where s.deleted_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
    and not exists (select from schedule_executions f where f.schedule_id = s.id) limit %(limit)s) returning 1"""

# Of machines only: whose name was somebody's is known for good.
_OLD_NAMES = """
delete from spent_names where noun = 'target' and name in (
  select name from spent_names where noun = 'target' and spent_at < (select opsjobs_now()) - make_interval(secs => %(seconds)s)
  order by spent_at limit %(limit)s) returning 1"""


class Retention:
    """Each verb does a bounded part in a transaction of its own, and says how much: 0 where nothing is left to do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._files_seen = 0

    async def take_turn(self, pause_seconds: float) -> bool:
        """True for the one process whose turn it is; the next one has its turn no earlier than after the pause."""
        return await self._database.fetch_one(_TURN, [pause_seconds]) is not None

    async def drop_days(self, keep: Keep) -> int:
        """Drop days of the log that are over, whole. A day that is being read or written just now is left for later."""
        for row in await self._database.fetch(_LEFT_OVER, [DAYS]):
            await self._drop(row["log_day"])
        dropped = 0
        for row in await self._database.fetch(_OLD_DAYS, {"seconds": keep.log_seconds, "limit": DAYS}):
            dropped += await self._detach(row["day"])
        return dropped

    async def delete_executions(self, keep: Keep) -> int:
        """Delete executions that ended too long ago, and those that a job has too many of, with all that is theirs."""
        bounds = {"runs": RUNS, "limit": EXECUTIONS}
        old = await self._delete(_OLD_EXECUTIONS, {**bounds, "seconds": keep.execution_seconds})
        return old + await self._delete(_TOO_MANY, {**bounds, "keep": keep.executions_per_job})

    async def delete_artifacts(self, keep: Keep) -> int:
        """Delete artifacts that came too long ago; their bytes go once nobody refers to them."""
        return await self._delete(_OLD_ARTIFACTS, {"limit": ARTIFACTS, "seconds": keep.artifact_seconds})

    async def delete_files(self, keep: Keep) -> int:
        """Delete files that were uploaded too long ago and that nobody names; their bytes go as those of artifacts.

        Looks at some more of them at each call, and begins anew behind the last: those that stay are not in the way.
        """
        bounds = {"after": self._files_seen, "limit": FILES, "seconds": keep.file_seconds}
        (found,) = await self._database.repeat(lambda: self._database.fetch(_OLD_FILES, bounds))
        self._files_seen = found["last"] if found["looked"] == FILES else 0
        return int(found["gone"])

    async def delete_firings(self, keep: Keep) -> int:
        """Delete what became of moments that were fired too long ago, and deleted schedules of which nothing is left."""
        seconds = keep.firing_seconds
        old = await self._delete(_OLD_FIRINGS, {"limit": FIRINGS, "seconds": seconds})
        return old or await self._delete(_GONE_SCHEDULES, {"limit": SCHEDULES, "seconds": seconds})

    async def forget_names(self, keep: Keep) -> int:
        """Forget names of machines that are gone for as long as executions are kept: what ran there then is gone, too."""
        return await self._delete(_OLD_NAMES, {"limit": NAMES, "seconds": keep.execution_seconds})

    async def _delete(self, statement: str, bounds: dict[str, float]) -> int:
        return len(await self._database.repeat(lambda: self._database.fetch(statement, bounds)))

    async def _detach(self, day: date) -> int:
        # Not CONCURRENTLY: PostgreSQL refuses that beside a default partition. On record in the same transaction: it is gone.
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
    """Somebody has the log in hand: another time."""


def _table(day: date) -> sql.Identifier:
    return sql.Identifier(f"execution_log_{day:%Y%m%d}")
