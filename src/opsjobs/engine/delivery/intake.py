"""Intake of deliveries: assign positions to events, queue the messages of sources.

`EventSource` is the source that is made of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from opsjobs.engine.events import BuiltEvent, EventBuilder
from opsjobs.engine.loop import Counts
from opsjobs.model.delivery import NewDelivery
from opsjobs.model.errors import NotFound, Unavailable
from opsjobs.model.events import event_types
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.feeds import EventFeed
from opsjobs.store.outbox import OutboxEvent
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

ROUND_SECONDS = 5.0
"""Time after which a round ends, however much there is left: the next one follows at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The next messages of a source."""

    through: int
    """The position up to which the source has been read; as before, if there is nothing new."""
    deliveries: Sequence[NewDelivery]


class Source(Protocol):
    """A sequence of facts in PostgreSQL by position, from which messages are made.

    Each position is read once: the messages and the new position are committed together.
    """

    @property
    def name(self) -> str:
        """The name under which the position is stored; it never changes."""

    async def start(self) -> int:
        """Return the position at which a new installation begins: usually the end."""

    async def read(self, after: int) -> Batch:
        """Return a bounded number of messages of the facts after this position."""


class DeliveryIntake:
    """Read each source up to its end; one process at a time reads a source.

    A source that fails does not delay the others. Its position stays, so it is read again.
    """

    def __init__(
        self,
        stream: EventFeed,
        deliveries: Deliveries,
        sources: Sequence[Source],
        metrics: Metrics,
        *,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._deliveries = deliveries
        self._sources = tuple(sources)
        self._metrics = metrics
        self.wake = wake

    async def run_once(self) -> Counts:
        """Queue new events, for about 5 seconds; return how many events and deliveries.

        `wake` is called if there are new deliveries.
        """
        until = time.monotonic() + ROUND_SECONDS
        positioned, queued, left = 0, 0, list(self._sources)
        while True:
            assigned = await self._stream.assign()
            positioned += assigned
            for source in tuple(left):
                read, made = await self._read(source)
                queued += made
                if not read:
                    left.remove(source)
            if (not assigned and not left) or time.monotonic() >= until:
                break
            if assigned:
                left = list(self._sources)
        if queued:
            self.wake()
        return {"positioned": positioned, "queued": queued}

    async def _read(self, source: Source) -> tuple[bool, int]:
        """Queue the next messages of a source; return True if it moved, and how many."""
        try:
            async with self._deliveries.reading(source.name) as reading:
                if reading is not None:
                    batch = await source.read(reading.position)
                    moved = batch.through > reading.position
                    reading.position = batch.through
                    return moved, len(await reading.queue(batch.deliveries))
            await self._deliveries.start_source(source.name, await source.start())
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  a bug in one source must not stop the others
            self._metrics.bugs.labels("delivery_intake").inc()
            log.exception("delivery_source_failed", source=source.name)
        return False, 0


ROWS_A_READ = 100
DELIVERIES_A_READ = 2_000
"""A batch ends after the row that reaches this number."""


class EventRouter(Protocol):
    """Decides which deliveries an event makes."""

    @property
    def name(self) -> str:
        """The name of the source; it never changes."""

    async def load_types(self) -> Collection[str]:
        """Return the types of events that any receiver wants now. Others are not built."""

    async def route(self, event: BuiltEvent) -> Sequence[NewDelivery]:
        """Return the deliveries of an event of a wanted type."""


class EventSource:
    """Reads the stream of events, and asks the router about each.

    Its position begins at the end of the stream: receivers get what happens from now on.
    """

    def __init__(self, stream: EventFeed, builder: EventBuilder, router: EventRouter) -> None:
        self._stream = stream
        self._builder = builder
        self._router = router

    @property
    def name(self) -> str:
        """The router's name."""
        return self._router.name

    async def start(self) -> int:
        """Return the end of the stream."""
        return (await self._stream.bounds()).last

    async def read(self, after: int) -> Batch:
        """Return the deliveries of the next events."""
        # Read before what is wanted: a receiver that is added now misses nothing after that.
        last = await self.start()
        wanted = await self._router.load_types()
        if not wanted:
            return Batch(max(after, last), ())
        through, deliveries = after, list[NewDelivery]()
        for fact in await self._stream.read(after, limit=ROWS_A_READ):
            try:
                deliveries += await self._deliveries(fact, wanted)
            except Unavailable:
                raise
            except Exception:
                # It delays what follows for an hour, which keeps the order; then it is given up.
                log.exception("event_routing_failed", fact=fact.id, given_up=fact.stale)
                if through == after and not fact.stale:
                    raise
                if not fact.stale:
                    break
            through = fact.position or through
            if sum(len(each.receivers) for each in deliveries) >= DELIVERIES_A_READ:
                break
        return Batch(through, deliveries)

    async def _deliveries(
        self, fact: OutboxEvent, wanted: Collection[str]
    ) -> Sequence[NewDelivery]:
        if not event_types(fact.type).intersection(wanted):
            return ()
        made = list[NewDelivery]()
        try:
            async for event in self._builder.build(fact):
                if event.type in wanted:
                    made += await self._router.route(event)
        except NotFound as gone:
            # Retention deletes nothing that is not delivered, except by its limit per job.
            log.warning("event_without_subject", fact=fact.id, type=fact.type, reason=gone.detail)
        return made
