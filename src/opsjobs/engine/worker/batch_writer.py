"""The worker's pen: what its runs have to say is gathered and committed for all of them at once, in order, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from opsjobs.clock import Clock
from opsjobs.engine.runs.run_journal import RUN_FLUSH_BYTES, RUN_FLUSH_BYTES_MAX, ActionEnd, FlushBuilder, RunJournal
from opsjobs.model.errors import Locked, TooSlow, Unavailable
from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.model.masking import NOTHING, Mask
from opsjobs.store.ledger import Claimed, Flush, Ledger, LogLine, ResultState, RunMove, Settled
from opsjobs.store.ledger.flush import result_line, status_line
from opsjobs.telemetry import Metrics, log

FLUSH_BYTES = 2 << 20
# The next flush begins when the last one has ended, and not earlier than this after its beginning.
FLUSH_PAUSE_SECONDS = 0.02
# How long the beginning of an action waits for company: alone it would cost a flush that the ends then wait behind.
BEGIN_ALONE_SECONDS = 0.1
# A flush that PostgreSQL ended at its time limit so often is cut in two: as a whole it may never get through. One run's is tried on:
# where it does not come back for two leases, the worker gives its runs up.
SLOW_AT_MOST = 2


class BatchWriter:
    """Commits for all runs of one owner: one flush in flight, at most 2 MiB, the next not earlier than 20 ms after it began."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        clock: Clock,
        *,
        owner: UUID,
        worker: str,
        settled: Callable[[Flush, Settled], None],
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._owner = owner
        self._worker = worker
        self._settled = settled
        self._number = 0
        self._dirty: dict[int, RunJournal] = {}
        self._something = asyncio.Event()
        self._hurried = asyncio.Event()
        self._in_flight = False
        self._flushed: asyncio.Future[None] | None = None
        self.committing_since: float | None = None
        """Since when (monotonic) a flush is being committed; None while there is none."""
        self.unwritten_bytes = 0

    def open(self, claimed: Claimed, mask: Mask = NOTHING) -> RunJournal:
        """The record of a run that was claimed; `mask`: what is not to be seen in it."""
        return RunJournal(self, claimed, mask)

    def dirty(self, record: RunJournal, size_bytes: int) -> None:
        """A record has something to say. That an action began, and no more, waits a little: most have soon more to say."""
        self.unwritten_bytes += size_bytes
        if size_bytes or record.claimed.id in self._dirty:
            self.urge(record)
        else:
            asyncio.get_running_loop().call_later(BEGIN_ALONE_SECONDS, self.urge, record)

    def urge(self, record: RunJournal) -> None:
        """What the record has to say goes with the next flush."""
        if not record.silent:
            self._dirty.setdefault(record.claimed.id, record)
            self._something.set()

    def forget(self, record: RunJournal) -> None:
        """Drop what a stale run still had to say."""
        self.unwritten_bytes -= record.unwritten_bytes
        record.fall_silent()
        if self._dirty.get(record.claimed.id) is record:
            del self._dirty[record.claimed.id]
        self._tell_who_waits()  # there is room now, and perhaps nothing left to flush

    @property
    def waiting(self) -> int:
        """How many runs have something to say that no flush has taken yet."""
        return len(self._dirty)

    def hurry(self) -> None:
        """Do not wait for company: whoever could still come is waiting for the next flush."""
        self._hurried.set()

    async def flushed(self) -> None:
        """Wait for the end of the next flush."""
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._flushed)

    async def run(self) -> None:
        """Flush for ever, until cancelled."""
        while True:
            await self._something.wait()
            if not self._dirty:  # who had something to say was forgotten meanwhile
                self._something.clear()
                continue
            began = time.monotonic()
            self._hurried.clear()
            await self._flush()
            if self.unwritten_bytes < RUN_FLUSH_BYTES_MAX:  # so much has company enough
                await self._pause(began + FLUSH_PAUSE_SECONDS - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurried.wait()

    async def drained(self) -> None:
        """Wait until everything said is written."""
        while self._dirty or self._in_flight:
            await self.flushed()

    async def _flush(self) -> None:
        flush, records, size_bytes = self._draft()
        if not self._dirty:
            self._something.clear()
        started = time.monotonic()
        self._in_flight = True
        self.committing_since = started
        try:
            settled = await self._commit(flush)
        finally:
            self.committing_since = None
            self._in_flight = False
            for record in records.values():
                record.in_flight = False
        self._metrics.flush_seconds.observe(time.monotonic() - started)
        self._metrics.flush_bytes.observe(size_bytes)
        self._metrics.flush_entries.observe(len(flush.lines))
        for run_id in settled.stale:
            self._metrics.stale_writes.inc()
            self.forget(records[run_id])
        self._tell_who_waits()
        try:
            self._settled(flush, settled)
        except Exception:  # noqa: BLE001  it is written: what goes wrong after that must not end the pen
            self._metrics.bugs.labels("recorder").inc()
            log.exception("flush_follow_up_failed")

    def _tell_who_waits(self) -> None:
        done, self._flushed = self._flushed, None
        if done is not None and not done.done():
            done.set_result(None)

    def _draft(self) -> tuple[Flush, dict[int, RunJournal], int]:
        draft = FlushBuilder()
        records: dict[int, RunJournal] = {}
        share_bytes = _share(self._dirty.values())
        # Those who were first to have something to say come first; who was cut short goes to the end of the queue.
        for run_id, record in list(self._dirty.items()):
            if draft.size_bytes >= FLUSH_BYTES:
                break
            del self._dirty[run_id]
            records[run_id] = record
            record.in_flight = True
            draft.size_bytes += record.take(draft, share_bytes)
            if not record.silent:
                self._dirty[run_id] = record
        self.unwritten_bytes -= draft.size_bytes
        return self._flush_of(draft.runs, draft.results, draft.lines), records, draft.size_bytes

    async def _commit(self, flush: Flush) -> Settled:
        """Commit, whatever it takes. What PostgreSQL refuses of one run must not silence the others: it is found by halving."""
        try:
            return await self._insist(flush)
        except TooSlow as slow:
            log.warning("flush_halved", runs=len(flush.runs), reason=str(slow))
        except Exception as bug:  # noqa: BLE001  anything but Unavailable is a refusal of what was said
            self._metrics.bugs.labels("recorder").inc()
            log.exception("flush_refused", runs=len(flush.runs))
            if len(flush.runs) == 1:
                return await self._end_without_words(flush, bug)
        halves = [await self._commit(part) for part in self._halves(flush)]
        return Settled(
            stale=frozenset().union(*(half.stale for half in halves)),
            stopping=frozenset().union(*(half.stopping for half in halves)),
            admitted={zone: count for half in halves for zone, count in half.admitted.items()},
        )

    async def _end_without_words(self, flush: Flush, bug: Exception) -> Settled:
        """End a run whose words are refused: with its results, without its output; to this process it is then as good as stale."""
        run = flush.runs[0]
        try:
            settled = await self._insist(self._wordless(flush, bug))
        except Exception:  # noqa: BLE001  not even that: the claim loop finds a run that is ours and unknown
            log.exception("run_cannot_be_ended", execution=run.execution_id, target_run=run.run_id)
            settled = Settled(frozenset(), frozenset(), {})
        return replace(settled, stale=settled.stale | {run.run_id})

    def _wordless(self, flush: Flush, bug: Exception) -> Flush:
        (run,) = flush.runs
        words = f"a fault of opsjobs: what the run said could not be stored ({type(bug).__name__})"
        end = ActionEnd(RunStatus.FAILED, error=RunError(ErrorCode.INTERNAL, words))
        now = self._clock.now()
        results = [replace(r, stored=r.stored_before, written=r.stored_before) for r in flush.results]
        if results:
            results[-1] = replace(
                results[-1], status=end.status, exit_code=None, error=end.error, cancel_proof=None, finished_at=now
            )
        lines = [result_line(r, run.target_id) for r in results if r.status.final]
        lines.append(status_line(run.run_id, run.target_id, end.status, end.error))
        return self._flush_of(
            [replace(run, status=end.status, exit_code=None, error=end.error, cancel_proof=None)], results, lines
        )

    def _halves(self, flush: Flush) -> list[Flush]:
        middle = len(flush.runs) // 2
        parts = []
        for runs in (flush.runs[:middle], flush.runs[middle:]):
            ids = {run.run_id for run in runs}
            results = [r for r in flush.results if r.run_id in ids]
            parts.append(self._flush_of(runs, results, [line for line in flush.lines if line.run_id in ids]))
        return parts

    def _flush_of(self, runs: Sequence[RunMove], results: Sequence[ResultState], lines: Sequence[LogLine]) -> Flush:
        return Flush(self._owner, self._worker, 0, runs, results, lines)

    async def _insist(self, flush: Flush) -> Settled:
        # Numbered when its turn has come: a number below the last one stored would be taken for one that is stored already.
        self._number += 1
        flush = replace(flush, number=self._number)
        pause, too_slow = 0.05, 0
        while True:
            try:
                settled = await self._ledger.settle(flush)
            except Unavailable as away:
                too_slow += isinstance(away, TooSlow)
                if too_slow >= SLOW_AT_MOST and len(flush.runs) > 1:
                    raise
                if isinstance(away, Locked):
                    self.committing_since = time.monotonic()  # an answer: PostgreSQL is there
                log.warning("flush_repeated", flush=flush.number, reason=str(away))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            else:
                self.committing_since = time.monotonic()
                return settled


def _share(records: Iterable[RunJournal]) -> int:
    """How much of the next flush each of these may fill: what the small ones leave is divided among the others."""
    small, large = 0, 0
    for record in records:
        if record.unwritten_bytes > RUN_FLUSH_BYTES:
            large += 1
        else:
            small += record.unwritten_bytes
    return min(max(RUN_FLUSH_BYTES, (FLUSH_BYTES - small) // max(large, 1)), RUN_FLUSH_BYTES_MAX)
