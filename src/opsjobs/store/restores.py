"""Mark a database that was restored from a backup.

What ran after the backup is not in the database, but the targets and other services have seen it.
From the mark on, a worker starts nothing of that time unless the target itself proves that it did
not run (docs/decisions/0114).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.execution import moment
from opsjobs.store import audit
from opsjobs.store.connections import NETWORK, driver_url
from opsjobs.store.transaction import Connection, Database

UNFINISHED = "restore_unfinished"
"""A table that says that a restore has loaded the database and has not finished.

It comes with the dump, and is dropped once the database is marked and its executions are paused.
While it is there, no process of the service uses the database.
"""
NOT_FINISHED = (
    "A restore into this database has not finished. Wait for it. If it was ended, run "
    "`opsjobs restore` with --replace, or use another database."
)

_LOCK = 0x726573746F7265  # "restore"; any number is possible as long as it never changes

RECORD_KEPT = timedelta(hours=23)
"""The time after a backup in which targets have the record of each command since then.

They keep it for 24 hours after a run has ended; an hour is for the start of its removal.
"""

EVENT_IDS_SKIPPED = 1_000_000_000
EXECUTION_IDS_SKIPPED = 1_000


@dataclass(frozen=True, slots=True)
class Position:
    """The state of the database, read before a backup."""

    at: datetime
    """The database's time."""
    revision: str
    executions: int
    """The highest id of an execution."""
    events: int
    """The highest id of an event."""
    audit_head: str
    """The end of the sealed audit log, as `opsjobs audit verify --head` takes it."""
    server: str
    """The version of PostgreSQL."""
    bytes: int
    """The size of the database."""


@dataclass(frozen=True, slots=True)
class MarkedRestore:
    """The outcome of a mark."""

    open_executions: Sequence[int]
    """Executions that had begun, or waited for workers, at the time of the backup."""
    waiting_approvals: int
    """Executions that waited for an approval."""
    sessions_ended: int
    """Logins of people that were ended."""


_POSITION = """
select opsjobs_now() as at, (select version_num from alembic_version) as revision,
  (select coalesce(max(id), 0) from job_executions) as executions,
  (select coalesce(max(id), 0) from events) as events,
  (select head_seal || ':' || encode(head_hash, 'hex') from audit_chain) as audit_head,
  current_setting('server_version') as server,
  pg_database_size(current_database()) as bytes"""

_TABLES = """
select from pg_class where relnamespace = current_schema()::regnamespace
  and relkind in ('r', 'p') limit 1"""

# Objects of the schema that belong to the role; those of extensions stay.
_CLEAR = """
do $$
declare dropping text;
begin
  -- An array, as the names must be read before the first of them is dropped.
  foreach dropping in array array(
    select format('drop table if exists %s cascade', oid::regclass) from pg_class c
    where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
      and not relispartition and pg_has_role(relowner, 'USAGE') and not exists (
        select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    union all
    select format('drop routine if exists %s cascade', oid::regprocedure) from pg_proc p
    where pronamespace = current_schema()::regnamespace and proname like 'opsjobs\\_%'
      and pg_has_role(proowner, 'USAGE'))
  loop
    execute dropping;
  end loop;
end
$$"""

_INSERT = "insert into restores (backup_at) values (%s)"

# All workers of that time are gone: their runs are taken over at once.
_REAP = "update workers set buried_at = opsjobs_now() where buried_at is null"

_END_SESSIONS = """
with ended as (
  update sessions set ended_at = opsjobs_now(), because = 'restored from a backup'
  where ended_at is null returning id
)
select count(*) as n from ended"""

# Events and executions since the backup have used ids that the sequences would give again.
_SKIP_IDS = """
select setval(pg_get_serial_sequence('events', 'id'),
         (select coalesce(max(id), 0) from events) + %(events)s),
       setval(pg_get_serial_sequence('job_executions', 'id'),
         (select coalesce(max(id), 0) from job_executions) + %(executions)s)"""
# A reader of the stream goes on from a position that it saw after the backup.
_SKIP_POSITIONS = "update event_positions set last = last + %s"

# Ten times what is usual for the time that has passed.
_USUAL = """
select ceil(count(*) * 10 * (1 + extract(epoch from opsjobs_now() - %(backup_at)s) / 86400))::bigint
  as n
from job_executions
where created_at > %(backup_at)s::timestamptz - interval '1 day'"""

_OPEN = """
select coalesce(array_agg(id order by id) filter (where status <> 'pending_approval'), '{}') as ids,
  count(*) filter (where status = 'pending_approval') as pending
from job_executions where finished_at is null"""


class Restores:
    """Reads positions, and marks restores."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self) -> Position:
        """Return the state of the database."""
        row = await self._database.fetch_one(_POSITION)
        assert row is not None
        return Position(**row)

    async def is_empty(self) -> bool:
        """Return True if the role's schema has no table."""
        row = await self._database.fetch_one(_TABLES)
        return row is None

    async def is_unfinished(self) -> bool:
        """Return True if a restore has loaded the database and has not finished."""
        row = await self._database.fetch_one(
            "select to_regclass(%s) is not null as there", [UNFINISHED]
        )
        assert row is not None
        return bool(row["there"])

    async def clear(self) -> None:
        """Drop what an unfinished restore has loaded; do nothing to any other database."""
        async with self._database.transaction() as connection:
            found = await connection.execute("select to_regclass(%s) as marker", [UNFINISHED])
            row = await found.fetchone()
            if row is not None and row["marker"] is not None:
                await connection.execute(_CLEAR)

    async def mark(self, backup_at: datetime, name: str) -> MarkedRestore:
        """Mark the database as restored from the backup `name`, begun at `backup_at`.

        Call it before any process of the service uses the database, and `finish` afterwards.
        """
        async with self._database.transaction() as connection:
            await connection.execute(_INSERT, [backup_at])
            await connection.execute(_REAP)
            ended = await _count(connection, _END_SESSIONS)
            usual = await _count(connection, _USUAL, {"backup_at": backup_at})
            skipped = {
                "events": EVENT_IDS_SKIPPED,
                "executions": max(EXECUTION_IDS_SKIPPED, usual),
            }
            await connection.execute(_SKIP_IDS, skipped)
            await connection.execute(_SKIP_POSITIONS, [EVENT_IDS_SKIPPED])
            row = await (await connection.execute(_OPEN)).fetchone()
            assert row is not None
            restored = {"backup_at": moment(backup_at), "open_executions": len(row["ids"])}
            await audit.record(
                connection, "database.restored", "database", name, name, after=restored
            )
            return MarkedRestore(row["ids"], row["pending"], ended)

    async def finish(self) -> None:
        """Let the processes of the service use the database. Call it after `mark`."""
        async with self._database.transaction() as connection:
            await connection.execute(f"drop table if exists {UNFINISHED}")


@contextmanager
def exclude_other_restores(url: str) -> Iterator[None]:
    """Hold the lock of restores on a separate connection. Raises Refusal, Unavailable.

    The server releases it if this process is killed. As in upgrades, the transaction must not have
    a snapshot, or index builds would wait for it forever: hence no parameters.
    """
    try:
        connection = psycopg.connect(driver_url(url), autocommit=True, **NETWORK)
    except psycopg.OperationalError as away:
        raise Unavailable(f"PostgreSQL does not answer: {str(away).strip()}") from away
    with connection, connection.transaction():
        connection.execute("set local idle_in_transaction_session_timeout = 0")
        held = connection.execute(f"select pg_try_advisory_xact_lock({_LOCK})".encode()).fetchone()
        if held != (True,):
            raise Refusal(
                "restore_running",
                "another restore into this database is running. Wait for its end, and look at "
                "what it says.",
            )
        yield


async def _count(
    connection: Connection, query: str, parameters: dict[str, object] | None = None
) -> int:
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None
    return int(row["n"])
