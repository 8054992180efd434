"""Status of the service in PostgreSQL: workers, queues, ticks, partitions, schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from opsjobs.model.execution import moment
from opsjobs.store.transaction import Database

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
HEAD = max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))
"""The revision this release needs, from file names: importing alembic costs half a second."""
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
    dead_letters: int = 0


_WORKERS = f"""
select w.id, w.name, w.zone, w.pid, w.concurrency, w.started_at, w.buried_at is null and w.expires_at > opsjobs_now() as alive,
       extract(epoch from opsjobs_now() - w.started_at)::float8 as age_seconds,
       extract(epoch from opsjobs_now() - w.renewed_at)::float8 as renewed_seconds_ago,
       (select count(*) from target_runs r where r.owner = w.id and r.status = 'running') as running
from workers w where w.buried_at is null or w.renewed_at > (select opsjobs_now()) - interval '1 hour'
order by w.buried_at is null desc, w.zone, w.name, w.started_at desc limit {WORKERS_SHOWN}"""
_QUEUES = """
with alive as (
  select zone, count(*) as workers from workers where buried_at is null and expires_at > (select opsjobs_now()) group by zone
), work as (
  select r.zone, count(*) filter (where r.status = 'waiting' and r.waiting_for is not null) as waiting,
         count(*) filter (where r.status = 'waiting' and r.waiting_for is null) as ready,
         count(*) filter (where r.status = 'running') as running,
         extract(epoch from opsjobs_now() - min(e.created_at)
           filter (where r.status = 'waiting' and r.waiting_for is null))::float8 as oldest_seconds
  from job_executions e join target_runs r on r.execution_id = e.id
  where e.finished_at is null and r.status in ('waiting', 'running') group by r.zone
)
select zone, coalesce(waiting, 0) as waiting, coalesce(ready, 0) as ready, coalesce(running, 0) as running, oldest_seconds,
       coalesce(workers, 0) as workers
from work full join alive using (zone) order by zone"""
# Only what is open: the processes that end executions count those, and counting all rows at each
# scrape would be slow.
_OPEN = """
select case when cancelling then 'cancelling' when paused then 'paused' else status end as status, count(*) as executions
from job_executions where finished_at is null group by 1 order by 1"""
_UPKEEP = f"""
select (select coalesce(jsonb_object_agg(name, extract(epoch from opsjobs_now() - ticked_at)), '{{}}') from services) as ticks,
       (select count(*) from (select 1 from events where published_at is null limit {COUNTED_MAX}) e) as events_unpublished,
       coalesce((select extract(epoch from opsjobs_now() - min(at)) from (
         select at from events where published_at is null limit {COUNTED_MAX}) e), 0)::float8 as oldest_event_seconds,
       coalesce((select extract(epoch from clock_timestamp() - min(xact_start)) from pg_stat_activity
         where datname = current_database() and backend_xmin is not null and pid <> pg_backend_pid()), 0)::float8
           as oldest_snapshot_seconds,
       (select count(*) from pg_inherits where inhparent = 'execution_log'::regclass) - 1 as partitions,
       coalesce((select max(substring(c.relname from '\\d{{8}}$')::date) - (opsjobs_now() at time zone 'UTC')::date
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'execution_log'::regclass and c.relname ~ '_\\d{{8}}$'), 0) as days_ahead,
       (select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint from pg_inherits
         where inhparent = 'execution_log'::regclass) as log_bytes,
       (select count(*) from (select 1 from execution_log_default limit {COUNTED_MAX}) d) as default_rows,
       (select count(*) from circuits where state <> 'closed') as circuits_open,
       (select count(*) from (
         select 1 from target_runs r
         where r.status in ('lost', 'dead') and not exists (select from dead_letter_answers a where a.run_id = r.id)
         limit {COUNTED_MAX}) d) as dead_letters"""


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

    async def server_version(self) -> str:
        """Return PostgreSQL's version, such as 18.1."""
        row = await self._database.fetch_one("select current_setting('server_version') as version")
        assert row is not None
        return str(row["version"]).split()[0]

    async def workers(self) -> list[WorkerStatus]:
        """Return workers not reaped, and those reaped within the hour: at most 1,000, alive first."""
        return [WorkerStatus(**row) for row in await self._database.fetch(_WORKERS)]

    async def queues(self) -> list[Queue]:
        """Return a queue for each zone that has work or workers."""
        return [Queue(**row) for row in await self._database.fetch(_QUEUES)]

    async def open_executions(self) -> dict[str, int]:
        """Return the number of open executions by status."""
        return {row["status"]: row["executions"] for row in await self._database.fetch(_OPEN)}

    async def upkeep(self) -> Upkeep:
        """Return the numbers that the service's housekeeping has to keep small."""
        row = await self._database.fetch_one(_UPKEEP)
        assert row is not None
        return Upkeep(**{**row, "ticks": {name: float(age) for name, age in row["ticks"].items()}})
