"""The batch writer alone: a refused run does not block others, and flushes are numbered in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from opsjobs.clock import SystemClock
from opsjobs.engine.runs import run_journal as records
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry, RunJournal
from opsjobs.engine.worker import batch_writer as recording
from opsjobs.engine.worker.batch_writer import BatchWriter
from opsjobs.model.errors import TooSlow, Unavailable
from opsjobs.model.execution import RunStatus, WaitingFor
from opsjobs.store.ledger.claim import Claimed, Progress
from opsjobs.store.ledger.flush import Flush
from opsjobs.store.ledger.settle import Settled
from opsjobs.telemetry.metrics import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Book:
    """A ledger that refuses the given runs, and flush numbers that do not grow."""

    def __init__(self) -> None:
        self.tried: list[tuple[int, list[int]]] = []
        self.stored: list[Flush] = []
        self.refused: Collection[int] = ()
        self.refused_even_to_end: Collection[int] = ()
        self.stale: Collection[int] = ()
        self.away = 0
        self.runs_at_most: int | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def settle(self, flush: Flush) -> Settled:
        await self.open.wait()
        self.tried.append((flush.number, [run.run_id for run in flush.runs]))
        if self.away:
            self.away -= 1
            raise Unavailable("as scripted")
        if self.runs_at_most is not None and len(flush.runs) > self.runs_at_most:
            raise TooSlow("canceling statement due to statement timeout")
        assert flush.number > max((f.number for f in self.stored), default=0), (
            "it would be taken for one that is stored"
        )
        ids = {run.run_id for run in flush.runs}
        spoken = {line.run_id for line in flush.lines if line.event == "output"}
        if ids & set(self.refused) & spoken or ids & set(self.refused_even_to_end):
            raise ValueError("a NUL, perhaps")
        self.stored.append(flush)
        return Settled(frozenset(ids & set(self.stale)), frozenset(), {})

    def end_of(self, run_id: int) -> RunStatus | None:
        """Return the final status of the run in the stored flushes."""
        ends = [
            r.status
            for flush in self.stored
            for r in flush.runs
            if r.run_id == run_id and r.status is not None
        ]
        assert len(ends) <= 1
        return ends[0] if ends else None


class RunningWriter:
    """A running batch writer, and the results that it got."""

    def __init__(self) -> None:
        self.book = Book()
        self.metrics = Metrics()
        self.told: list[Settled] = []
        self.recorder = BatchWriter(
            self.book,  # type: ignore[arg-type]
            self.metrics,
            SystemClock(),
            owner=uuid4(),
            worker="worker-1",
            on_flushed=self.follow_up,
        )

    def follow_up(self, _: Flush, settled: Settled) -> None:
        self.told.append(settled)

    def run(self, number: int, fence: int = 1) -> RunJournal:
        """Return the journal of a claimed run."""
        return self.recorder.open_journal(
            Claimed(
                number,
                uuid4(),
                1,
                date(2026, 1, 1),
                str(number),
                f"web-{number}",
                number,
                fence,
                1,
                1,
                None,
            )
        )

    def speak(self, count: int) -> list[RunJournal]:
        """Let so many runs begin, write and end, all before the next flush."""
        runs = [self.run(number) for number in range(1, count + 1)]
        for record in runs:
            page = record.begin("step-1", 1, NOW)
            page.write_output("stdout", 0, b"ok\n")
            end(page)
        return runs

    @property
    def bugs(self) -> float:
        return float(self.metrics.bugs.labels("recorder")._value.get())


def end(page: AttemptEntry) -> None:
    """Let the command and the run succeed."""
    page.end(ActionEnd(RunStatus.SUCCEEDED, 0), NOW)
    page.run.finish(ActionEnd(RunStatus.SUCCEEDED, 0))


@asynccontextmanager
async def running_writer() -> AsyncIterator[RunningWriter]:
    """Yield a running writer; check that it is still alive at the end."""
    made = RunningWriter()
    task = asyncio.create_task(made.recorder.run())
    try:
        with capture_logs():
            async with asyncio.timeout(60):
                yield made
        assert not task.done()
        assert made.recorder.unwritten_bytes == 0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("refused", [{1}, {8}, {3, 4}, {1, 4, 6, 7}, set(range(1, 9))])
async def test_a_refused_flush_of_one_run_does_not_block_the_others(refused: set[int]) -> None:
    async with running_writer() as running:
        running.book.refused = refused
        runs = running.speak(8)
        await running.recorder.drain()
        for number, record in enumerate(runs, start=1):
            assert running.book.end_of(number) is (
                RunStatus.FAILED if number in refused else RunStatus.SUCCEEDED
            )
            assert record.stale == (number in refused)
        numbers = [number for number, _ in running.book.tried]
        assert numbers == [*range(1, len(numbers) + 1)]
        assert running.told[0].stale == refused
        assert running.bugs >= len(refused)


async def test_a_run_whose_end_is_refused_is_dropped_and_the_others_are_written() -> None:
    async with running_writer() as running:
        running.book.refused_even_to_end = {2}
        running.speak(3)
        await running.recorder.drain()
        assert [running.book.end_of(n) for n in (1, 2, 3)] == [
            RunStatus.SUCCEEDED,
            None,
            RunStatus.SUCCEEDED,
        ]
        assert running.told[0].stale == {2}


async def test_a_flush_that_times_out_is_halved_until_it_is_committed() -> None:
    async with running_writer() as running:
        running.book.runs_at_most = 2
        running.speak(8)
        await running.recorder.drain()
        assert [running.book.end_of(number) for number in range(1, 9)] == [RunStatus.SUCCEEDED] * 8
        tries = [len(runs) for _, runs in running.book.tried]
        assert tries == [8, 8, 4, 4, 2, 2, 4, 4, 2, 2]
        assert (running.bugs, running.recorder.committing_since) == (0, None)


async def test_a_repeated_flush_keeps_its_number() -> None:
    async with running_writer() as running:
        running.book.away = 2
        running.speak(2)
        await running.recorder.drain()
        assert running.book.tried == [(1, [1, 2])] * 3


async def test_a_repeated_half_of_a_flush_keeps_its_number() -> None:
    async with running_writer() as running:
        running.book.refused = {2}
        settle = running.book.settle

        async def away_for_halves(flush: Flush) -> Settled:
            running.book.away = int(flush.number == 2 and len(running.book.tried) == 1)
            return await settle(flush)

        running.book.settle = away_for_halves  # type: ignore[method-assign]
        running.speak(4)
        await running.recorder.drain()
        assert [number for number, _ in running.book.tried] == [1, 2, 2, 3, 4, 5, 6]
        assert [running.book.end_of(n) is RunStatus.SUCCEEDED for n in (1, 2, 3, 4)] == [
            True,
            False,
            True,
            True,
        ]


async def test_a_bug_in_the_flush_callback_does_not_end_the_batch_writer() -> None:
    async with running_writer() as running:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        running.recorder._on_flushed = broken
        running.speak(2)
        await running.recorder.drain()
        assert running.bugs == 1
        record = running.run(3)
        end(record.begin("step-1", 1, NOW))
        await running.recorder.drain()
        assert running.book.end_of(3) is RunStatus.SUCCEEDED


async def test_a_stale_run_writes_nothing_more_and_leaves_nothing_behind() -> None:
    async with running_writer() as running:
        running.book.stale = {1}
        record = running.run(1)
        page = record.begin("step-1", 1, NOW)
        page.write_output("stdout", 0, b"ok")
        await running.recorder.drain()
        assert record.stale
        page.write_output("stdout", 0, b"x" * 1_000)
        end(page)
        assert record.is_empty
        assert record.unwritten_bytes == 0


async def test_backpressure_ends_when_the_run_that_filled_the_buffer_is_discarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was left to flush, so the waiter was not notified: it waited forever."""
    monkeypatch.setattr(records, "WORKER_UNWRITTEN_BYTES", 5_000)
    async with running_writer() as running:
        running.book.open.clear()
        quiet, loud = running.run(1), running.run(2)
        quiet.begin("step-1", 1, NOW).write_output("stdout", 0, b"ok")
        await until_in_flight(running)
        loud.begin("step-1", 1, NOW).write_output("stdout", 0, b"x" * 6_000)
        waiting = asyncio.create_task(quiet.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        running.recorder.discard(loud)
        await asyncio.wait_for(waiting, 60)
        running.book.open.set()
        await running.recorder.drain()
        assert all(2 not in ids for _, ids in running.book.tried)
        assert all(ids for _, ids in running.book.tried), "a flush of nothing"


async def until_in_flight(at: RunningWriter) -> None:
    while not at.recorder._in_flight:
        await asyncio.sleep(0)


def flood(at: RunningWriter, run_id: int, pieces: int) -> None:
    page = at.run(run_id).begin("step-1", 1, NOW)
    for n in range(pieces):
        page.write_output("stdout", n * 60_000, b"x" * 60_000)


def flushed_bytes(run_id: int, at: RunningWriter) -> list[int]:
    """Return the stored bytes of a run in each flush that has some."""
    sizes = [
        sum(len(line.data or b"") for line in f.lines if line.run_id == run_id)
        for f in at.book.stored
    ]
    return [size for size in sizes if size]


async def test_a_flood_alone_gets_the_largest_share_of_each_flush() -> None:
    async with running_writer() as running:
        running.book.open.clear()
        flood(running, 1, 60)
        small = running.run(2)
        end(small.begin("step-1", 1, NOW))
        running.book.open.set()
        await running.recorder.drain()
        assert running.book.end_of(2) is RunStatus.SUCCEEDED
        first = next(
            f for f in running.book.stored if any(run.run_id == 1 and f.lines for run in f.runs)
        )
        assert running.book.stored.index(first) <= 1
        offsets = [
            line.start_offset
            for flush in running.book.stored
            for line in flush.lines
            if line.event == "output"
        ]
        assert offsets == [n * 60_000 for n in range(60)]
        assert len(flushed_bytes(1, running)) == 4
        assert max(flushed_bytes(1, running)) <= records.RUN_FLUSH_BYTES_MAX + records.CHUNK_BYTES


async def test_parallel_floods_share_each_flush() -> None:
    async with running_writer() as running:
        running.book.open.clear()
        for run_id in (1, 2, 3, 4):
            flood(running, run_id, 40)
        running.book.open.set()
        await running.recorder.drain()
        share = recording.FLUSH_BYTES // 4
        for run_id in (1, 2, 3, 4):
            assert flushed_bytes(run_id, running)[0] <= share + records.CHUNK_BYTES
        for stored in running.book.stored:
            assert (
                sum(len(line.data or b"") for line in stored.lines)
                <= recording.FLUSH_BYTES + 4 * records.CHUNK_BYTES
            )


async def test_the_reason_of_a_hold_is_made_storable() -> None:
    async with running_writer() as running:
        running.run(1).defer(
            WaitingFor.HOLD, seconds=30, awaits="web-1 cannot be reached: \0\ud800!"
        )
        await running.recorder.drain()
    (told,) = (run for flush in running.book.stored for run in flush.runs)
    assert told.awaits == "web-1 cannot be reached: \ufffd?!"


async def test_lines_are_counted_across_entries_streams_and_workers() -> None:
    async with running_writer() as running:
        page = running.run(1).begin("step-1", 1, NOW)
        page.write_output("stdout", 0, b"one\ntw")
        page.write_output("stderr", 0, b"other")
        page.write_output("stdout", 6, b"o\n\nfour\nfi")
        page.note_dropped("stdout", 16, 5)
        page.write_output("stdout", 21, b"open")
        await page.run.flush()
        (flush,) = running.book.stored
        assert [line.lines for line in flush.lines] == [2, 1, 3, 1, 1]
        assert flush.results[0].open_lines == (True, True)
        progress = Progress(
            "step-1", 1, RunStatus.RUNNING, None, (25, 5), NOW, open_lines=(True, False)
        )
        heir = running.run(1, fence=2).begin("step-1", 1, NOW, progress=progress)
        heir.write_output("stdout", 25, b" no more\nseven")
        heir.write_output("stderr", 5, b"new")
        end(heir)
        await running.recorder.drain()
        found = [line.lines for line in running.book.stored[-1].lines if line.event == "output"]
        assert found == [1, 1]
