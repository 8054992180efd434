"""Leases of worker processes, and locks held by one process at a time.

A worker is dead only once its row says so; readers never infer it from lease times.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from opsjobs.store.connections import LIMITS, DatabaseConnection, open_connection
from opsjobs.store.transaction import Database

# Maximum difference of the database's clock from the expected time; beyond that it has stepped, and
# lease times prove nothing.
CLOCK_SECONDS = 2
# Time limit of a renewal, which is short; its worker gives up sooner than this.
_RENEWAL_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One lifetime of a worker process."""

    id: UUID
    name: str
    zone: str
    pid: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a lease renewal."""

    alive: bool
    """False if the ledger has declared the worker dead."""
    stopping: frozenset[int]
    """The worker's executions that are being cancelled."""
    stopping_runs: frozenset[int]
    """The worker's runs that are being cancelled one by one."""
    now: float
    """The database's time, as seconds since 1970."""


_REGISTER = """
insert into workers (id, name, zone, pid, concurrency, expires_at)
values (%(id)s, %(name)s, %(zone)s, %(pid)s, %(concurrency)s,
        opsjobs_now() + make_interval(secs => %(lease)s))
on conflict (id) do nothing"""

# One statement: a renewal has to return in time, so it waits for a single response.
_RENEW = """
with renewed as (
  update workers set renewed_at = opsjobs_now(),
    expires_at = opsjobs_now() + make_interval(secs => %(lease)s)
  where id = %(id)s and buried_at is null returning id
)
select exists (select from renewed) as alive, extract(epoch from opsjobs_now())::float8 as now,
  array(
    select distinct e.id from target_runs r join job_executions e on e.id = r.execution_id
    where r.owner = %(id)s and r.status = 'running' and e.cancelling) as stopping,
  array(
    select r.id from target_runs r join job_executions e on e.id = r.execution_id
    where r.owner = %(id)s and r.status = 'running' and e.partly_cancelled and exists (
      select 1 from cancelled_runs c where c.execution_id = e.id and c.target_run_id = r.id))
    as stopping_runs"""

# A renewal in the future: the clock was set back since; living workers renew again within a third
# of a lease.
_EXPIRE_LEASES = f"""
with expired as (
  select id from workers
  where buried_at is null
    and (expires_at < (select opsjobs_now())
         or renewed_at > (select opsjobs_now() + interval '{CLOCK_SECONDS} s'))
    and (select abs(extract(epoch
                            from opsjobs_now()) - %(expected)s::float8) < {CLOCK_SECONDS}) is not
                            false
  for update skip locked
), dead as (
  update workers w set buried_at = opsjobs_now() from expired where w.id = expired.id
  returning w.id, w.name, w.zone, w.stopped_at
), published as (
  insert into events (shard, type, subject, data)
  select 0, 'worker.lost', id, jsonb_build_object('id', id, 'name', name, 'zone', zone) from dead
  where stopped_at is null
)
select name, zone from dead"""

_REAP = """
with dead as (
  update workers set buried_at = opsjobs_now() where name = %s and buried_at is null returning id,
    name, zone
), published as (
  insert into events (shard, type, subject, data)
  select 0, 'worker.lost', id, jsonb_build_object('id', id, 'name', name, 'zone', zone) from dead
)
select zone from dead"""

_STOP = (
    "update workers set stopped_at = opsjobs_now(), buried_at = opsjobs_now() where id = %s "
    "and buried_at is null"
)

_DELETE_OLD = """
delete from workers w where w.buried_at < (select opsjobs_now()) - interval '7 days'
  and not exists (select 1 from target_runs r where r.owner = w.id and r.status = 'running')
  returning 1"""

_TICK = """
insert into services (name, ticked_at) values (%s, opsjobs_now()) on conflict (name) do update
  set ticked_at = opsjobs_now()
returning extract(epoch from ticked_at)::float8 as now"""


class Workers:
    """The rows of `workers` and `services`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, worker: Incarnation, *, lease_seconds: float) -> None:
        """Register an incarnation; repeating it after a lost answer changes nothing."""
        async with self._database.connection() as connection:
            await connection.execute(
                _REGISTER,
                {
                    "id": worker.id,
                    "name": worker.name,
                    "zone": worker.zone,
                    "pid": worker.pid,
                    "concurrency": worker.concurrency,
                    "lease": lease_seconds,
                },
            )

    async def expire_leases(self, *, expected: float | None = None) -> Sequence[str]:
        """Declare workers dead that did not renew in time; return zones with runs to take over.

        `expected`: the expected time of the database's clock (seconds since 1970). If the clock
        differs, it has stepped, and no worker is declared dead.
        """
        return [
            row["zone"]
            for row in await self._database.fetch(_EXPIRE_LEASES, {"expected": expected})
        ]

    async def reap(self, name: str) -> int:
        """Declare all incarnations of a worker dead; return how many.

        Called after the termination of its process was observed.
        """
        return len(await self._database.fetch(_REAP, [name]))

    async def stop(self, worker_id: UUID) -> None:
        """End an incarnation that shuts down cleanly."""
        async with self._database.connection() as connection:
            await connection.execute(_STOP, [worker_id])

    async def find_dead(self, ids: Collection[UUID]) -> Collection[UUID]:
        """Return those of these incarnations that are known here and have been declared dead."""
        query = "select id from workers where id = any(%s) and buried_at is not null"
        return [row["id"] for row in await self._database.fetch(query, [[*ids]])]

    async def delete_old(self) -> int:
        """Delete incarnations that ended a week ago; return how many."""
        return len(await self._database.fetch(_DELETE_OLD))

    async def tick(self, service: str) -> float:
        """Record that a service is active now; return the database's time (seconds since 1970)."""
        row = await self._database.fetch_one(_TICK, [service])
        assert row is not None
        return float(row["now"])

    async def seconds_since_tick(self, service: str) -> float | None:
        """Return the seconds since the last tick of a service; None: it has never ticked."""
        query = (
            "select extract(epoch from opsjobs_now() - ticked_at)::float8 as age from services "
            "where name = %s"
        )
        row = await self._database.fetch_one(query, [service])
        return None if row is None else row["age"]


class Lease:
    """Renews the lease of one incarnation.

    It uses a separate connection, so that no queue of this process can delay it.
    """

    def __init__(self, url: str, worker: Incarnation, *, lease_seconds: float) -> None:
        self._url = url
        self._parameters = {"id": worker.id, "lease": lease_seconds}
        self._lease_seconds = lease_seconds
        self._connection: DatabaseConnection | None = None

    async def renew(self) -> Renewal:
        """Renew the lease. Raises psycopg.Error while PostgreSQL is unavailable."""
        if self._connection is None:
            self._connection = await self._connect()
        connection = self._connection
        try:
            row = await (await connection.execute(_RENEW, self._parameters)).fetchone()
        except BaseException:
            await connection.close()
            if self._connection is connection:
                self._connection = None
            raise
        assert row is not None
        return Renewal(
            row["alive"], frozenset(row["stopping"]), frozenset(row["stopping_runs"]), row["now"]
        )

    def abort(self) -> bool:
        """Abandon the connection without waiting for it; return False if there was none.

        The next renewal opens another.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        return connection is not None

    async def close(self) -> None:
        """Close the connection; the next renewal opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> DatabaseConnection:
        connection = await open_connection(
            self._url,
            limits={**LIMITS, "statement_timeout": f"{_RENEWAL_SECONDS}s"},
            application_name="opsjobs lease",
            # Per host: if one of several is unreachable, it must not use up the time for the next.
            connect_timeout=2,
        )
        connection.answer_seconds = self._lease_seconds
        return connection


# A time in the future was written before the clock was set back.
_ACQUIRE = """
insert into services as s (name, ticked_at) values (%(service)s, opsjobs_now())
on conflict (name) do update set ticked_at = excluded.ticked_at
where s.ticked_at <= excluded.ticked_at - make_interval(secs => %(pause)s)
  or s.ticked_at > excluded.ticked_at
returning true as ours"""
_RENEW_LOCK = "update services set ticked_at = opsjobs_now() where name = %(service)s"
_RELEASE = (
    "update services set ticked_at = opsjobs_now() - make_interval(secs => %(pause)s) where "
    "name = %(service)s"
)


class SingletonLock:
    """The locks of services: a row each, with the time of the holder's last heartbeat."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, service: str, pause_seconds: float) -> bool:
        """Return True to one process if no other has renewed the lock for `pause_seconds`."""
        return (
            await self._database.fetch_one(_ACQUIRE, {"service": service, "pause": pause_seconds})
            is not None
        )

    async def renew(self, service: str) -> None:
        """Show that the lock is still in use."""
        async with self._database.connection() as connection:
            await connection.execute(_RENEW_LOCK, {"service": service})

    async def release(self, service: str, pause_seconds: float) -> None:
        """Release a lock while work is left, so that the next holder need not wait."""
        async with self._database.connection() as connection:
            await connection.execute(_RELEASE, {"service": service, "pause": pause_seconds})
