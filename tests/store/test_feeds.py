"""The stream of events: committed events in one order, without gaps or late insertions."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from opsjobs import failpoints
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import EventType
from opsjobs.store.feeds import EventFeed, FeedBounds
from opsjobs.store.outbox import Outbox, append_event
from opsjobs.store.transaction import Database


async def append(database: Database, *names: str) -> None:
    async with database.transaction() as connection:
        for name in names:
            await append_event(connection, EventType.JOB_CREATED, uuid4(), {"name": name})


async def names(stream: EventFeed, after: int = 0) -> list[tuple[int | None, str]]:
    return [
        (event.position, (event.data or {})["name"])
        for event in await stream.read(after, limit=1_000)
    ]


async def test_an_event_that_commits_late_comes_after_those_that_were_read(
    database: Database,
) -> None:
    stream = EventFeed(database)
    async with database.transaction() as late:
        await append_event(late, EventType.JOB_CREATED, uuid4(), {"name": "late"})
        await append(database, "early")
        assert await stream.assign() == 1
        assert await names(stream) == [(1, "early")]
    assert await names(stream, after=1) == [], "no position yet"
    assert await stream.assign() == 1
    assert await names(stream, after=1) == [(2, "late")]
    assert await stream.bounds() == FeedBounds(0, 2)


async def test_many_processes_assign_positions_without_gap_or_double(database: Database) -> None:
    streams = [EventFeed(database) for _ in range(4)]

    async def write(name: str) -> None:
        for n in range(25):
            await append(database, f"{name}-{n}")

    async def assign(stream: EventFeed) -> None:
        for _ in range(50):
            await stream.assign()

    await asyncio.gather(*(write(name) for name in "abc"), *(assign(each) for each in streams))
    while await streams[0].assign():
        pass
    read = await names(streams[0])
    assert [position for position, _ in read] == list(range(1, 76))
    for name in "abc":
        own = [text for _, text in read if text.startswith(name)]
        assert own == [f"{name}-{n}" for n in range(25)], "those of one writer are in its order"


async def test_positions_and_publishing_do_not_wait_for_each_other_in_a_circle(
    database: Database,
) -> None:
    stream, outbox = EventFeed(database), Outbox(database)
    for _ in range(20):
        await append(database, *(f"n-{n}" for n in range(20)))

        async def publish() -> None:
            async with outbox.batch(0, limit=100) as (facts, published):
                published += [fact.id for fact in reversed(facts)]

        await asyncio.gather(publish(), stream.assign())
    assert await stream.bounds() == FeedBounds(0, 400)


async def test_a_process_that_fails_around_the_commit_leaves_no_gap(database: Database) -> None:
    stream = EventFeed(database)
    for fault in ("event.position:error@1", "event.position:error_after@1"):
        await append(database, fault)
        failpoints.arm(fault)
        with pytest.raises(Unavailable):
            await stream.assign()
        failpoints.arm("")
        await stream.assign()
    assert [position for position, _ in await names(stream)] == [1, 2]
