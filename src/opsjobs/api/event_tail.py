"""The end of the stream of events, read once for all viewers of a process.

A viewer that is further back than the ring reads pages of its own, a few viewers at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from opsjobs.api import log_formats
from opsjobs.engine.events import EventAudience, EventBuilder, EventVisibility
from opsjobs.model.errors import Gone, Invalid, NotFound, Unavailable
from opsjobs.store.feeds import EventFeed
from opsjobs.store.outbox import OutboxEvent
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

POLL_SECONDS = 1.0
RETRY_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
PAGE_ROWS = 100
PAGERS = 4
RING_EVENTS = 2_000
RING_BYTES = 8 << 20
_CURSOR = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")


@dataclass(frozen=True, slots=True, order=True)
class EventCursor:
    """The place of an event: its row's position in the stream, and its part of the row.

    >>> EventCursor.parse("12-3")
    EventCursor(position=12, part=3)
    """

    position: int
    part: int = BIGINT_MAX
    """The largest one: after the whole row."""

    @classmethod
    def parse(cls, text: str) -> EventCursor:
        """Return the cursor of `12-3`, or of `12`: after the row. Raises Invalid."""
        found = _CURSOR.fullmatch(text)
        position = int(found[1]) if found else BIGINT_MAX + 1
        part = int(found[2]) if found and found[2] else BIGINT_MAX
        if position > BIGINT_MAX or part > BIGINT_MAX:
            raise Invalid(
                "invalid_query",
                f"{text[:60]!r} is not a position in the stream. "
                "Send the `id` of an event, as 12-3.",
            )
        return cls(position, part)

    def __str__(self) -> str:
        row = str(self.position)
        return row if self.part == BIGINT_MAX else f"{row}-{self.part}"


@dataclass(frozen=True, slots=True)
class TailEvent:
    """One event, encoded once for all viewers."""

    cursor: EventCursor
    type: str
    audience: EventAudience
    frame: bytes


@dataclass(frozen=True, slots=True)
class TailBatch:
    """The next events, and the place after them; none after a quiet time."""

    events: Sequence[TailEvent]
    cursor: EventCursor


class EventTail:
    """Reads and builds the newest events while there are viewers.

    A fault is retried while viewers wait. An event that fails for an hour is left out.
    """

    def __init__(
        self,
        feed: EventFeed,
        builder: EventBuilder,
        visibility: EventVisibility,
        metrics: Metrics,
    ) -> None:
        self.closing = asyncio.Event()
        self._feed = feed
        self._builder = builder
        self._visibility = visibility
        self._metrics = metrics
        self._pagers = asyncio.Semaphore(PAGERS)
        self._ring: deque[TailEvent] = deque()
        self._ring_bytes = 0
        self._base = 0
        """All events of rows after this one are in the ring, up to the row `_last`."""
        self._last = 0
        self._viewers = 0
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._grown = asyncio.Event()

    async def start_after(self, cursor: EventCursor | None) -> EventCursor:
        """Return the place to begin at: the end of the stream, if none is given.

        Raises Gone if events after it were deleted, Invalid if it is beyond the end.
        """
        bounds = await self._feed.bounds()
        if cursor is None:
            return EventCursor(bounds.last)
        if cursor.position > bounds.last:
            raise Invalid(
                "invalid_query",
                f"{cursor} is beyond the end of the stream, which is {bounds.last}: it is of "
                "another database. Leave it out to begin at the end.",
            )
        if cursor.position < bounds.deleted:
            raise _deleted(cursor)
        return cursor

    async def batches(
        self, after: EventCursor, idle_seconds: Callable[[], float]
    ) -> AsyncGenerator[TailBatch, None]:
        """Yield the events after a place as they come; empty batches while there are none."""
        cursor = after
        async with self._watched():
            while not self.closing.is_set():
                batch = await self._next(cursor, min(KEEP_ALIVE_SECONDS, idle_seconds()))
                yield batch
                cursor = batch.cursor

    async def close(self) -> None:
        """End all streams of this process."""
        self.closing.set()
        self._wake()
        if self._reader is not None:
            await ended(self._reader)

    async def _next(self, cursor: EventCursor, idle_seconds: float) -> TailBatch:
        if cursor < EventCursor(self._base):
            return await self._page(cursor)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(idle_seconds):
                while EventCursor(self._last) <= cursor and not self.closing.is_set():
                    await self._grown.wait()
        if cursor < EventCursor(self._base):  # it grew by more than the ring holds
            return await self._page(cursor)
        events = [event for event in self._ring if event.cursor > cursor]
        return TailBatch(events, max(cursor, EventCursor(self._last)))

    async def _page(self, cursor: EventCursor) -> TailBatch:
        """Return the next events from PostgreSQL; none after a fault, so that it is retried."""
        try:
            async with self._pagers:
                rows = await self._feed.read(cursor.position - 1, limit=PAGE_ROWS)
                deleted = (await self._feed.bounds()).deleted
                events = [event for row in rows for event in await self._build(row)]
        except Exception as fault:  # noqa: BLE001  viewers wait until it is over
            await self._wait_after(fault)
            return TailBatch([], cursor)
        if deleted > cursor.position:
            raise _deleted(cursor)
        last = EventCursor(rows[-1].position or 0) if rows else cursor
        return TailBatch([e for e in events if e.cursor > cursor], max(cursor, last))

    async def _wait_after(self, fault: Exception) -> None:
        if isinstance(fault, Unavailable):
            log.warning("events_unreadable", error=str(fault))
        else:
            self._metrics.bugs.labels("event_tail").inc()
            log.error("events_unreadable", exc_info=fault)
        await asyncio.sleep(RETRY_SECONDS)

    async def _build(self, row: OutboxEvent) -> list[TailEvent]:
        """Return the events of a row; none if its execution was deleted, or if it fails so long."""
        try:
            return [event async for event in self._encode(row)]
        except NotFound:
            return []
        except Unavailable:
            raise
        except Exception:
            if not row.stale:
                raise
            self._metrics.bugs.labels("event_tail").inc()
            log.exception("event_left_out", position=row.position, type=row.type)
            return []

    async def _encode(self, row: OutboxEvent) -> AsyncIterator[TailEvent]:
        async for event in self._builder.build(row):
            cursor = EventCursor(row.position or 0, event.part)
            audience = await self._visibility.of_event(event)
            data = log_formats.encode_json(event.body)
            frame = b"id: %s\nevent: %s\ndata: %s\n\n" % (
                str(cursor).encode(),
                event.type.encode(),
                data,
            )
            yield TailEvent(cursor, event.type, audience, frame)

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        # Counted first: while it waits, the reader does not end with another viewer.
        self._viewers += 1
        try:
            async with self._starting:
                await self._start_reader()
            yield
        finally:
            self._viewers -= 1
            if not self._viewers and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _start_reader(self) -> None:
        """Start the reader at the end of the stream, unless it runs."""
        if self._reader is not None and not self._reader.done():
            return
        self._base = self._last = (await self._feed.bounds()).last
        self._ring.clear()
        self._ring_bytes = 0
        self._reader = asyncio.create_task(self._read_on(), name="event-tail")

    async def _read_on(self) -> None:
        while True:
            before = self._last
            try:
                rows = await self._feed.read(before, limit=PAGE_ROWS)
                for row in rows:
                    self._add(row.position or 0, await self._build(row))
            except Exception as fault:  # noqa: BLE001  viewers wait until it is over
                if self._last > before:
                    self._wake()
                await self._wait_after(fault)
                continue
            if rows:
                self._wake()
            if len(rows) < PAGE_ROWS:
                await asyncio.sleep(POLL_SECONDS)

    def _add(self, position: int, events: Sequence[TailEvent]) -> None:
        for event in events:
            self._ring.append(event)
            self._ring_bytes += len(event.frame)
        self._last = position
        while len(self._ring) > RING_EVENTS or self._ring_bytes > RING_BYTES:
            gone = self._ring.popleft()
            self._ring_bytes -= len(gone.frame)
            self._base = max(self._base, gone.cursor.position)

    def _wake(self) -> None:
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()


def _deleted(cursor: EventCursor) -> Gone:
    return Gone(
        "events_deleted",
        f"Events after {cursor} were deleted: they were older than OPSJOBS_KEEP_EVENTS. Begin "
        "without a place, and read what you need from the resources.",
    )
