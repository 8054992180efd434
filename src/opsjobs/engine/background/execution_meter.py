"""Count the executions that end, with their durations, when their events are published."""

from __future__ import annotations

from collections.abc import Sequence

from opsjobs.model.events import EventType
from opsjobs.store.execution_ends import load_ends
from opsjobs.store.outbox import OutboxEvent
from opsjobs.store.transaction import Database
from opsjobs.telemetry.metrics import Metrics

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
