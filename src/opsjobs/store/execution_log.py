"""The execution log, read by position, and its daily partitions.

Partitions are created ahead. Rows that had no partition are moved to a new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import errors
from psycopg.rows import DictRow

from opsjobs.model.errors import Gone
from opsjobs.model.run_views import Execution
from opsjobs.store.transaction import Database

PAGE_BYTES = 1 << 20
# Number of executions whose day a process caches.
CACHED_DAYS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of an execution's log."""

    seq: int
    at: datetime
    event: str
    target_run: int | None
    target: str | None
    action: str | None
    attempt: int | None
    stream: str | None
    start_offset: int | None
    """The offset of an output entry in its stream."""
    data: bytes | None
    """The bytes of an output entry."""
    dropped: int | None
    """The number of bytes that were dropped, instead of `data`."""
    body: Mapping[str, Any] | None
    lines: int = 0
    """The number of lines that begin in an output entry."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """The entries that a reader wants; the `end` in any case."""

    events: frozenset[str] | None = None
    """None: every event."""
    target_run: int | None = None
    """None: the entries of all runs, and those of the execution as a whole."""

    def admits(self, event: str, target_run: int | None) -> bool:
        """Return True if an entry is wanted."""
        return event == "end" or (
            (self.events is None or event in self.events)
            and (self.target_run is None or target_run == self.target_run)
        )


EVERY_ENTRY = LogFilter()

_COLUMNS = (
    "seq, at, event, target_run_id, target_id, action, attempt, stream, start_offset, data, "
    "dropped, body, lines"
)

_READ = f"""
select {_COLUMNS} from (
  select {_COLUMNS}, sum(coalesce(octet_length(data),
                                  0)) over (order by seq) - coalesce(octet_length(data),
                                  0) as before
  from (select * from execution_log
        where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s
        order by seq limit %(limit)s) page
) sized where before < %(max_bytes)s order by seq"""

_MATCHING = f"""
select {_COLUMNS} from (
  select {_COLUMNS}, sum(coalesce(octet_length(data),
                                  0)) over (order by seq) - coalesce(octet_length(data),
                                  0) as before
  from (select * from execution_log
        where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s
          and seq <= %(upto)s
          and (event = 'end' or (%(events)s::text[] is null or event = any(%(events)s))
               and (%(target_run)s::bigint is null or target_run_id = %(target_run)s))
        order by seq limit %(limit)s) page
) sized where before < %(max_bytes)s order by seq"""

_OUTPUT = f"""
select {_COLUMNS} from (
  select {_COLUMNS}, sum(coalesce(octet_length(data),
                                  0)) over (order by seq) - coalesce(octet_length(data),
                                  0) as before
  from (select * from execution_log
        where log_day = {{day}} and execution_id = %(execution)s and seq > %(after)s
          and event = 'output'
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


class ExecutionLog:
    """Read access to the log, one bounded page at a time.

    No connection is held between pages. The day of an execution is part of the statement itself, so
    that one partition is planned and locked, and not all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._days = OrderedDict[int, date]()

    async def read(
        self, execution_id: int, *, after: int = 0, limit: int = 1_000, max_bytes: int = PAGE_BYTES
    ) -> list[LogEntry]:
        """Return the entries after a position, in order.

        At most `limit`; the page ends early once its data has reached `max_bytes`.
        """
        given = {"execution": execution_id, "after": after, "limit": limit, "max_bytes": max_bytes}
        return [_entry(row) for row in await self._fetch(_READ, given)]

    async def read_matching(
        self,
        execution_id: int,
        log_filter: LogFilter,
        *,
        after: int,
        upto: int,
        limit: int,
        max_bytes: int,
    ) -> tuple[list[LogEntry], int]:
        """Return wanted entries in (after, upto], in order, and the position that was reached.

        The log has every entry up to `upto`. A page ends early as that of `read`.
        """
        given = {
            "execution": execution_id,
            "events": None if log_filter.events is None else sorted(log_filter.events),
            "target_run": log_filter.target_run,
            "after": after,
            "upto": upto,
            "limit": limit,
            "max_bytes": max_bytes,
        }
        entries = [_entry(row) for row in await self._fetch(_MATCHING, given)]
        is_full = (
            len(entries) == limit or sum(len(entry.data or b"") for entry in entries) >= max_bytes
        )
        return entries, entries[-1].seq if is_full else upto

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
        """Yield pages of output entries in order, narrowed to a target run, stream or action."""
        narrowed = {
            "execution": execution_id,
            "target_run": target_run,
            "stream": stream,
            "action": action,
        }
        while rows := await self._fetch(
            _OUTPUT, {**narrowed, "after": after, "limit": limit, "max_bytes": max_bytes}
        ):
            after = rows[-1]["seq"]
            yield [_entry(row) for row in rows]

    async def check_available(self, execution: Execution) -> None:
        """Raise Gone if the log of the execution's day was dropped."""
        if not execution.status.final:
            return
        if (
            await self._database.fetch_one(
                "select from dropped_log_days where log_day = %s", [execution.log_day]
            )
            is not None
        ):
            detail = (
                f"The log of execution {execution.id}, of {execution.log_day}, is gone: it "
                f"was older than OPSJOBS_KEEP_LOGS."
            )
            raise Gone("log_dropped", detail)

    async def read_states(
        self, execution_id: int, *, after: int, upto: int, limit: int
    ) -> list[LogEntry]:
        """Return status entries of target runs in (after, upto], in order.

        The events for a range of the log are built from them.
        """
        given = {"execution": execution_id, "after": after, "upto": upto, "limit": limit}
        return [_entry(row) for row in await self._fetch(_STATES, given)]

    async def _fetch(self, query: str, given: Mapping[str, Any]) -> list[DictRow]:
        day = await self._day(given["execution"])
        return (
            []
            if day is None
            else await self._database.fetch(query.format(day=f"date '{day.isoformat()}'"), given)
        )

    async def _day(self, execution_id: int) -> date | None:
        """Return the day of an execution's log, or None if there is no such execution.

        The day never changes.
        """
        if execution_id in self._days:
            self._days.move_to_end(execution_id)
            return self._days[execution_id]
        row = await self._database.fetch_one(_DAY, [execution_id])
        if row is None:
            return None
        self._days[execution_id] = row["log_day"]
        if len(self._days) > CACHED_DAYS_MAX:
            self._days.popitem(last=False)
        return self._days[execution_id]


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
        row["lines"] or 0,
    )


DAYS_AHEAD = 14
# Maximum time of waiting for the lock to attach a partition: readers of the log delay it, and it
# delays later readers.
LOCK_WAIT_MS = 200
# Time limit for moving the rows of a day. Only writers of that day wait in the meantime.
MOVE_SECONDS = 600

WANTED = "select day from opsjobs_wanted_partitions(%(ahead)s) as day"
MAKE = "select opsjobs_make_partition(%(day)s) as made"


class Partitions:
    """Creates partitions, each in its own transaction, so that a failure does not stop others."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_missing(self) -> Sequence[date]:
        """Return the days that need a partition.

        These are today and the days ahead, then days whose rows are in the default partition.
        """
        return [row["day"] for row in await self._database.fetch(WANTED, {"ahead": DAYS_AHEAD})]

    async def make(self, day: date) -> bool:
        """Create the partition of a day, and move its rows from the default partition.

        Returns False if the log is in use: try again later.
        """
        try:
            async with self._database.transaction() as connection:
                await connection.execute(f"set local lock_timeout = '{LOCK_WAIT_MS}ms'")
                await connection.execute(f"set local statement_timeout = '{MOVE_SECONDS}s'")
                connection.wait_longer(MOVE_SECONDS)
                try:
                    row = await (await connection.execute(MAKE, {"day": day})).fetchone()
                except errors.LockNotAvailable as busy:
                    raise _PartitionBusyError from busy
        except _PartitionBusyError:
            return False
        return row is not None and row["made"]


class _PartitionBusyError(Exception):
    """The log is in use."""
