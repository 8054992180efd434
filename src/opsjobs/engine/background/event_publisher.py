"""Publish the events of the outbox, at least once and in order.

Each has an id to deduplicate by.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from opsjobs import failpoints
from opsjobs.bus import Bus
from opsjobs.engine.service import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.model.events import CHANNEL, JOB_TWIN, EventType, channels, cloud_event, run_event
from opsjobs.model.execution import RunStatus, moment
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import Executions
from opsjobs.store.outbox import Outbox, OutboxEvent
from opsjobs.telemetry import Metrics, log

BATCH_FACTS = 100
BATCH_SECONDS = 5.0
"""Time after which a batch ends early, if Redis is slow: it holds its transaction open.

What was published until then is marked (the limit is 10 s).
"""
COME_BACK_SECONDS = 5.0
"""Time that listeners may take to reconnect to Redis after an outage.

They lost their connections, too: until then, no listeners does not mean that there are none.
"""

Told = tuple[str, dict[str, Any]]


class EventPublisher:
    """Publish the outbox to Redis pub/sub. While Redis is away the facts wait in PostgreSQL."""

    def __init__(
        self,
        outbox: Outbox,
        executions: Executions,
        journal: ExecutionLog,
        bus: Bus,
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._executions = executions
        self._journal = journal
        self._bus = bus
        self._metrics = metrics
        # Whatever ended the process before this one may have ended Redis, too.
        self._away_at = time.monotonic()

    async def run_once(self) -> Counts:
        """Publish what is waiting, one batch per shard; return how many events were published."""
        shards = await self._outbox.find_shards()
        if not shards:
            return {"published": 0}
        heard = await self._bus.has_listeners(f"{CHANNEL}*")
        if heard is None:
            self._away_at = time.monotonic()
        if heard is None or (not heard and time.monotonic() - self._away_at < COME_BACK_SECONDS):
            return {"published": 0}
        published, failed = 0, None
        for shard in shards:
            try:
                published += await self._shard(shard, heard=heard)
            except Unavailable:
                raise
            except Exception as bug:  # noqa: BLE001  it must not block other shards; raised last
                failed = failed or bug
        if failed is not None:
            raise failed
        return {"published": published}

    async def _shard(self, shard: int, *, heard: bool) -> int:
        published, began, failed = 0, time.monotonic(), None
        async with (
            self._outbox.batch(shard, limit=BATCH_FACTS) as (facts, told),
            failpoints.at("relay"),
        ):
            for fact in facts:
                if told and time.monotonic() - began > BATCH_SECONDS:
                    break
                try:
                    # Without listeners pub/sub drops events: then do not make them either (it was a
                    # third of a run's cost).
                    events = [event async for event in self._events(fact)] if heard else []
                except Unavailable:
                    raise
                except Exception as bug:  # noqa: BLE001  mark what was published; raised last
                    failed = bug
                    log.exception(
                        "event_not_made", fact=fact.id, type=fact.type, given_up=fact.stale
                    )
                    if not fact.stale:
                        break
                    events = []
                if events and not await self._publish(events):
                    break
                published += len(events)
                told.append(fact.id)
        self._metrics.events_published.inc(published)
        if failed is not None:
            raise failed
        return published

    async def _publish(self, events: Sequence[Told]) -> bool:
        made = [
            (event_type, json.dumps(event, ensure_ascii=False).encode())
            for event_type, event in events
        ]
        return await self._bus.publish_confirmed(
            *((channel, message) for kind, message in made for channel in channels(kind))
        )

    async def _events(self, fact: OutboxEvent) -> AsyncIterator[Told]:
        if fact.type == "target_run":
            async for told in self._of_runs(fact):
                yield told
            return
        data = fact.data
        if data is None and fact.execution_id is not None:
            data = (await self._executions.get(fact.execution_id)).data()
        at = moment(fact.at) or ""
        # The event's id is made of the outbox row's id: an event that is published twice has the
        # same id twice. The type is in it, too: of the same subject there are ids of the form
        # `<execution uuid>/<position in the log>`, and those are numbers as well.
        yield (
            fact.type,
            cloud_event(
                f"{fact.subject}/{fact.type}/{fact.id}",
                fact.type,
                str(fact.subject),
                at,
                data or {},
            ),
        )
        if (twin := _twin(fact.type)) is not None:
            yield (
                twin,
                cloud_event(
                    f"{fact.subject}/{twin}/{fact.id}", twin, str(fact.subject), at, data or {}
                ),
            )

    async def _of_runs(self, fact: OutboxEvent) -> AsyncIterator[Told]:
        assert fact.execution_id is not None
        assert fact.from_seq is not None
        assert fact.to_seq is not None
        after = fact.from_seq - 1
        while after < fact.to_seq:
            entries = await self._journal.read_states(
                fact.execution_id, after=after, upto=fact.to_seq, limit=500
            )
            runs = await self._executions.runs_by_id(
                {e.target_run for e in entries if e.target_run is not None}
            )
            for entry in entries:
                if entry.target_run in runs and entry.body is not None:
                    run = runs[entry.target_run]
                    kind = run_event(
                        RunStatus(entry.body["status"]), retry=entry.attempt is not None
                    )
                    if kind is not None:
                        event_id = f"{fact.subject}/{entry.seq}"
                        yield (
                            kind.value,
                            cloud_event(
                                event_id, kind.value, run.uuid, moment(entry.at) or "", run.data()
                            ),
                        )
            if len(entries) < 500:
                return
            after = entries[-1].seq


def _twin(event_type: str) -> str | None:
    try:
        twin = JOB_TWIN.get(EventType(event_type))
    except ValueError:
        return None
    return twin.value if twin else None
