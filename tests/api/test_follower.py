"""One reader for all viewers of an execution."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from kit.scripted_worker import ScriptedExecution
from opsjobs.api.follower import Followers, Frame, Pace, Ring
from opsjobs.bus import Bus
from opsjobs.model.errors import Unavailable
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import ExecutionLog, LogEntry, LogFilter
from opsjobs.store.transaction import Database

QUICK = Pace(merge_seconds=0.005, poll_seconds=0.02, retry_seconds=0.02)


class CountingJournal(ExecutionLog):
    """Counts its reads, and can be set to fail."""

    reads = 0
    failing: Exception | None = None

    async def read(
        self, execution_id: int, *, after: int = 0, limit: int = 1_000, max_bytes: int = 1 << 20
    ) -> list[LogEntry]:
        self.reads += 1
        if self.failing:
            raise self.failing
        return await super().read(execution_id, after=after, limit=limit, max_bytes=max_bytes)


class ManualNotifier:
    """Wake-ups sent by the test."""

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[tuple[str, bytes]]] = []

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.queues.append(queue)
        yield _all(queue)

    def notify(self) -> None:
        for queue in self.queues:
            queue.put_nowait(("opsjobs.log.1", b""))


async def _all(queue: asyncio.Queue[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
    while True:
        yield await queue.get()


def frames_of(data: bytes) -> list[tuple[int, str, dict[str, object]]]:
    found = re.findall(rb"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n", data)
    return [(int(seq), event.decode(), json.loads(text)) for seq, event, text in found]


async def view(
    followers: Followers, execution: Execution, after: int = 0, frames: int | None = None
) -> list[int]:
    """Return the positions that a viewer gets until the end, or until it has this many frames."""
    seen: list[int] = []
    async with aclosing(followers.batches(execution, after)) as batches:
        async for batch in batches:
            seen += [seq for seq, _, _ in frames_of(batch.data)]
            if frames is not None and len(seen) >= frames:
                return seen[:frames]
    return seen


async def until_it_waits(journal: CountingJournal) -> None:
    """Return when a reader has read everything twice: before it subscribed and after that."""
    async with asyncio.timeout(60):
        while journal.reads < 2:
            await asyncio.sleep(0.005)


def without_repeated_end(seen: list[int], last: int) -> list[int]:
    """Read without the repetition of the end.

    A viewer that reconnects after the end gets it again, and nothing else twice.
    """
    return [seq for n, seq in enumerate(seen) if not (n and seq == seen[n - 1] == last)]


def test_a_ring_drops_the_oldest_frames_beyond_its_limit() -> None:
    ring = Ring(10, 100)
    for seq in range(11, 31):
        ring.add(seq, Frame(b"x" * 20, "output", seq % 2))
    assert (ring.base, ring.last, ring.size_bytes) == (25, 30, 100)
    taken = [ring.take(*asked) for asked in ((25, 1_000), (28, 1_000), (25, 30))]
    assert [(len(data) // 20, position) for data, position in taken] == [(5, 30), (2, 30), (2, 27)]
    assert ring.take(25, 1_000, LogFilter(target_run=0)) == (b"x" * 60, 30)
    ring.add(31, Frame(b"y" * 500, "output", 1))
    assert (ring.base, ring.take(30, 1)) == (30, (b"y" * 500, 31))


async def test_ten_reconnects_at_random_positions_see_every_event_once_in_order(
    database: Database,
) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start(3)
    followers = Followers(
        ExecutionLog(database),
        ManualNotifier(),
        Pace(merge_seconds=0.002, poll_seconds=0.01, ring_bytes=20_000, page_entries=20),
    )

    async def write() -> None:
        for n in range(120):
            await scripted.write(f"web-{n % 3 + 1}", b"%05d\n" % n * 20)
        for name in scripted.runs:
            await scripted.finish(name)

    async def viewer(seed: int) -> list[int]:
        turns, seen = random.Random(seed), list[int]()
        for _ in range(10):
            seen += await view(
                followers, await scripted.current(), seen[-1] if seen else 0, turns.randint(1, 25)
            )
            await asyncio.sleep(turns.random() * 0.02)
        return seen + await view(followers, await scripted.current(), seen[-1])

    writer = asyncio.create_task(write())
    all_seen = await asyncio.gather(*(viewer(seed) for seed in range(5)))
    await writer
    last = (await scripted.current()).last_seq
    for seen in all_seen:
        assert without_repeated_end(seen, last) == list(range(1, last + 1))
    await followers.close()


async def test_two_hundred_viewers_share_one_reader(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal, wakeups = CountingJournal(database), ManualNotifier()
    followers = Followers(journal, wakeups, Pace(poll_seconds=30))
    viewers = [asyncio.create_task(view(followers, execution)) for _ in range(200)]
    while not wakeups.queues:
        await asyncio.sleep(0)
    for n in range(20):
        await scripted.write("web-1", b"line %d\n" % n)
        wakeups.notify()
    await scripted.finish("web-1")
    wakeups.notify()
    seen = await asyncio.gather(*viewers)
    last = (await scripted.current()).last_seq
    assert all(s == list(range(1, last + 1)) for s in seen)
    assert journal.reads <= 25
    assert len(wakeups.queues) == 1


async def test_wakeups_within_fifty_milliseconds_are_merged_into_one_read(
    database: Database,
) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal, wakeups = CountingJournal(database), ManualNotifier()
    followers = Followers(journal, wakeups, Pace(poll_seconds=30))
    now, pace = asyncio.get_running_loop().time, Pace()
    started = now()
    viewer = asyncio.create_task(view(followers, execution))
    async with asyncio.timeout(60):
        while journal.reads < 12:
            wakeups.notify()
            await asyncio.sleep(0.001)
    # Two reads are not caused by wake-ups, and the first wake-ups after a quiet time cause a read
    # at once.
    assert journal.reads <= 2 + pace.reads_at_once + (now() - started) / pace.merge_seconds
    viewer.cancel()
    await asyncio.gather(viewer, return_exceptions=True)


async def test_without_redis_events_come_by_polling(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal = CountingJournal(database)
    followers = Followers(journal, Bus(None))
    viewer = asyncio.create_task(view(followers, execution))
    await until_it_waits(journal)
    await scripted.finish("web-1")
    async with asyncio.timeout(60):
        assert await viewer == list(range(1, (await scripted.current()).last_seq + 1))


async def test_a_wakeup_delivers_an_event_at_once(database: Database, redis_url: str) -> None:
    scripted, bus = ScriptedExecution(database), Bus(redis_url)
    execution = await scripted.start()
    await bus.open()
    journal = CountingJournal(database)
    followers = Followers(journal, bus, Pace(poll_seconds=3_600))
    viewer = asyncio.create_task(view(followers, execution, execution.last_seq, 1))
    await until_it_waits(journal)
    await scripted.write("web-1", b"now\n")
    async with asyncio.timeout(60):
        while (
            not viewer.done()
        ):  # if Redis was slow, the first wake-up was sent before the subscription
            bus.publish(f"opsjobs.log.{execution.id}", b"")
            await asyncio.sleep(0.01)
    assert await viewer == [execution.last_seq + 1]
    await bus.close()


@pytest.mark.parametrize("beyond", [-1, 0, 1, 1_000])
async def test_a_viewer_after_the_end_gets_the_end_event_again(
    database: Database, beyond: int
) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start()
    await scripted.finish("web-1")
    ended = await scripted.current()
    followers = Followers(ExecutionLog(database), ManualNotifier(), QUICK)
    async with aclosing(followers.batches(ended, ended.last_seq + beyond)) as batches:
        told = frames_of(b"".join([batch.data async for batch in batches]))
    ((seq, event, body),) = told
    assert (seq, event) == (ended.last_seq, "end")
    assert str(body.pop("at")).endswith("Z")
    assert body == {"status": "completed", "counts": {"succeeded": 1}}


async def test_output_that_is_not_utf8_is_base64(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.start()
    await scripted.write("web-1", "hä\x00 \u2028\r\n".encode())
    await scripted.write("web-1", b"\xff\x00", stream="stderr")
    await scripted.drop("web-1", 99)
    await scripted.finish("web-1")
    followers = Followers(ExecutionLog(database), ManualNotifier(), QUICK)
    async with aclosing(followers.batches(await scripted.current(), 0)) as batches:
        told = [
            {key: value for key, value in data.items() if key != "at"}
            for _, event, data in frames_of(b"".join([b.data async for b in batches]))
            if event == "output"
        ]
    run = scripted.runs["web-1"].id
    common = {"target_run": run, "target": "1", "action": "step-1", "attempt": 1}
    assert told == [
        {**common, "stream": "stdout", "offset": 0, "data": "hä\x00 \u2028\r\n"},
        {**common, "stream": "stderr", "offset": 0, "data_base64": "/wA="},
        {**common, "stream": "stdout", "offset": 10, "dropped": 99},
    ]


async def test_an_unavailable_database_only_delays_events(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal = CountingJournal(database)
    journal.failing = Unavailable("PostgreSQL does not answer")
    followers = Followers(journal, ManualNotifier(), QUICK)
    viewer = asyncio.create_task(view(followers, execution))
    while journal.reads < 3:
        await asyncio.sleep(0.005)
    journal.failing = None
    await scripted.finish("web-1")
    assert (await viewer)[-1] == (await scripted.current()).last_seq


async def test_a_failed_reader_ends_its_viewers_and_is_replaced(
    database: Database,
) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal = CountingJournal(database)
    journal.failing = ZeroDivisionError()
    followers = Followers(journal, ManualNotifier(), QUICK)
    with pytest.raises(RuntimeError, match="cannot be followed"):
        await view(followers, execution)
    journal.failing = None
    await scripted.finish("web-1")
    assert await view(followers, execution) == list(
        range(1, (await scripted.current()).last_seq + 1)
    )


async def test_an_idle_stream_gets_keep_alives(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    followers = Followers(ExecutionLog(database), ManualNotifier(), Pace(keep_alive_seconds=0.01))
    async with aclosing(followers.batches(execution, execution.last_seq)) as batches:
        assert (await anext(batches)).data == b": keep-alive\n\n"
        assert (await anext(batches)).data == b": keep-alive\n\n"


async def test_the_reader_stops_with_its_last_viewer(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal = CountingJournal(database)
    followers = Followers(journal, ManualNotifier(), QUICK)
    assert await view(followers, execution, 0, 1) == [1]
    reads = journal.reads
    await asyncio.sleep(0.1)
    assert journal.reads == reads


async def test_no_database_connection_is_held_while_viewers_wait(database: Database) -> None:
    scripted = ScriptedExecution(database)
    execution = await scripted.start()
    journal = CountingJournal(database)
    followers = Followers(journal, ManualNotifier(), Pace(poll_seconds=3_600))
    viewers = [asyncio.create_task(view(followers, execution)) for _ in range(50)]
    await until_it_waits(journal)
    async with asyncio.timeout(60):
        while (stats := database._pool.get_stats())["pool_available"] != stats["pool_size"]:
            await asyncio.sleep(0.01)
    assert not any(viewer.done() for viewer in viewers)
    for viewer in viewers:
        viewer.cancel()
    await asyncio.gather(*viewers, return_exceptions=True)
