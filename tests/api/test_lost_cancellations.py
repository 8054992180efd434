"""Streams, readers and waits end with their caller even if a library drops the first cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from api.live import LiveApi, live_api
from kit.scripted_worker import ScriptedExecution
from opsjobs import task_cancellation
from opsjobs.api.follower import CLOSE_SECONDS, Followers, Pace
from opsjobs.store.execution_log import ExecutionLog, LogEntry
from opsjobs.store.transaction import Database

QUICK = Pace(merge_seconds=0.005, poll_seconds=0.02, retry_seconds=0.02)


@pytest.fixture(autouse=True)
def short_cancel_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    async def soon(*tasks: task_cancellation.Task, again_seconds: float = 0.05) -> None:
        await real(*tasks, again_seconds=again_seconds)

    real = task_cancellation.ended
    monkeypatch.setattr(task_cancellation, "ended", soon)
    monkeypatch.setattr("opsjobs.api.long_lived.ended", soon)


class LosesFirstCancel(ExecutionLog):
    """Drops the first cancel of each of its readers, as `asyncio.wait_for` does in a race."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.lost = 0
        self._heard: set[asyncio.Task[Any]] = set()

    async def read(
        self, execution_id: int, *, after: int = 0, limit: int = 1_000, max_bytes: int = 1 << 20
    ) -> list[LogEntry]:
        me = asyncio.current_task()
        assert me is not None
        try:
            found = await super().read(execution_id, after=after, limit=limit, max_bytes=max_bytes)
            if not found:
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            if me in self._heard:
                raise
            self._heard.add(me)
            self.lost += 1
            return []
        return found


class BusLosingFirstCancel:
    """A bus whose listeners drop their first cancel, too."""

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        yield _never()


async def _never() -> AsyncIterator[tuple[str, bytes]]:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()
    yield "", b""


def running_readers() -> list[str]:
    """Return the tasks that still read a log."""
    names = [task.get_name() for task in asyncio.all_tasks() if not task.done()]
    return [name for name in names if name.startswith(("follow-", "wakeups-", "await-"))]


async def until(what: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.01)


async def test_a_reader_ends_with_its_last_viewer(database: Database) -> None:
    execution = await ScriptedExecution(database).launch()
    journal = LosesFirstCancel(database)
    followers = Followers(journal, BusLosingFirstCancel(), QUICK)
    for _ in range(20):
        async with aclosing(followers.batches(execution, 0)) as batches:
            async for _batch in batches:
                break
    await until(lambda: running_readers() == [])
    assert journal.lost


async def test_prefer_wait_ends_in_time_and_leaves_no_reader(database: Database) -> None:
    execution = await ScriptedExecution(database).launch()
    followers = Followers(LosesFirstCancel(database), BusLosingFirstCancel(), QUICK)
    # One that is lost would go on until the execution ends: for ever.
    async with asyncio.timeout(60):
        await asyncio.gather(*(followers.await_end(execution, 0.3) for _ in range(20)))
    await until(lambda: running_readers() == [])


async def test_close_does_not_wait_for_a_reader_that_ignores_cancellation(
    database: Database,
) -> None:
    execution = await ScriptedExecution(database).launch()

    class IgnoresCancel(ExecutionLog):
        async def read(self, *_: Any, **__: Any) -> list[LogEntry]:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    continue
            return []

    over = asyncio.Event()
    followers = Followers(IgnoresCancel(database), BusLosingFirstCancel(), QUICK)
    viewing = asyncio.create_task(followers.await_end(execution, 600))
    await until(lambda: any(name.startswith("follow-") for name in running_readers()))
    async with asyncio.timeout(CLOSE_SECONDS + 20):
        await followers.close()
    over.set()
    await viewing
    await until(lambda: running_readers() == [])


async def opened(on: LiveApi, path: str) -> asyncio.StreamWriter:
    """Yield a stream whose first bytes have arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", on.port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {on.token}\r\n\r\n".encode()
    )
    assert b" 200 " in await reader.readline()
    return writer


async def test_streams_that_are_opened_and_dropped_leave_nothing_behind(
    database: Database,
) -> None:
    async with live_api(database) as on:
        deaf = LosesFirstCancel(database)
        on.followers._journal = deaf
        executions = [await on.scripted.launch() for _ in range(5)]
        for _ in range(6):
            streams = await asyncio.gather(
                *(opened(on, f"/executions/{e.id}/events") for e in executions for _ in range(6))
            )
            for writer in streams:
                writer.transport.abort()
        await until(lambda: on.followers.streams == 0 and running_readers() == [])
        assert not on.app.state.streams._open
