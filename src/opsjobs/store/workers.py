"""Leases of worker processes: registered, renewed, buried. Death is written down, never computed by a reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from opsjobs.store.transaction import SESSION_OPTIONS, Database, driver_url


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of one worker process."""

    id: UUID
    name: str
    zone: str
    pid: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a renewal: still alive by the ledger, and which of the worker's executions are being cancelled."""

    alive: bool
    stopping: frozenset[int]


_REGISTER = """
insert into workers (id, name, zone, pid, concurrency, expires_at)
values (%(id)s, %(name)s, %(zone)s, %(pid)s, %(concurrency)s, opsjobs_now() + make_interval(secs => %(lease)s))
on conflict (id) do nothing"""

_RENEW = """
update workers set renewed_at = opsjobs_now(), expires_at = opsjobs_now() + make_interval(secs => %(lease)s)
where id = %(id)s and buried_at is null returning id"""

_STOPPING = """
select distinct e.id from target_runs r join job_executions e on e.id = r.execution_id
where r.owner = %(id)s and r.status = 'running' and e.cancelling"""

_BURY_EXPIRED = """
with expired as (
  select id from workers where buried_at is null and expires_at < (select opsjobs_now()) for update skip locked
), buried as (
  update workers w set buried_at = opsjobs_now() from expired where w.id = expired.id returning w.id, w.name, w.zone, w.stopped_at
), told as (
  insert into events (shard, type, subject, data)
  select 0, 'worker.lost', id, jsonb_build_object('id', id, 'name', name, 'zone', zone) from buried where stopped_at is null
)
select name, zone from buried"""

_BURY_NAMED = """
with buried as (
  update workers set buried_at = opsjobs_now() where name = %s and buried_at is null returning id, name, zone
), told as (
  insert into events (shard, type, subject, data)
  select 0, 'worker.lost', id, jsonb_build_object('id', id, 'name', name, 'zone', zone) from buried
)
select zone from buried"""

_STOP = "update workers set stopped_at = opsjobs_now(), buried_at = opsjobs_now() where id = %s and buried_at is null"

_FORGET = """
delete from workers w where w.buried_at < (select opsjobs_now()) - interval '7 days'
  and not exists (select 1 from target_runs r where r.owner = w.id and r.status = 'running') returning 1"""

_TICK = """
insert into services (name, ticked_at) values (%s, opsjobs_now()) on conflict (name) do update set ticked_at = opsjobs_now()"""


class Workers:
    """The rows of `workers` and `services`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, worker: Incarnation, *, lease_seconds: float) -> None:
        """Begin a life. Given again after a lost answer: the same."""
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

    async def bury_expired(self) -> Sequence[str]:
        """Bury who did not renew in time; says the zones whose runs can now be taken over."""
        return [row["zone"] for row in await self._database.fetch(_BURY_EXPIRED)]

    async def bury(self, name: str) -> int:
        """Bury all lives of a worker whose process was seen to die; says how many there were."""
        return len(await self._database.fetch(_BURY_NAMED, [name]))

    async def stop(self, worker_id: UUID) -> None:
        """End a life in order."""
        async with self._database.connection() as connection:
            await connection.execute(_STOP, [worker_id])

    async def forget(self) -> int:
        """Delete lives that ended a week ago; return how many."""
        return len(await self._database.fetch(_FORGET))

    async def tick(self, service: str) -> None:
        """Note that a service is at work now."""
        async with self._database.connection() as connection:
            await connection.execute(_TICK, [service])

    async def silent_seconds(self, service: str) -> float | None:
        """How long ago a service was at work; None: never."""
        query = "select extract(epoch from opsjobs_now() - ticked_at)::float8 as age from services where name = %s"
        row = await self._database.fetch_one(query, [service])
        return None if row is None else row["age"]


class Lease:
    """The renewal of one life, on a connection of its own, so that no queue of ours can delay it."""

    def __init__(self, url: str, worker: Incarnation, *, lease_seconds: float) -> None:
        self._url = driver_url(url)
        self._parameters = {"id": worker.id, "lease": lease_seconds}
        self._connection: AsyncConnection[DictRow] | None = None

    async def renew(self) -> Renewal:
        """Prove life. Raises psycopg.OperationalError while PostgreSQL is away."""
        connection = await self._connected()
        try:
            alive = await (await connection.execute(_RENEW, self._parameters)).fetchone()
            stopping = await (await connection.execute(_STOPPING, self._parameters)).fetchall()
        except BaseException:
            await self.close()
            raise
        return Renewal(alive is not None, frozenset(row["id"] for row in stopping))

    async def close(self) -> None:
        """Close the connection; the next renewal opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> AsyncConnection[DictRow]:
        if self._connection is None:
            self._connection = await AsyncConnection[DictRow].connect(
                self._url,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=5,
                application_name="opsjobs lease",
                options=f"{SESSION_OPTIONS} -c statement_timeout=5s",
            )
        return self._connection
