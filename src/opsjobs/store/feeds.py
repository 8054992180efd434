"""Gap-free streams that readers follow by position: events, and the audit log.

`EventFeed`: committed events, whether published or not. An event gets its position after its
commit. If it commits late, its position is after newer events, so that no reader misses it.

`AuditFeed`: the audit log as it is forwarded, sealed rows by their numbers, and how many wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs import failpoints
from opsjobs.model.audit_chain import FIELDS, stamp
from opsjobs.store.outbox import TRACEPARENT, OutboxEvent
from opsjobs.store.transaction import Database

AUDIT_SERVICE = "audit_service"
"""The source of deliveries whose position is a number of the audit log, not of an event."""
POSITIONED_MAX = 2_000
"""Events that one transaction gives a position."""
DELETED_ROWS_MAX = 5_000
_LOCK = 0x6F70731001
EVENT_SOURCES = f"delivery_sources s where s.name <> '{AUDIT_SERVICE}'"
"""The sources of deliveries that read events."""

_WAITING = "select 1 from events where position is null limit 1"
_ALONE = "select pg_try_advisory_xact_lock(%s) as ours"
# Locked in the order of ids, as the publisher does to mark them: neither waits for the other in a
# circle.
_LOCKED = "select id from events where position is null order by id limit %s for update"
_ASSIGN = """
with head as (
  update event_positions set last = last + cardinality(%(ids)s::bigint[])
  returning last - cardinality(%(ids)s::bigint[]) as before)
update events e set position = head.before + n.place
from head, unnest(%(ids)s::bigint[]) with ordinality as n(id, place) where e.id = n.id"""
_BOUNDS = "select deleted, last from event_positions"
_READ = f"""
select id, type, subject, execution_id, from_seq, to_seq, data, at, position,
  opsjobs_now() - at > interval '1 hour' as stale, {TRACEPARENT} as traceparent from events e
where position > %(after)s order by position limit %(limit)s"""
# The oldest ones, in the order of positions, up to the first that must stay: those before it are
# gone for readers, too, so that they see no gap. An event stays until it is published and every
# source of deliveries has read it, for at most a week.
_DELETE = f"""
with oldest as materialized (
  select id, position, at, published_at from events where position > (
    select deleted from event_positions) order by position limit %(limit)s
), kept as (
  select min(position) as position from oldest
  where at >= (select opsjobs_now()) - make_interval(secs => %(seconds)s)
    or at >= (select opsjobs_now()) - interval '7 days' and (published_at is null
      or position > (select coalesce(min(s.position), 9223372036854775807)
                     from {EVENT_SOURCES}))
), gone as (
  delete from events where id = any(array(
    select o.id from oldest o, kept k where k.position is null or o.position < k.position))
  returning position
), noted as (
  update event_positions set deleted = (select max(position) from gone)
  where exists (select from gone))
select count(*) as n from gone"""


@dataclass(frozen=True, slots=True)
class FeedBounds:
    """The stream holds the events after `deleted`, up to `last`."""

    deleted: int
    last: int


class EventFeed:
    """Assigns positions to committed events, and reads events by position."""

    def __init__(self, database: Database, *, keep_seconds: float = 3 * 86_400.0) -> None:
        self._database = database
        self._keep_seconds = keep_seconds

    async def assign(self) -> int:
        """Give committed events their positions, at most 2,000; return how many.

        It costs one query if there are none, or if another process does it.
        """
        if await self._database.fetch_one(_WAITING) is None:
            return 0
        return await self._database.retry(self._assign)

    async def _assign(self) -> int:
        async with failpoints.at("event.position"), self._database.transaction() as connection:
            alone = await (await connection.execute(_ALONE, [_LOCK])).fetchone()
            if alone is None or not alone["ours"]:
                return 0
            # Read after the lock: it sees the positions that the previous holder assigned.
            rows = await (await connection.execute(_LOCKED, [POSITIONED_MAX])).fetchall()
            await connection.execute(_ASSIGN, {"ids": [row["id"] for row in rows]})
            return len(rows)

    async def bounds(self) -> FeedBounds:
        """Return which positions the stream holds now."""
        row = await self._database.fetch_one(_BOUNDS)
        assert row is not None
        return FeedBounds(**row)

    async def read(self, after: int, *, limit: int) -> Sequence[OutboxEvent]:
        """Return events after a position, in order."""
        rows = await self._database.fetch(_READ, {"after": after, "limit": limit})
        return [OutboxEvent(**row) for row in rows]

    async def delete_old(self) -> int:
        """Delete the oldest events that are past their time and read; return how many."""
        parameters = {"seconds": self._keep_seconds, "limit": DELETED_ROWS_MAX}
        row = await self._database.retry(lambda: self._database.fetch_one(_DELETE, parameters))
        assert row is not None
        return int(row["n"])


COUNTED_MAX = 1_000_000

_ROWS = f"""
select {", ".join(FIELDS)}, encode(hash, 'hex') as hash from audit_log
where seal > %s order by seal limit %s"""
_LAST = "select coalesce(max(seal), 0) as last from audit_log"
_PENDING = """
select count(*) as n from (
  select from deliveries d join delivery_receivers r on r.id = d.receiver_id
  where r.destination = %s and d.status = 'pending' limit %s) counted"""
_POSITION = "select position from delivery_sources where name = %s"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One sealed row."""

    seal: int
    action: str
    at: datetime
    data: Mapping[str, Any]


class AuditFeed:
    """Reads sealed rows by their numbers: 1, 2, 3 … in the order in which they became visible."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, after: int, *, limit: int) -> Sequence[AuditRow]:
        """Return the rows behind a number, in order."""
        rows = await self._database.fetch(_ROWS, [after, limit])
        return [
            AuditRow(row["seal"], row["action"], row["at"], {**row, "at": stamp(row["at"])})
            for row in rows
        ]

    async def last_seal(self) -> int:
        """Return the number of the newest sealed row; 0 if there is none."""
        row = await self._database.fetch_one(_LAST)
        assert row is not None
        return int(row["last"])

    async def count_pending(self, destination: str, most: int) -> int:
        """Return how many deliveries wait for a destination; at most `most` are counted."""
        row = await self._database.fetch_one(_PENDING, [destination, most])
        assert row is not None
        return int(row["n"])

    async def backlog(self, source: str) -> int:
        """Return how many rows the Audit Service has not yet got, counted by their numbers."""
        row = await self._database.fetch_one(_POSITION, [source])
        if row is None:
            return 0
        waiting = max(await self.last_seal() - int(row["position"]), 0)
        return waiting + await self.count_pending(source, COUNTED_MAX)
