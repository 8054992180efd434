"""GET /events: everything that happens and that the caller may see, with replay.

The end of the stream is read once for all viewers of a process. A viewer that is further back than
the ring reads pages of its own, a few viewers at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Send

from opsjobs.api import log_formats
from opsjobs.api.dependencies import ServicesDep, requires_a_token
from opsjobs.api.long_lived import ServerSentEvents, StreamReauth, check_room
from opsjobs.api.request import principal_of, proof_of
from opsjobs.api.schemas.responses import EVENTS
from opsjobs.composition.services import services_of
from opsjobs.engine.events import EventAudience, EventBuilder, EventVisibility
from opsjobs.model.errors import Gone, Invalid, NotFound, Refusal, Unavailable
from opsjobs.model.events import matching_types
from opsjobs.model.webhook import EVENTS_MAX, EventPattern
from opsjobs.store.feeds import EventFeed
from opsjobs.store.outbox import OutboxEvent
from opsjobs.store.reference import BIGINT_MAX
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

router = APIRouter(tags=["events"])


@router.get(
    "/events",
    dependencies=[requires_a_token()],
    response_class=Response,
    responses=EVENTS,
    summary="Follow all events",
)
async def follow(
    request: Request,
    services: ServicesDep,
    type: Annotated[
        list[EventPattern] | None,
        Query(max_length=EVENTS_MAX, description="Types, `<noun>.*` or `*`. Default: all."),
    ] = None,
    after: Annotated[
        str | None,
        Query(max_length=41, description="Start after this `id`; 0: at the oldest event kept."),
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=41)] = None,
) -> Response:
    """Stream events that the caller may see, as CloudEvents, from now on or after a position.

    A client that resumes with `Last-Event-ID` misses and repeats nothing. 410 if events after that
    were deleted. If the token loses its validity, the last event is `refused`.
    """
    check_room(request.app.state.followers)
    tail: EventTail = request.app.state.event_tail
    given = last_event_id if last_event_id is not None else after
    if given == "0":
        cursor = EventCursor((await services.event_feed.bounds()).deleted)
    else:
        cursor = await tail.start_after(None if given is None else EventCursor.parse(given))
    return EventFeedStream(request, tail, cursor, matching_types(type or ["*"]))


class EventFeedStream(ServerSentEvents):
    """The events after a place that the viewer may see, by its rights of that time."""

    def __init__(
        self, request: Request, tail: EventTail, cursor: EventCursor, types: Collection[str]
    ) -> None:
        super().__init__(request, "events")
        self._request = request
        self._tail = tail
        self._cursor = cursor
        self._types = types
        services = services_of(request)
        proof = proof_of(request)

        async def ask() -> None:
            request.state.principal = await services.authentication.authenticator.reauthenticate(
                proof
            )

        self._reauth = StreamReauth(
            ask, services.clock, every_seconds=services.limits.stream_reauth_seconds
        )

    async def send_frames(self, send: Send) -> None:
        """Send the events after the viewer's place, as they come."""
        # A client that loses the connection before the first event resumes at this place.
        await self.send(send, b": connected\nid: %s\n\n" % str(self._cursor).encode())
        batches = self._tail.batches(self._cursor, lambda: self._reauth.seconds_left)
        async with aclosing(batches):
            async for batch in batches:
                await self._reauth.check()
                await self.send(send, self._visible(batch))
                self._cursor = batch.cursor

    def encode_refused(self, refusal: Refusal) -> bytes:
        """Return the frame with the refusal, at the viewer's place."""
        body = {"status": refusal.status, "code": refusal.code, "detail": refusal.detail}
        return b"id: %s\nevent: refused\ndata: %s\n\n" % (
            str(self._cursor).encode(),
            log_formats.encode_json(body),
        )

    def _visible(self, batch: TailBatch) -> bytes:
        principal = principal_of(self._request)
        frames = [
            event.frame
            for event in batch.events
            if event.type in self._types and event.audience.admits(principal)
        ]
        # The place alone: a viewer who sees little does not fall behind what is kept.
        return b"".join(frames) or b": keep-alive\nid: %s\n\n" % str(batch.cursor).encode()


# --- the end of the stream, read once for all viewers


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
