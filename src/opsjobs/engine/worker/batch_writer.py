"""Group commit: write the journals of all of a worker's runs to the ledger in one flush.

A flush is applied in order and as a whole, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from opsjobs.backoff import Backoff
from opsjobs.clock import Clock
from opsjobs.engine.runs.run_journal import (
    RUN_FLUSH_BYTES,
    RUN_FLUSH_BYTES_MAX,
    ActionEnd,
    FlushBuilder,
    RunJournal,
)
from opsjobs.model.errors import Locked, TooSlow, Unavailable
from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.model.masking import NOTHING, Mask
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import (
    Flush,
    LogLine,
    ResultState,
    RunMove,
    result_line,
    status_line,
)
from opsjobs.store.ledger.settle import Settled
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

FLUSH_BYTES = 2 << 20
# A flush starts when the last one has ended, but at least this long after the last one started.
FLUSH_PAUSE_SECONDS = 0.02
RETRY_SECONDS = 0.05
RETRY_SECONDS_MAX = 2.0
# How long the start of an action waits for other entries. Flushed alone, it would cost a flush that
# the results of other runs then queue behind.
BEGIN_ALONE_SECONDS = 0.1
# After this many statement timeouts a flush is halved: as a whole it may never succeed. A flush
# of one run is retried: if it does not return within two leases, the worker gives up its runs
# (STUCK_LEASES in lease_heartbeat).
SLOW_TRIES_MAX = 2


class BatchWriter:
    """Commits the journals of one worker session: one flush in flight, at most 2 MiB each.

    The next flush starts 20 ms after the start of the last one at the earliest.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        clock: Clock,
        *,
        owner: UUID,
        worker: str,
        on_flushed: Callable[[Flush, Settled], None],
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._owner = owner
        self._worker = worker
        self._on_flushed = on_flushed
        self._last_number = 0
        self._dirty_journals: dict[int, RunJournal] = {}
        self._has_work = asyncio.Event()
        self._flush_requested = asyncio.Event()
        self._in_flight = False
        self._next_flush: asyncio.Future[None] | None = None
        self.committing_since: float | None = None
        """Since when (monotonic) a flush is being committed; None if none is."""
        self.unwritten_bytes = 0
        """Bytes in all journals that are not part of a flush yet."""

    def open_journal(self, claimed: Claimed, mask: Mask = NOTHING) -> RunJournal:
        """Return the journal of a claimed run; `mask` redacts everything written to it."""
        return RunJournal(self, claimed, mask)

    def mark_dirty(self, journal: RunJournal, size_bytes: int) -> None:
        """Queue a journal that has new entries.

        A journal with only the start of an action waits a little: most have more to write soon.
        """
        self.unwritten_bytes += size_bytes
        if size_bytes or journal.claimed.id in self._dirty_journals:
            self.flush_soon(journal)
        else:
            asyncio.get_running_loop().call_later(BEGIN_ALONE_SECONDS, self.flush_soon, journal)

    def flush_soon(self, journal: RunJournal) -> None:
        """Put the journal into the next flush."""
        if not journal.is_empty:
            self._dirty_journals.setdefault(journal.claimed.id, journal)
            self._has_work.set()

    def discard(self, journal: RunJournal) -> None:
        """Drop the unwritten entries of a stale run."""
        self.unwritten_bytes -= journal.unwritten_bytes
        journal.discard()
        if self._dirty_journals.get(journal.claimed.id) is journal:
            del self._dirty_journals[journal.claimed.id]
        self._notify_waiters()  # there is room now, and there may be nothing left to flush

    @property
    def dirty_runs(self) -> int:
        """The number of runs with entries that are not part of a flush yet."""
        return len(self._dirty_journals)

    def flush_now(self) -> None:
        """Flush without the pause: all other runs are waiting for the next flush already."""
        self._flush_requested.set()

    async def wait_for_flush(self) -> None:
        """Wait for the end of the next flush."""
        if self._next_flush is None:
            self._next_flush = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next_flush)

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._has_work.wait()
            if not self._dirty_journals:  # all dirty journals were discarded meanwhile
                self._has_work.clear()
                continue
            began = time.monotonic()
            self._flush_requested.clear()
            await self._flush()
            # With more than this unwritten, waiting gains nothing.
            if self.unwritten_bytes < RUN_FLUSH_BYTES_MAX:
                await self._pause(began + FLUSH_PAUSE_SECONDS - time.monotonic())

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._flush_requested.wait()

    async def drain(self) -> None:
        """Wait until all journals are written."""
        while self._dirty_journals or self._in_flight:
            await self.wait_for_flush()

    async def _flush(self) -> None:
        flush, journals, size_bytes = self._build_flush()
        if not self._dirty_journals:
            self._has_work.clear()
        started = time.monotonic()
        self._in_flight = True
        self.committing_since = started
        try:
            settled = await self._commit(flush)
        finally:
            self.committing_since = None
            self._in_flight = False
            for journal in journals.values():
                journal.in_flight = False
        self._metrics.flush_seconds.observe(time.monotonic() - started)
        self._metrics.flush_bytes.observe(size_bytes)
        self._metrics.flush_entries.observe(len(flush.lines))
        if tracing.is_active():
            _record_commits(flush, journals, started)
        for run_id in settled.stale:
            self._metrics.stale_writes.inc()
            self.discard(journals[run_id])
        self._notify_waiters()
        try:
            self._on_flushed(flush, settled)
        except Exception:  # noqa: BLE001  stored: a bug in the callback must not end the writer
            self._metrics.bugs.labels("recorder").inc()
            log.exception("flush_follow_up_failed")

    def _notify_waiters(self) -> None:
        done, self._next_flush = self._next_flush, None
        if done is not None and not done.done():
            done.set_result(None)

    def _build_flush(self) -> tuple[Flush, dict[int, RunJournal], int]:
        builder = FlushBuilder()
        journals: dict[int, RunJournal] = {}
        share_bytes = _share(self._dirty_journals.values())
        # First come, first served. A journal with entries left over goes to the end of the queue.
        for run_id, journal in list(self._dirty_journals.items()):
            if builder.size_bytes >= FLUSH_BYTES:
                break
            del self._dirty_journals[run_id]
            journals[run_id] = journal
            journal.in_flight = True
            builder.size_bytes += journal.take(builder, share_bytes)
            if not journal.is_empty:
                self._dirty_journals[run_id] = journal
        self.unwritten_bytes -= builder.size_bytes
        return (
            self._create_flush(builder.runs, builder.results, builder.lines),
            journals,
            builder.size_bytes,
        )

    async def _commit(self, flush: Flush) -> Settled:
        """Commit the flush, retrying as long as needed.

        If PostgreSQL refuses the entries of one run, the flush is halved until that run is found,
        so that the others are written.
        """
        try:
            return await self._settle_until_stored(flush)
        except TooSlow as slow:
            log.warning("flush_halved", runs=len(flush.runs), reason=str(slow))
        except Exception as bug:  # noqa: BLE001  not Unavailable: the data was refused
            self._metrics.bugs.labels("recorder").inc()
            log.exception("flush_refused", runs=len(flush.runs))
            if len(flush.runs) == 1:
                return await self._end_without_output(flush, bug)
        halves = [await self._commit(part) for part in self._halves(flush)]
        return Settled(
            stale=frozenset().union(*(half.stale for half in halves)),
            stopping=frozenset().union(*(half.stopping for half in halves)),
            admitted={zone: count for half in halves for zone, count in half.admitted.items()},
            stopping_runs=frozenset().union(*(half.stopping_runs for half in halves)),
        )

    async def _end_without_output(self, flush: Flush, bug: Exception) -> Settled:
        """End a run whose output is refused: store its results only, then treat it as stale."""
        run = flush.runs[0]
        try:
            settled = await self._settle_until_stored(self._without_output(flush, bug))
        except Exception:  # noqa: BLE001  the claim loop finds it as an unknown run
            log.exception("run_not_ended", execution=run.execution_id, target_run=run.run_id)
            settled = Settled(frozenset(), frozenset(), {})
        return replace(settled, stale=settled.stale | {run.run_id})

    def _without_output(self, flush: Flush, bug: Exception) -> Flush:
        (run,) = flush.runs
        message = f"a fault of opsjobs: the run's output could not be stored ({type(bug).__name__})"
        end = ActionEnd(RunStatus.FAILED, error=RunError(ErrorCode.INTERNAL, message))
        now = self._clock.now()
        results = [
            replace(r, stored=r.stored_before, written=r.stored_before) for r in flush.results
        ]
        if results:
            results[-1] = replace(
                results[-1],
                status=end.status,
                exit_code=None,
                error=end.error,
                cancel_proof=None,
                finished_at=now,
            )
        lines = [result_line(r, run.target_id) for r in results if r.status.final]
        lines.append(status_line(run.run_id, run.target_id, end.status, end.error))
        return self._create_flush(
            [replace(run, status=end.status, exit_code=None, error=end.error, cancel_proof=None)],
            results,
            lines,
        )

    def _halves(self, flush: Flush) -> list[Flush]:
        middle = len(flush.runs) // 2
        parts = []
        for runs in (flush.runs[:middle], flush.runs[middle:]):
            ids = {run.run_id for run in runs}
            results = [r for r in flush.results if r.run_id in ids]
            parts.append(
                self._create_flush(
                    runs, results, [line for line in flush.lines if line.run_id in ids]
                )
            )
        return parts

    def _create_flush(
        self, runs: Sequence[RunMove], results: Sequence[ResultState], lines: Sequence[LogLine]
    ) -> Flush:
        return Flush(self._owner, self._worker, 0, runs, results, lines)

    async def _settle_until_stored(self, flush: Flush) -> Settled:
        # Numbered as late as possible: the ledger treats a flush with a number below the last
        # stored one as stored already.
        self._last_number += 1
        flush = replace(flush, number=self._last_number)
        backoff, too_slow = Backoff(RETRY_SECONDS, RETRY_SECONDS_MAX), 0
        while True:
            try:
                settled = await self._ledger.settle(flush)
            except Unavailable as unavailable:
                too_slow += isinstance(unavailable, TooSlow)
                if too_slow >= SLOW_TRIES_MAX and len(flush.runs) > 1:
                    raise
                if isinstance(unavailable, Locked):
                    self.committing_since = time.monotonic()  # a response: PostgreSQL is up
                log.warning("flush_repeated", flush=flush.number, reason=str(unavailable))
                await asyncio.sleep(backoff.next())
            else:
                self.committing_since = time.monotonic()
                return settled


def _record_commits(flush: Flush, journals: Mapping[int, RunJournal], started: float) -> None:
    """Record the commit in the trace of each run that it ends or lets wait."""
    for move in flush.runs:
        journal = journals.get(move.run_id)
        if move.status is not None and journal is not None and journal.trace is not None:
            tracing.record(
                "commit",
                started,
                parent=journal.trace,
                status=move.status.value,
                runs=len(journals),
            )


def _share(journals: Iterable[RunJournal]) -> int:
    """Return how many bytes of the next flush each run may fill.

    The room left by runs with little output is divided among those with much.
    """
    small, large = 0, 0
    for journal in journals:
        if journal.unwritten_bytes > RUN_FLUSH_BYTES:
            large += 1
        else:
            small += journal.unwritten_bytes
    return min(max(RUN_FLUSH_BYTES, (FLUSH_BYTES - small) // max(large, 1)), RUN_FLUSH_BYTES_MAX)
