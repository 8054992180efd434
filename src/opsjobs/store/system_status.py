"""Status of the service in PostgreSQL: workers, queues, ticks, partitions, schema.

Also checks of the database and its keys: version, encoding, rights, disk space, secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from opsjobs.model.errors import DiskFull
from opsjobs.model.execution import moment
from opsjobs.store.restores import Restores
from opsjobs.store.transaction import Database
from opsjobs.store.vault.keys import KeyRotation

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
HEAD = max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))
"""The revision of this release, by file names: importing alembic takes half a second."""
WORKERS_SHOWN = 1_000
COUNTED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One incarnation of a worker process. `alive`: not reaped, and its lease has not expired."""

    id: UUID
    name: str
    zone: str
    pid: int
    concurrency: int
    running: int
    alive: bool
    started_at: datetime
    age_seconds: float
    renewed_seconds_ago: float

    def data(self) -> dict[str, Any]:
        """Return an item of GET /workers; `room` is how many more runs it would accept."""
        return {
            "id": str(self.id),
            "name": self.name,
            "zone": self.zone,
            "pid": self.pid,
            "alive": self.alive,
            "concurrency": self.concurrency,
            "running": self.running,
            "room": max(self.concurrency - self.running, 0) if self.alive else 0,
            "started_at": moment(self.started_at),
            "age_seconds": round(self.age_seconds, 1),
            "renewed_seconds_ago": round(self.renewed_seconds_ago, 1),
        }


@dataclass(frozen=True, slots=True)
class Queue:
    """The runs that wait and run in one zone.

    `oldest_seconds`: how long ago the oldest execution with a ready run was launched.
    """

    zone: str
    waiting: int
    ready: int
    running: int
    oldest_seconds: float | None
    workers: int

    def data(self) -> dict[str, Any]:
        """Return an item of GET /queues."""
        return {
            "zone": self.zone,
            "waiting": self.waiting,
            "ready": self.ready,
            "running": self.running,
            "oldest_ready_seconds": None
            if self.oldest_seconds is None
            else round(self.oldest_seconds, 1),
            "workers": self.workers,
        }


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Numbers that should stay small.

    `ticks`: seconds since each service's tick. `oldest_snapshot_seconds`: the age of the oldest
    snapshot. `days_ahead`: for how many days after today the log has partitions. `default_rows`:
    log entries without a partition (an alarm).
    """

    ticks: Mapping[str, float]
    events_unpublished: int
    oldest_event_seconds: float
    oldest_snapshot_seconds: float
    partitions: int
    days_ahead: int
    log_bytes: int
    default_rows: int
    circuits_open: int = 0
    deliveries_pending: int = 0
    oldest_delivery_seconds: float = 0.0
    dead_letters: int = 0


_WORKERS = f"""
select w.id, w.name, w.zone, w.pid, w.concurrency, w.started_at, w.buried_at is null
  and w.expires_at > opsjobs_now() as alive,
       extract(epoch from opsjobs_now() - w.started_at)::float8 as age_seconds,
       extract(epoch from opsjobs_now() - w.renewed_at)::float8 as renewed_seconds_ago,
       (select count(*) from target_runs r where r.owner = w.id and r.status = 'running') as running
from workers w where w.buried_at is null
  or w.renewed_at > (select opsjobs_now()) - interval '1 hour'
order by w.buried_at is null desc, w.zone, w.name, w.started_at desc limit {WORKERS_SHOWN}"""
_QUEUES = """
with alive as (
  select zone, count(*) as workers from workers where buried_at is null
    and expires_at > (select opsjobs_now()) group by zone
), work as (
  select r.zone, count(*) filter (where r.status = 'waiting'
    and r.waiting_for is not null) as waiting,
         count(*) filter (where r.status = 'waiting' and r.waiting_for is null) as ready,
         count(*) filter (where r.status = 'running') as running,
         extract(epoch from opsjobs_now() - min(e.created_at)
           filter (where r.status = 'waiting' and r.waiting_for is null))::float8 as oldest_seconds
  from job_executions e join target_runs r on r.execution_id = e.id
  where e.finished_at is null and r.status in ('waiting', 'running') group by r.zone
)
select zone, coalesce(waiting, 0) as waiting, coalesce(ready, 0) as ready,
  coalesce(running, 0) as running, oldest_seconds,
       coalesce(workers, 0) as workers
from work full join alive using (zone) order by zone"""
# Only open executions: the processes that end executions count those, and counting all rows at each
# scrape would be slow.
_OPEN = """
select case when cancelling then 'cancelling' when paused then 'paused' else status end as status,
  count(*) as executions
from job_executions where finished_at is null group by 1 order by 1"""
_UPKEEP = f"""
select (select coalesce(jsonb_object_agg(name, extract(epoch from opsjobs_now() - ticked_at)),
  '{{}}') from services) as ticks,
       (select count(*) from (select 1 from events where published_at is null
         limit {COUNTED_MAX}) e) as events_unpublished,
       coalesce((select extract(epoch from opsjobs_now() - min(at)) from (
         select at from events where published_at is null limit {COUNTED_MAX}) e),
           0)::float8 as oldest_event_seconds,
       coalesce((select extract(epoch from clock_timestamp() - min(xact_start))
         from pg_stat_activity
         where datname = current_database() and backend_xmin is not null
           and pid <> pg_backend_pid()), 0)::float8
           as oldest_snapshot_seconds,
       (select count(*) from pg_inherits
         where inhparent = 'execution_log'::regclass) - 1 as partitions,
       coalesce((select max(substring(c.relname
         from '\\d{{8}}$')::date) - (opsjobs_now() at time zone 'UTC')::date
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'execution_log'::regclass and c.relname ~ '_\\d{{8}}$'),
           0) as days_ahead,
       (select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint from pg_inherits
         where inhparent = 'execution_log'::regclass) as log_bytes,
       (select count(*) from (select 1 from execution_log_default
         limit {COUNTED_MAX}) d) as default_rows,
       (select count(*) from (select 1 from deliveries where status = 'pending'
         limit {COUNTED_MAX}) d) as deliveries_pending,
       coalesce((select extract(epoch from opsjobs_now() - min(created_at)) from (
         select created_at from deliveries where status = 'pending' limit {COUNTED_MAX}) d),
           0)::float8 as oldest_delivery_seconds,
       (select count(*) from circuits where state <> 'closed') as circuits_open,
       (select count(*) from (
         select 1 from target_runs r
         where r.status in ('lost', 'dead') and not exists (select from dead_letter_answers a
           where a.run_id = r.id)
         limit {COUNTED_MAX}) d) as dead_letters"""


_SCHEDULES = """
select count(*) as total, count(*) filter (where enabled = false) as paused,
  min(next_fire_at) filter (where enabled) as next_due_at,
  count(*) filter (where enabled and next_fire_at < n.now - make_interval(secs => %s)) as late
from job_schedules, (select opsjobs_now() as now offset 0) n where deleted_at is null"""
_ZONES = """
select zone, count(*) as workers, sum(concurrency)::int as capacity
from workers where buried_at is null and expires_at > (select opsjobs_now())
group by zone order by zone"""
_STORAGE = """
select pg_database_size(current_database()) as database_bytes,
  coalesce((select sum(bytes) from file_usage), 0)::bigint as file_bytes"""
_CIRCUITS = "select state, count(*) as circuits from circuits where state <> 'closed' group by 1"
LATE_SECONDS = 60.0
"""Time after its due time from which a schedule that was not fired is late."""


class SystemStatus:
    """Reads the status, each part in one query. Raises Unavailable without PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def schema(self) -> str | None:
        """Return the revision of the database; None if it has no tables of opsjobs."""
        if not (
            await self._database.fetch("select to_regclass('alembic_version') is not null as there")
        )[0]["there"]:
            return None
        row = await self._database.fetch_one(
            "select max(version_num) as version from alembic_version"
        )
        return row["version"] if row else None

    async def restore_unfinished(self) -> bool:
        """Return True if the database was loaded by a restore that has not finished."""
        return await Restores(self._database).is_unfinished()

    async def server_version(self) -> str:
        """Return PostgreSQL's version, such as 18.1."""
        row = await self._database.fetch_one("select current_setting('server_version') as version")
        assert row is not None
        return str(row["version"]).split()[0]

    async def workers(self) -> list[WorkerStatus]:
        """Return workers not reaped, or reaped within the hour: at most 1,000, alive first."""
        return [WorkerStatus(**row) for row in await self._database.fetch(_WORKERS)]

    async def queues(self) -> list[Queue]:
        """Return a queue for each zone that has work or workers."""
        return [Queue(**row) for row in await self._database.fetch(_QUEUES)]

    async def open_executions(self) -> dict[str, int]:
        """Return the number of open executions by status."""
        return {row["status"]: row["executions"] for row in await self._database.fetch(_OPEN)}

    async def schedules(self) -> dict[str, Any]:
        """Return the numbers of schedules, paused ones and late ones, and the next due time."""
        row = await self._database.fetch_one(_SCHEDULES, [LATE_SECONDS])
        assert row is not None
        return {**row, "next_due_at": moment(row["next_due_at"])}

    async def zones(self) -> list[dict[str, Any]]:
        """Return the live workers of each zone, and how many runs they take at a time."""
        return [dict(row) for row in await self._database.fetch(_ZONES)]

    async def storage(self) -> dict[str, int]:
        """Return the bytes of the whole database, and of the uploaded files."""
        row = await self._database.fetch_one(_STORAGE)
        assert row is not None
        return dict(row)

    async def circuits(self) -> dict[str, int]:
        """Return the number of circuits that are not closed, by state."""
        return {row["state"]: row["circuits"] for row in await self._database.fetch(_CIRCUITS)}

    async def upkeep(self) -> Upkeep:
        """Return the numbers that housekeeping has to keep small."""
        row = await self._database.fetch_one(_UPKEEP)
        assert row is not None
        return Upkeep(**{**row, "ticks": {name: float(age) for name, age in row["ticks"].items()}})


OLDEST_VERSION = 15
TABLES_NAMED = 5
_KINDS = {
    "credentials": "credentials",
    "parameters": "executions with secret parameters",
    "triggers": "triggers",
    "webhooks": "webhooks",
    "audit_chain": "the audit log's signature",
}


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem and its solution.

    `fatal`: no request can be served; otherwise something will fail sooner or later.
    """

    code: str
    detail: str
    fatal: bool = False


# The rights are those of the role that asks. Partitions are reached through their table.
FACTS = f"""
select current_setting('server_version_num')::int / 10000 as major,
  current_setting('server_version') as version,
  pg_encoding_to_char(d.encoding) as encoding, d.datname as database, current_user::text as role,
  current_setting('search_path') as path, current_schema()::text as schema,
  has_schema_privilege(current_schema(), 'CREATE') as may_create,
  (select pg_has_role(c.relowner, 'USAGE') from pg_class c
    where c.oid = to_regclass('execution_log')) as owns_log,
  (select pg_get_userbyid(c.relowner)::text from pg_class c
    where c.oid = to_regclass('execution_log')) as owner,
  array(
    select c.relname::text from pg_class c
    where to_regclass('execution_log') is not null
      and c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
      and not c.relispartition and c.relname <> 'alembic_version'
      and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
        and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE'))
    order by 1 limit {TABLES_NAMED}) as denied
from pg_database d where d.datname = current_database()"""

# Larger than work_mem, so it is written to a temporary file on the database's volume, which is
# deleted afterwards.
_SPILL = (
    "select count(*) as n from (select repeat('x', 1000) as text from generate_series(1, "
    "2000) order by random(), 1 offset 0) s"
)


def find_complaints(facts: Mapping[str, Any], *, upgrading: bool = False) -> list[Complaint]:
    """Return the problems of a database by its FACTS.

    `upgrading`: check what a migration needs; rights on tables are not checked.
    """
    found = [*_server_faults(facts), *_schema_faults(facts)]
    return found if upgrading else [*found, *_rights_faults(facts)]


def _server_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    found = []
    if facts["major"] < OLDEST_VERSION:
        detail = f"PostgreSQL {facts['version']} is too old: use {OLDEST_VERSION} to 18."
        found.append(Complaint("database_too_old", detail, fatal=True))
    if facts["encoding"] != "UTF8":
        detail = (
            f"The database {facts['database']} has the encoding {facts['encoding']}, which cannot "
            f"hold every text. "
            "Create one with UTF8: create database NAME template template0 encoding 'UTF8'."
        )
        found.append(Complaint("database_encoding", detail, fatal=True))
    return found


def _schema_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    role = facts["role"]
    if facts["schema"] is None:
        detail = (
            f"The role {role} may use no schema of its search_path ({facts['path']}). "
            f"Create one: create schema opsjobs authorization {role}; alter role {role} set "
            f"search_path = opsjobs."
        )
        return [Complaint("database_schema", detail, fatal=True)]
    if not facts["may_create"]:
        detail = (
            f"The role {role} may not create tables in the schema {facts['schema']}. The log needs "
            f"a new partition each day. "
            f"As its owner: grant create on schema {facts['schema']} to {role}."
        )
        return [Complaint("database_rights", detail)]
    return []


def _rights_faults(facts: Mapping[str, Any]) -> list[Complaint]:
    role, found = facts["role"], []
    if facts["denied"]:
        detail = (
            f"The role {role} lacks rights on tables ({', '.join(facts['denied'])}). "
            f"As their owner: grant select, insert, update, delete on all tables in schema "
            f"{facts['schema']} to {role}."
        )
        found.append(Complaint("database_rights", detail, fatal=True))
    if facts["owns_log"] is False:
        detail = (
            f"The role {role} does not own execution_log, so it can add no partition to the log. "
            f"As an administrator: grant {facts['owner']} to {role}."
        )
        found.append(Complaint("database_rights", detail))
    return found


class Fitness:
    """Checks the database. Raises Unavailable while it cannot be reached."""

    def __init__(self, database: Database, keys: KeyRotation) -> None:
        self._database = database
        self._keys = keys

    async def faults(self) -> Sequence[Complaint]:
        """Return the problems of the server, its encoding, the schema and the role's rights."""
        row = await self._database.fetch_one(FACTS)
        assert row is not None
        return find_complaints(row)

    async def space(self) -> Sequence[Complaint]:
        """Check that the volume is not full, with a sort that writes 2 MB to a temporary file."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute("set local work_mem = '64kB'")
                await connection.execute(_SPILL)
        except DiskFull as full:
            return [Complaint(full.code, full.detail)]
        return []

    async def secrets(self) -> Sequence[Complaint]:
        """Report rows that are sealed under keys that ENCRYPTION_KEYS does not hold."""
        missing = await self._keys.missing()
        rows: dict[str, int] = {}
        for state in missing:
            for kind, count in state.sealed.items():
                rows[kind] = rows.get(kind, 0) + count
        counted = ", ".join(
            f"{count} {_KINDS[kind]}" if kind != "audit_chain" else _KINDS[kind]
            for kind, count in rows.items()
            if count
        )
        if not counted:
            return []
        detail = (
            f"Sealed under keys that ENCRYPTION_KEYS does not hold "
            f"({', '.join(state.id for state in missing)}): {counted}. "
            "Nothing of it can be opened. Give this process the keys that it was sealed with."
        )
        return [Complaint("secrets_not_readable", detail)]
