"""The outbox: events are appended in the transaction of a change, and published later.

A shard is published by one publisher at a time and in order; events are marked once they are
published. Apart from that, the stream (feeds.py) gives them positions, and deletes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from opsjobs.model.events import EventType
from opsjobs.store.transaction import Connection, Database
from opsjobs.telemetry import trace_context

SHARDS = 16
_LOCK = 0x6F700000


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """One row of the outbox.

    The type `target_run` represents a range of an execution's log; it has no data.
    """

    id: int
    type: str
    subject: UUID
    execution_id: int | None
    from_seq: int | None
    to_seq: int | None
    data: dict[str, Any] | None
    at: datetime
    stale: bool = False
    position: int | None = None
    """The event's place in the stream, in what the stream returns."""
    traceparent: str | None = None
    """The trace context in which it was written; of an execution's event, that of its launch."""


TRACEPARENT = """
coalesce((select s.traceparent from execution_specs s where s.execution_id = e.execution_id),
  e.traceparent)"""
"""The trace context of an event `e`: that of its execution, or its own."""

# One lookup in the index of unpublished events per shard, however many there are. In the order of
# that index: to find just any row, a planner that expects most events to be unpublished would read
# the table, and find the published ones first.
_SHARDS = f"""
select s.n as shard from generate_series(0, {SHARDS - 1}) s(n) cross join lateral (
  select 1 from events e where e.shard between s.n and s.n and e.published_at is null
  order by e.shard, e.id limit 1) waiting"""
# A range of one shard: with an equality, the primary key would also give this order, and there all
# published events come before the unpublished ones.
_NEXT = f"""
select id, type, subject, execution_id, from_seq, to_seq, data, at,
  (opsjobs_now() - at > interval '1 hour') as stale, {TRACEPARENT} as traceparent from events e
where shard between %(shard)s and %(shard)s and published_at is null order by shard,
  id limit %(limit)s"""
# Locked in the order of ids, as for positions: neither waits for the other in a circle.
_MARK = """
with published as materialized (
  select id from events where id = any(%s::bigint[]) order by id for update)
update events e set published_at = opsjobs_now() from published p where e.id = p.id"""


class Outbox:
    """Events that wait to be published.

    Two publishers on one shard would break the order, so a shard has one at a time.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_shards(self) -> Sequence[int]:
        """Return the shards that have unpublished events."""
        return [row["shard"] for row in await self._database.fetch(_SHARDS)]

    @asynccontextmanager
    async def batch(
        self, shard: int, *, limit: int
    ) -> AsyncIterator[tuple[list[OutboxEvent], list[int]]]:
        """Yield the oldest events of a shard, and a list for the ids of those published.

        The listed events are marked at the end of the block. Yields no events if another publisher
        holds the shard. The caller keeps the block under 10 s.
        """
        published: list[int] = []
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '10s'")
            locked = await (
                await connection.execute(
                    "select pg_try_advisory_xact_lock(%s) as ours", [_LOCK + shard]
                )
            ).fetchone()
            if locked is None or not locked["ours"]:
                yield [], published
                return
            rows = await (
                await connection.execute(_NEXT, {"shard": shard, "limit": limit})
            ).fetchall()
            yield [OutboxEvent(**row) for row in rows], published
            await connection.execute(_MARK, [published])

    async def append_progress(self, execution_id: int, uuid: UUID | str) -> None:
        """Append an event that an execution has made progress."""
        async with self._database.connection() as connection:
            progress = EventType.EXECUTION_PROGRESS
            await append_event(
                connection, progress, uuid, None, shard=execution_id, execution_id=execution_id
            )


async def append_event(
    connection: Connection,
    event_type: EventType,
    subject: UUID | str,
    data: Mapping[str, Any] | None,
    *,
    shard: int = 0,
    execution_id: int | None = None,
) -> None:
    """Append an event; it is published after the caller's transaction is committed."""
    await connection.execute(
        "insert into events (shard, type, subject, execution_id, data, traceparent)"
        " values (%s, %s, %s, %s, %s, %s)",
        [
            shard % SHARDS,
            event_type.value,
            str(subject),
            execution_id,
            Jsonb(data) if data is not None else None,
            trace_context.traceparent(),
        ],
    )
