"""Follow the log of an execution: one reader for all viewers, and a shared ring of frames.

The reader is woken by notifications and encodes each log entry once into the ring. A viewer
requests only the frames after its position, and may filter them; the bytes are taken from the ring
or, for older positions, from a page of the store. No database connection is held while waiting, and
a slow viewer does not delay the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from opsjobs import failpoints
from opsjobs.api import log_formats
from opsjobs.model.errors import Unavailable
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import EVERY_ENTRY, LogEntry, LogFilter
from opsjobs.task_cancellation import Endings
from opsjobs.telemetry.logs import log

CLOSE_SECONDS = 3.0
"""Maximum time that a stopping process waits for its readers."""


class LogReader(Protocol):
    """Source of log entries: store.execution_log.ExecutionLog."""

    async def read(
        self, execution_id: int, *, after: int, limit: int, max_bytes: int
    ) -> list[LogEntry]:
        """Return the entries after a position."""

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
        """Return entries in (after, upto] that match, and the position that was reached."""


class WakeupSource(Protocol):
    """Source of wake-up notifications: bus.Bus."""

    def listen(
        self, *channels: str
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        """Subscribe to these channels; the context yields their messages."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals and limits of followers."""

    merge_seconds: float = 0.05
    """Notifications within this time are merged into one read."""
    reads_at_once: int = 3
    """Reads without delay after a quiet time: the first output of a command is immediate."""
    poll_seconds: float = 1.0
    """The log is read after this time even without a notification."""
    retry_seconds: float = 1.0
    """Delay before a failed read is retried."""
    keep_alive_seconds: float = 15.0
    """Interval of keep-alives while the log does not grow."""
    page_entries: int = 1_000
    """Maximum number of entries in one read."""
    page_scan: int = 10_000
    """Maximum number of entries that one read examines for a viewer with a filter."""
    page_bytes: int = 1 << 20
    """Maximum size of one read of the follower."""
    ring_bytes: int = 4 << 20
    """Maximum size of the ring."""
    batch_bytes: int = 128 << 10
    """Maximum size of one batch for a viewer."""
    pagers: int = 4
    """Maximum number of concurrent store reads for viewers that are behind the ring."""
    viewers: int = 2_000
    """Maximum number of open streams of the process."""


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Joined frames for one viewer.

    `position`: the seq of the last frame. `ended`: the end of the log is among them.
    """

    data: bytes
    position: int
    ended: bool


class Frame(NamedTuple):
    """An encoded entry, with the fields that viewers filter by."""

    data: bytes
    event: str
    target_run: int | None


class Ring:
    """The newest frames without a gap, of every seq from `base + 1` to `last`.

    Their size is bounded by `limit_bytes`, except that the newest frame always stays.
    """

    def __init__(self, base: int, limit_bytes: int) -> None:
        self.base = base
        self.last = base
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._frames: dict[int, Frame] = {}

    def add(self, seq: int, frame: Frame) -> None:
        """Append the next frame and drop the oldest beyond the limit; the newest always stays."""
        assert seq == self.last + 1, f"the log has a gap: {self.last} is followed by {seq}"
        self._frames[seq] = frame
        self.last = seq
        self.size_bytes += len(frame.data)
        while self.size_bytes > self._limit_bytes and self.base + 1 < self.last:
            self.base += 1
            self.size_bytes -= len(self._frames.pop(self.base).data)

    def take(
        self, position: int, max_bytes: int, log_filter: LogFilter = EVERY_ENTRY
    ) -> tuple[bytes, int]:
        """Return the wanted frames after a position until `max_bytes`, and the position reached.

        The position is not below `base`.
        """
        taken: list[bytes] = []
        size = 0
        while position < self.last and size < max_bytes:
            position += 1
            frame = self._frames[position]
            if log_filter.admits(frame.event, frame.target_run):
                taken.append(frame.data)
                size += len(frame.data)
        return b"".join(taken), position


class Follower:
    """The single reader of an execution that has not ended."""

    def __init__(
        self, execution_id: int, start: int, journal: LogReader, wakeups: WakeupSource, pace: Pace
    ) -> None:
        self.ring = Ring(start, pace.ring_bytes)
        self.ended_at: int | None = None
        self.failure: Exception | None = None
        self.stopped = False
        self.viewers = 0
        self._execution_id = execution_id
        self._journal = journal
        self._wakeups = wakeups
        self._pace = pace
        self._woken = asyncio.Event()
        self._woken.set()
        self._grown = asyncio.Event()
        self.tasks = [
            asyncio.create_task(self._read_on(), name=f"follow-{execution_id}"),
            asyncio.create_task(self._listen(), name=f"wakeups-{execution_id}"),
        ]

    async def grown(self, position: int) -> None:
        """Wait until the log extends beyond a position or the reader was stopped.

        Raises RuntimeError, caused by the reader's failure, if the reader failed.
        """
        while self.ring.last <= position and not self.stopped:
            if self.failure:
                raise RuntimeError(
                    f"the log of execution {self._execution_id} cannot be followed"
                ) from self.failure
            await self._grown.wait()

    def stop(self) -> None:
        """Stop reading, even if `tasks` ignore their cancellation, and wake all waiters."""
        self.stopped = True
        self._wake_viewers()

    async def _listen(self) -> None:
        async with self._wakeups.listen(f"opsjobs.log.{self._execution_id}") as messages:
            self._woken.set()  # entries written before the subscription sent no notification here
            async for _ in messages:
                self._woken.set()

    async def _read_on(self) -> None:
        try:
            await self._read_page()
            if self.ended_at is None and not self.stopped:
                # Subscribed now: also read entries that were written before the subscription.
                await self._wakeup_or_poll()
                await self._read_page()
            # Neither read was caused by a notification, so the first notifications cause a read at
            # once; later ones are merged.
            now, pace = asyncio.get_running_loop().time, self._pace
            paid_until = now()
            while self.ended_at is None and not self.stopped:
                await self._wakeup_or_poll()
                await self._read_page()
                paid_until = max(paid_until, now()) + pace.merge_seconds
                await asyncio.sleep(
                    paid_until - now() - (pace.reads_at_once - 1) * pace.merge_seconds
                )
        except Exception as bug:  # noqa: BLE001  raised in all viewers, so that none waits forever
            self.failure = bug
            self._wake_viewers()

    async def _wakeup_or_poll(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.poll_seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _read_page(self) -> None:
        pace = self._pace
        try:
            async with failpoints.at("stream"):
                entries = await self._journal.read(
                    self._execution_id,
                    after=self.ring.last,
                    limit=pace.page_entries,
                    max_bytes=pace.page_bytes,
                )
        except Unavailable as away:
            log.warning(
                "log_unreadable",
                execution=self._execution_id,
                error=str(away),
            )
            await asyncio.sleep(pace.retry_seconds)
            return
        for entry in entries:
            frame = Frame(log_formats.encode_frame(entry), entry.event, entry.target_run)
            self.ring.add(entry.seq, frame)
            if entry.event == "end":
                self.ended_at = entry.seq
        if entries:
            self._wake_viewers()
        if (
            len(entries) == pace.page_entries
            or sum(len(e.data or b"") for e in entries) >= pace.page_bytes
        ):
            self._woken.set()  # a full page: there is more

    def _wake_viewers(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


class Followers:
    """All followers of this process, and the page reads of viewers behind their ring.

    At most `Pace.pagers` of these page reads run at a time.
    """

    def __init__(self, journal: LogReader, wakeups: WakeupSource, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self.closing = asyncio.Event()
        self.streams = 0
        self.dropped = 0
        self._journal = journal
        self._wakeups = wakeups
        self._pagers = asyncio.Semaphore(self.pace.pagers)
        self._following: dict[int, Follower] = {}
        self._endings = Endings()

    async def batches(
        self,
        execution: Execution,
        after: int,
        idle_seconds: Callable[[], float] | None = None,
        log_filter: LogFilter = EVERY_ENTRY,
    ) -> AsyncGenerator[FrameBatch, None]:
        """Yield the log after a position as it grows, until its end.

        Each wanted entry is sent once and in order, the end in any case; keep-alives are sent while
        there is none. If the execution has ended and the position is at or beyond its end, the end
        is sent again. `idle_seconds`: the longest wait for a batch, if shorter than the keep-alive
        interval.
        """
        if execution.status.final:
            async for batch in self._ended(execution, after, log_filter):
                yield batch
            return
        position = min(after, execution.last_seq)
        async with self._followed(execution, position) as follower:
            ended = False
            while not ended and not self.closing.is_set():
                idle = (
                    self.pace.keep_alive_seconds
                    if idle_seconds is None
                    else min(self.pace.keep_alive_seconds, idle_seconds())
                )
                batch = await self._next(follower, execution.id, position, idle, log_filter)
                yield batch
                position, ended = batch.position, batch.ended

    async def await_end(self, execution: Execution, seconds: float) -> None:
        """Wait until the execution ends, the time is over, or the process stops.

        No database connection is held while waiting. It never returns later than that: the read
        runs in a separate task, because it may not react to its cancellation at once.
        """
        reading = asyncio.create_task(
            self._read_to_the_end(execution), name=f"await-{execution.id}"
        )
        try:
            await asyncio.wait({reading}, timeout=seconds)
        finally:
            if not reading.done():
                self._endings.begin(reading)
        if reading.done():
            reading.result()

    async def close(self) -> None:
        """End all streams and readers of this process.

        A reader that ignores its cancellation is abandoned after CLOSE_SECONDS.
        """
        self.closing.set()
        followers, self._following = self._following, {}
        for follower in followers.values():
            self._end(follower)
        await self._endings.wait(CLOSE_SECONDS)

    def _end(self, follower: Follower) -> None:
        follower.stop()
        self._endings.begin(*follower.tasks)

    async def _read_to_the_end(self, execution: Execution) -> None:
        async with aclosing(self.batches(execution, execution.last_seq)) as batches:
            async for _ in batches:
                continue

    async def _next(
        self,
        follower: Follower,
        execution_id: int,
        position: int,
        idle_seconds: float,
        log_filter: LogFilter,
    ) -> FrameBatch:
        ring, data = follower.ring, b""
        try:
            async with asyncio.timeout(idle_seconds):
                while position >= ring.base and not data:
                    await follower.grown(position)
                    if position < ring.base:  # it grew by more than the ring holds
                        break
                    data, position = ring.take(position, self.pace.batch_bytes, log_filter)
                    if follower.stopped:
                        break
        except TimeoutError:
            # A viewer with a filter has not seen how far the log has grown.
            seen = None if log_filter is EVERY_ENTRY else position
            return FrameBatch(log_formats.encode_keep_alive(seen), position, False)
        if position < ring.base:
            return await self._page(execution_id, position, ring.base, log_filter)
        return FrameBatch(data, position, position == follower.ended_at)

    async def _page(
        self, execution_id: int, position: int, upto: int, log_filter: LogFilter
    ) -> FrameBatch:
        entries, reached = await self._older(execution_id, position, upto, log_filter)
        if reached == position:
            raise LookupError(
                f"the log of execution {execution_id} has no entry after {position}, "
                "but has not ended"
            )
        return FrameBatch(
            b"".join(map(log_formats.encode_frame, entries)),
            reached,
            bool(entries) and entries[-1].event == "end",
        )

    async def _older(
        self, execution_id: int, position: int, upto: int, log_filter: LogFilter
    ) -> tuple[list[LogEntry], int]:
        pace = self.pace
        limits = {"limit": pace.page_entries, "max_bytes": pace.batch_bytes}
        async with self._pagers:
            while True:
                try:
                    if log_filter is EVERY_ENTRY:
                        entries = await self._journal.read(execution_id, after=position, **limits)
                        return entries, entries[-1].seq if entries else position
                    return await self._journal.read_matching(
                        execution_id,
                        log_filter,
                        after=position,
                        upto=min(upto, position + pace.page_scan),
                        **limits,
                    )
                except Unavailable:
                    await asyncio.sleep(pace.retry_seconds)

    async def _ended(
        self, execution: Execution, after: int, log_filter: LogFilter
    ) -> AsyncGenerator[FrameBatch, None]:
        position = min(after, max(execution.last_seq - 1, 0))
        while position < execution.last_seq:
            batch = await self._page(execution.id, position, execution.last_seq, log_filter)
            yield batch
            position = batch.position
            if batch.ended:
                return
        yield FrameBatch(log_formats.encode_end(execution), execution.last_seq, True)

    @asynccontextmanager
    async def _followed(self, execution: Execution, after: int) -> AsyncIterator[Follower]:
        follower = self._following.get(execution.id)
        if follower is None or follower.failure:
            # Start near the end of the log, so that viewers who connect together share the reads;
            # older entries are paged.
            start = max(after, execution.last_seq - self.pace.page_entries, 0)
            follower = Follower(execution.id, start, self._journal, self._wakeups, self.pace)
            self._following[execution.id] = follower
        follower.viewers += 1
        try:
            yield follower
        finally:
            follower.viewers -= 1
            if not follower.viewers:
                if self._following.get(execution.id) is follower:
                    del self._following[execution.id]
                self._end(follower)
