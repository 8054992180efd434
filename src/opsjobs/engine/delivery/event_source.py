"""A source of deliveries that is made of events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from opsjobs.engine.delivery.protocols import Batch
from opsjobs.engine.event_builder import BuiltEvent, EventBuilder
from opsjobs.model.delivery import NewDelivery
from opsjobs.model.errors import NotFound, Unavailable
from opsjobs.model.events import event_types
from opsjobs.store.event_feed import EventFeed
from opsjobs.store.outbox import OutboxEvent
from opsjobs.telemetry.logs import log

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
