"""Publish the events of the outbox, at least once and in order.

Receivers deduplicate by the id of each event.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from opsjobs import failpoints
from opsjobs.bus import Bus
from opsjobs.engine.loop import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import CHANNEL, JOB_TWIN, EventType, channels, cloud_event, run_event
from opsjobs.model.execution import RunStatus, moment
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import Executions
from opsjobs.store.outbox import Outbox, OutboxEvent
from opsjobs.telemetry import Metrics, log

BATCH_FACTS = 100
ENTRIES_A_READ = 500
BATCH_SECONDS = 5.0
"""Time after which a batch ends early if Redis is slow: it holds its transaction open.

Events published until then are marked (the limit is 10 s).
"""
COME_BACK_SECONDS = 5.0
"""Time that listeners may take to reconnect to Redis after an outage.

They lost their connections, too: until then, an empty list does not prove that there are none.
"""

Message = tuple[str, dict[str, Any]]
"""The type of an event, and the event."""


class EventPublisher:
    """Publish the outbox to Redis pub/sub; while Redis is down, events wait in PostgreSQL."""

    def __init__(
        self,
        outbox: Outbox,
        executions: Executions,
        execution_log: ExecutionLog,
        bus: Bus,
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._executions = executions
        self._execution_log = execution_log
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
                    events = [e async for e in self._make_events(fact)] if has_listeners else []
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
                if events and not await self._publish(events):
                    break
                published += len(events)
                published_ids.append(fact.id)
        self._metrics.events_published.inc(published)
        if failed is not None:
            raise failed
        return published

    async def _publish(self, events: Sequence[Message]) -> bool:
        encoded = [
            (event_type, json.dumps(event, ensure_ascii=False).encode())
            for event_type, event in events
        ]
        return await self._bus.publish_confirmed(
            *((channel, data) for event_type, data in encoded for channel in channels(event_type))
        )

    async def _make_events(self, fact: OutboxEvent) -> AsyncIterator[Message]:
        if fact.type == "target_run":
            async for event in self._make_run_events(fact):
                yield event
            return
        data = fact.data
        if data is None and fact.execution_id is not None:
            data = (await self._executions.get(fact.execution_id)).data()
        at = moment(fact.at) or ""
        for event_type in (fact.type, _twin(fact.type)):
            if event_type is not None:
                # The event's id is derived from the outbox row's id: an event that is published
                # twice has the same id twice. It contains the type, because the same subject also
                # has ids `<execution uuid>/<position in the log>`, which end in a number as well.
                event_id = f"{fact.subject}/{event_type}/{fact.id}"
                yield (
                    event_type,
                    cloud_event(event_id, event_type, str(fact.subject), at, data or {}),
                )

    async def _make_run_events(self, fact: OutboxEvent) -> AsyncIterator[Message]:
        assert fact.execution_id is not None
        assert fact.from_seq is not None
        assert fact.to_seq is not None
        after = fact.from_seq - 1
        while after < fact.to_seq:
            entries = await self._execution_log.read_states(
                fact.execution_id, after=after, upto=fact.to_seq, limit=ENTRIES_A_READ
            )
            runs = await self._executions.runs_by_id(
                {e.target_run for e in entries if e.target_run is not None}
            )
            for entry in entries:
                if entry.target_run not in runs or entry.body is None:
                    continue
                run, status = runs[entry.target_run], RunStatus(entry.body["status"])
                event_type = run_event(status, retry=entry.attempt is not None)
                if event_type is not None:
                    event_id, at = f"{fact.subject}/{entry.seq}", moment(entry.at) or ""
                    event = cloud_event(event_id, event_type.value, run.uuid, at, run.data())
                    yield event_type.value, event
            if len(entries) < ENTRIES_A_READ:
                return
            after = entries[-1].seq


def _twin(event_type: str) -> str | None:
    try:
        twin = JOB_TWIN.get(EventType(event_type))
    except ValueError:
        return None
    return twin.value if twin else None
