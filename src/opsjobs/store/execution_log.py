"""The execution log, read by position, and the outbox of events, written inside other verbs' transactions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from opsjobs.model.errors import Gone
from opsjobs.model.events import EventType
from opsjobs.model.execution import Execution
from opsjobs.store.transaction import Connection, Database

SHARDS = 16
PAGE_BYTES = 1 << 20
# Of so many executions a process remembers the day.
DAYS_REMEMBERED = 10_000
# Rows that one statement deletes at most.
FORGET_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of an execution's log: for output the bytes (or how many were dropped) at `start_offset` of a stream."""

    seq: int
    at: datetime
    event: str
    target_run: int | None
    target: str | None
    action: str | None
    attempt: int | None
    stream: str | None
    start_offset: int | None
    data: bytes | None
    dropped: int | None
    body: Mapping[str, Any] | None


_COLUMNS = "seq, at, event, target_run_id, target_id, action, attempt, stream, start_offset, data, dropped, body"

_READ = f"""
select {_COLUMNS} from (
  select {_COLUMNS}, sum(coalesce(octet_length(data), 0)) over (order by seq) - coalesce(octet_length(data), 0) as before
  from (select * from execution_log
        where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s
        order by seq limit %(limit)s) page
) sized where before < %(max_bytes)s order by seq"""

_OUTPUT = f"""
select {_COLUMNS} from (
  select {_COLUMNS}, sum(coalesce(octet_length(data), 0)) over (order by seq) - coalesce(octet_length(data), 0) as before
  from (select * from execution_log
        where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s and event = 'output'
          and (%(target_run)s::bigint is null or target_run_id = %(target_run)s)
          and (%(stream)s::text is null or stream = %(stream)s)
          and (%(action)s::text is null or action = %(action)s)
        order by seq limit %(limit)s) page
) sized where before < %(max_bytes)s order by seq"""


_STATES = f"""
select {_COLUMNS} from execution_log
where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s and seq <= %(upto)s
  and event = 'status' and target_run_id is not null
order by seq limit %(limit)s"""

_DAY = "select log_day from job_executions where id = %s"

# By their keys, which are known first: a join might read the table.
_FORGET_PUBLISHED = """
delete from events where id = any(array(
  select id from events where published_at < (select opsjobs_now()) - interval '1 day' order by published_at limit %s)) returning 1"""

# The oldest of each shard are looked at: while Redis is away, millions wait behind them. By a range of one shard, so that only the
# index of what waits is in this order: with an equality, the primary key is, too, and all that was published lies before them.
_FORGET_UNPUBLISHED = f"""
delete from events where id = any(array(
  select e.id from generate_series(0, {SHARDS - 1}) s(n) cross join lateral (
    select w.id, w.at from events w where w.shard between s.n and s.n and w.published_at is null order by w.shard, w.id limit %s) e
  where e.at < (select opsjobs_now()) - interval '7 days')) returning 1"""

_FORGET_KEYS = """
delete from idempotency_keys where ctid = any(array(
  select ctid from idempotency_keys where created_at < (select opsjobs_now()) - interval '24 hours'
  order by created_at limit %s)) returning 1"""


class Journal:
    """Reads of the log, a bounded page at a time; no connection is held between pages.

    The day of an execution stands in the statement itself, so that one partition is planned and locked, and not all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._days = OrderedDict[int, date]()

    async def read(self, execution_id: int, *, after: int = 0, limit: int = 1_000, max_bytes: int = PAGE_BYTES) -> list[LogEntry]:
        """The entries after a position, in order: at most `limit`, and no further one once `max_bytes` are full."""
        given = {"execution": execution_id, "after": after, "limit": limit, "max_bytes": max_bytes}
        return [_entry(row) for row in await self._fetch(_READ, given)]

    async def output(
        self,
        execution_id: int,
        *,
        target_run: int | None = None,
        stream: str | None = None,
        action: str | None = None,
        after: int = 0,
        limit: int = 1_000,
        max_bytes: int = PAGE_BYTES,
    ) -> AsyncIterator[list[LogEntry]]:
        """Pages of output entries in order of position, narrowed to one target run, stream or action."""
        narrowed = {"execution": execution_id, "target_run": target_run, "stream": stream, "action": action}
        while rows := await self._fetch(_OUTPUT, {**narrowed, "after": after, "limit": limit, "max_bytes": max_bytes}):
            after = rows[-1]["seq"]
            yield [_entry(row) for row in rows]

    async def check_kept(self, execution: Execution) -> None:
        """Raises Gone where the log of its day was dropped."""
        if not execution.status.final:
            return
        if await self._database.fetch_one("select from dropped_log_days where log_day = %s", [execution.log_day]) is not None:
            detail = f"The log of execution {execution.id}, of {execution.log_day}, is gone: it was older than OPSJOBS_KEEP_LOGS."
            raise Gone("log_dropped", detail)

    async def states(self, execution_id: int, *, after: int, upto: int, limit: int) -> list[LogEntry]:
        """Status entries of target runs in (after, upto], in order: what the events of a range of the log are made of."""
        given = {"execution": execution_id, "after": after, "upto": upto, "limit": limit}
        return [_entry(row) for row in await self._fetch(_STATES, given)]

    async def _fetch(self, query: str, given: Mapping[str, Any]) -> list[DictRow]:
        day = await self._day(given["execution"])
        return [] if day is None else await self._database.fetch(query.format(day=f"date '{day.isoformat()}'"), given)

    async def _day(self, execution_id: int) -> date | None:
        """Return the day of an execution's log, which never changes; None if there is no such execution."""
        if execution_id in self._days:
            self._days.move_to_end(execution_id)
            return self._days[execution_id]
        row = await self._database.fetch_one(_DAY, [execution_id])
        if row is None:
            return None
        self._days[execution_id] = row["log_day"]
        if len(self._days) > DAYS_REMEMBERED:
            self._days.popitem(last=False)
        return self._days[execution_id]

    async def tell_progress(self, execution_id: int, uuid: UUID | str) -> None:
        """Say that the execution has come on."""
        async with self._database.connection() as connection:
            progress = EventType.EXECUTION_PROGRESS
            await write_event(connection, progress, uuid, None, shard=execution_id, execution_id=execution_id)

    async def forget_events(self) -> int:
        """Delete a part of the events that were published a day ago, or that nobody could be told for a week."""
        published = await self._database.fetch(_FORGET_PUBLISHED, [FORGET_ROWS])
        unpublished = await self._database.fetch(_FORGET_UNPUBLISHED, [FORGET_ROWS // SHARDS])
        return len(published) + len(unpublished)

    async def forget_keys(self) -> int:
        """Delete a part of the idempotency keys that are older than a day."""
        return len(await self._database.fetch(_FORGET_KEYS, [FORGET_ROWS]))


def _entry(row: Mapping[str, Any]) -> LogEntry:
    return LogEntry(
        row["seq"],
        row["at"],
        row["event"],
        row["target_run_id"],
        row["target_id"],
        row["action"],
        row["attempt"],
        row["stream"],
        row["start_offset"],
        row["data"],
        row["dropped"],
        row["body"],
    )


async def write_event(
    connection: Connection,
    event_type: EventType,
    subject: UUID | str,
    data: Mapping[str, Any] | None,
    *,
    shard: int = 0,
    execution_id: int | None = None,
) -> None:
    """Put a fact into the outbox; it is published once the caller's transaction is committed."""
    await connection.execute(
        "insert into events (shard, type, subject, execution_id, data) values (%s, %s, %s, %s, %s)",
        [shard % SHARDS, event_type.value, str(subject), execution_id, Jsonb(data) if data is not None else None],
    )
