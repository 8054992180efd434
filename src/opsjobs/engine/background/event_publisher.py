"""Publish the events of the outbox, at least once and in order.

Receivers deduplicate by the id of each event. The executions that end are counted here, with their
durations, when their events are published.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from opsjobs import failpoints
from opsjobs.bus import Bus
from opsjobs.engine.events import BuiltEvent, EventBuilder
from opsjobs.engine.loop import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import CHANNEL, EventType, channels
from opsjobs.store.outbox import Outbox, OutboxEvent
from opsjobs.store.statistics import load_ends
from opsjobs.store.transaction import Database
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import SpanKind

BATCH_FACTS = 100
BATCH_SECONDS = 5.0
"""Time after which a batch ends early if Redis is slow: it holds its transaction open.

Events published until then are marked (the limit is 10 s).
"""
COME_BACK_SECONDS = 5.0
"""Time that listeners may take to reconnect to Redis after an outage.

They lost their connections, too: until then, an empty list does not prove that there are none.
"""


class EventPublisher:
    """Publish the outbox to Redis pub/sub; while Redis is down, events wait in PostgreSQL."""

    def __init__(
        self,
        outbox: Outbox,
        builder: EventBuilder,
        bus: Bus,
        metrics: Metrics,
        meter: ExecutionMeter | None = None,
    ) -> None:
        """`meter` counts the executions whose ends are published."""
        self._outbox = outbox
        self._meter = meter
        self._builder = builder
        self._bus = bus
        self._metrics = metrics
        # The cause that ended the previous process may have ended Redis, too.
        self._away_at = time.monotonic()

    async def run_once(self) -> Counts:
        """Publish waiting events, one batch per shard; return how many were published."""
        shards = await self._outbox.find_shards()
        if not shards:
            return {"published": 0}
        has_listeners = await self._bus.has_listeners(f"{CHANNEL}*")
        if has_listeners is None:
            self._away_at = time.monotonic()
        seconds_back = time.monotonic() - self._away_at
        if has_listeners is None or (not has_listeners and seconds_back < COME_BACK_SECONDS):
            return {"published": 0}
        published, failed = 0, None
        for shard in shards:
            try:
                published += await self._publish_shard(shard, has_listeners=has_listeners)
            except Unavailable:
                raise
            except Exception as bug:  # noqa: BLE001  it must not block other shards; raised last
                failed = failed or bug
        if failed is not None:
            raise failed
        return {"published": published}

    async def _publish_shard(self, shard: int, *, has_listeners: bool) -> int:
        published, began, failed = 0, time.monotonic(), None
        async with (
            self._outbox.batch(shard, limit=BATCH_FACTS) as (facts, published_ids),
            failpoints.at("publish"),
        ):
            for fact in facts:
                if published_ids and time.monotonic() - began > BATCH_SECONDS:
                    break
                try:
                    # Without listeners pub/sub drops events, so none are built (that was a third of
                    # a run's cost).
                    events = [e async for e in self._builder.build(fact)] if has_listeners else []
                except Unavailable:
                    raise
                except Exception as bug:  # noqa: BLE001  mark what was published; raised last
                    failed = bug
                    log.exception(
                        "event_build_failed", fact=fact.id, type=fact.type, given_up=fact.stale
                    )
                    if not fact.stale:
                        break
                    events = []
                if events and not await self._publish_traced(fact, events):
                    break
                published += len(events)
                published_ids.append(fact.id)
        self._metrics.events_published.inc(published)
        if self._meter is not None:
            done = set(published_ids)
            await self._meter.count([fact for fact in facts if fact.id in done])
        if failed is not None:
            raise failed
        return published

    async def _publish_traced(self, fact: OutboxEvent, events: Sequence[BuiltEvent]) -> bool:
        began, trace = time.monotonic(), TraceContext.parse(fact.traceparent)
        published = await self._publish(events)
        if published and trace is not None:
            tracing.record(
                "publish",
                began,
                parent=trace,
                kind=SpanKind.PRODUCER,
                type=fact.type,
                events=len(events),
            )
        return published

    async def _publish(self, events: Sequence[BuiltEvent]) -> bool:
        encoded = [
            (event.type, json.dumps(event.body, ensure_ascii=False).encode()) for event in events
        ]
        return await self._bus.publish_confirmed(
            *((channel, data) for event_type, data in encoded for channel in channels(event_type))
        )


_ENDS = frozenset(
    event.value
    for event in (
        EventType.EXECUTION_COMPLETED,
        EventType.EXECUTION_PARTIAL,
        EventType.EXECUTION_FAILED,
        EventType.EXECUTION_CANCELLED,
        EventType.EXECUTION_TIMEOUT,
        EventType.EXECUTION_REJECTED,
    )
)


class ExecutionMeter:
    """Measures ended executions when their events are marked as published.

    An execution may end in any process, even in a statement of the API; its event is written in
    that transaction, whatever ended it.
    """

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    async def count(self, published: Sequence[OutboxEvent]) -> None:
        """Count the executions that these events end. Raises Unavailable."""
        ids = [fact.execution_id for fact in published if fact.type in _ENDS]
        if not ids:
            return
        for ended in await load_ends(self._database, [one for one in ids if one is not None]):
            self._metrics.executions_finished.labels(ended.status, ended.job_type).inc()
            self._metrics.execution_seconds.labels(ended.job_type).observe(ended.seconds)
