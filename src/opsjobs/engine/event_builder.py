"""Build the events that a row of the outbox represents, as CloudEvents.

One row is one event, an event with its twin, or a range of an execution's log: one event for each
state of a target run. The data is that of now; an event has the same id whenever it is built.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.model.events import RANGE, cloud_event, run_event, twin_of
from opsjobs.model.execution import RunStatus, moment
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import Executions
from opsjobs.store.outbox import OutboxEvent

ENTRIES_A_READ = 500


@dataclass(frozen=True, slots=True)
class BuiltEvent:
    """One event."""

    type: str
    part: int
    """Its place in the row: 0, 1 for a twin, and for a target run the position in the log."""
    body: Mapping[str, Any]
    """The CloudEvent."""
    execution_id: int | None = None

    @property
    def id(self) -> str:
        """The id by which receivers deduplicate."""
        return str(self.body["id"])

    @property
    def subject(self) -> str:
        """The uuid of the thing that it is about."""
        return str(self.body["subject"])


class EventBuilder:
    """Builds events; it reads executions and target runs as they are now."""

    def __init__(self, executions: Executions, execution_log: ExecutionLog) -> None:
        self._executions = executions
        self._execution_log = execution_log

    async def build(self, fact: OutboxEvent, *, after: int = -1) -> AsyncIterator[BuiltEvent]:
        """Yield the events of a row, in order, that come after a part.

        Raises NotFound if its execution was deleted.
        """
        if fact.type == RANGE:
            async for event in self._build_run_events(fact, after):
                yield event
            return
        data = fact.data
        if data is None and fact.execution_id is not None:
            data = (await self._executions.get(fact.execution_id)).event_data()
        at = moment(fact.at) or ""
        for part, event_type in enumerate((fact.type, twin_of(fact.type))):
            if event_type is not None and part > after:
                # The event's id is derived from the outbox row's id: an event that is published
                # twice has the same id twice. It contains the type, because the same subject also
                # has ids `<execution uuid>/<position in the log>`, which end in a number as well.
                event_id = f"{fact.subject}/{event_type}/{fact.id}"
                body = cloud_event(
                    event_id,
                    event_type,
                    str(fact.subject),
                    at,
                    data or {},
                    traceparent=fact.traceparent,
                )
                yield BuiltEvent(event_type, part, body, fact.execution_id)

    async def _build_run_events(self, fact: OutboxEvent, after: int) -> AsyncIterator[BuiltEvent]:
        assert fact.execution_id is not None
        assert fact.from_seq is not None
        assert fact.to_seq is not None
        after = max(after, fact.from_seq - 1)
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
                    body = cloud_event(
                        event_id,
                        event_type.value,
                        run.uuid,
                        at,
                        run.data(),
                        traceparent=fact.traceparent,
                    )
                    yield BuiltEvent(event_type.value, entry.seq, body, fact.execution_id)
            if len(entries) < ENTRIES_A_READ:
                return
            after = entries[-1].seq
