"""The outbox's reading side: unpublished facts, a shard at a time and in order, marked once they are out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs.store.execution_log import SHARDS
from opsjobs.store.transaction import Database

_LOCK = 0x6F700000


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the outbox. Type `target_run` stands for a range of an execution's log; it has no data of its own.

    `stale`: it has waited for so long that one that cannot be told is given up.
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


# One look into the index of what waits for each shard, however much that is. In the order of that index: for any one row a planner who
# takes most events for unpublished would read the table, and find those first that were published.
_SHARDS = f"""
select s.n as shard from generate_series(0, {SHARDS - 1}) s(n) cross join lateral (
  select 1 from events e where e.shard between s.n and s.n and e.published_at is null order by e.shard, e.id limit 1) waiting"""
# A range of one shard: with an equality the primary key is in this order, too, and all that was published lies before what waits.
_NEXT = """
select id, type, subject, execution_id, from_seq, to_seq, data, at, (opsjobs_now() - at > interval '1 hour') as stale from events
where shard between %(shard)s and %(shard)s and published_at is null order by shard, id limit %(limit)s"""
_MARK = "update events set published_at = opsjobs_now() where id = any(%s::bigint[])"


class Outbox:
    """What waits to be told. Two relays on one shard would break the order, so a shard has one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def shards(self) -> Sequence[int]:
        """The shards where something waits."""
        return [row["shard"] for row in await self._database.fetch(_SHARDS)]

    @asynccontextmanager
    async def batch(self, shard: int, *, limit: int) -> AsyncIterator[tuple[list[Fact], list[int]]]:
        """The oldest facts of a shard, and a list for the ids of those that were told: they are marked at the end.

        Nothing at all where another relay holds the shard. The caller keeps the block under 10 s.
        """
        told: list[int] = []
        async with self._database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = '10s'")
            locked = await (await connection.execute("select pg_try_advisory_xact_lock(%s) as ours", [_LOCK + shard])).fetchone()
            if locked is None or not locked["ours"]:
                yield [], told
                return
            rows = await (await connection.execute(_NEXT, {"shard": shard, "limit": limit})).fetchall()
            yield [Fact(**row) for row in rows], told
            await connection.execute(_MARK, [told])
