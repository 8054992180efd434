"""Intake of deliveries: assign positions to events, queue the messages of sources."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from opsjobs.engine.delivery.protocols import Source
from opsjobs.engine.loop import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.event_feed import EventFeed
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

ROUND_SECONDS = 5.0
"""Time after which a round ends, however much there is left: the next one follows at once."""


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
