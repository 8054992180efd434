"""Event types for jobs, executions and schedules.

Each event is written in the transaction of the change that it reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from opsjobs.model.execution import RunStatus

SOURCE = "/opsjobs"
CHANNEL = "opsconductor.events"


class EventType(StrEnum):
    """`<noun>.<verb>`; on the wire `io.opsconductor.<noun>.<verb>.v1`."""

    JOB_CREATED = "job.created"
    JOB_UPDATED = "job.updated"
    JOB_DELETED = "job.deleted"
    JOB_STARTED = "job.started"
    JOB_COMPLETED = "job.completed"
    JOB_FAILED = "job.failed"
    EXECUTION_QUEUED = "execution.queued"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_PROGRESS = "execution.progress"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_PARTIAL = "execution.partial"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLED = "execution.cancelled"
    EXECUTION_TIMEOUT = "execution.timeout"
    EXECUTION_REJECTED = "execution.rejected"
    TARGET_RUN_STARTED = "target_run.started"
    TARGET_RUN_RETRIED = "target_run.retried"
    TARGET_RUN_FINISHED = "target_run.finished"
    TARGET_RUN_LOST = "target_run.lost"
    TARGET_RUN_DEAD = "target_run.dead"
    SCHEDULE_CREATED = "schedule.created"
    SCHEDULE_UPDATED = "schedule.updated"
    SCHEDULE_DELETED = "schedule.deleted"
    SCHEDULE_TRIGGERED = "schedule.triggered"
    SCHEDULE_MISSED = "schedule.missed"
    SCHEDULE_SKIPPED = "schedule.skipped"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_DECIDED = "approval.decided"
    CIRCUIT_OPENED = "circuit.opened"
    CIRCUIT_CLOSED = "circuit.closed"
    WORKER_LOST = "worker.lost"
    WEBHOOK_DISABLED = "webhook.disabled"
    NOTIFICATION_SENT = "notification.sent"


# These job events of the original API are published in addition to the execution's own, with equal
# data.
JOB_TWIN: Mapping[EventType, EventType] = {
    EventType.EXECUTION_STARTED: EventType.JOB_STARTED,
    EventType.EXECUTION_COMPLETED: EventType.JOB_COMPLETED,
    EventType.EXECUTION_PARTIAL: EventType.JOB_FAILED,
    EventType.EXECUTION_FAILED: EventType.JOB_FAILED,
    EventType.EXECUTION_TIMEOUT: EventType.JOB_FAILED,
}

_OF_RUN: Mapping[RunStatus, EventType] = {
    RunStatus.RUNNING: EventType.TARGET_RUN_STARTED,
    RunStatus.LOST: EventType.TARGET_RUN_LOST,
    RunStatus.DEAD: EventType.TARGET_RUN_DEAD,
}


def run_event(status: RunStatus, *, retry: bool) -> EventType | None:
    """Return the event for a run that enters this status; None for one that was given back.

    `retry`: the run waits for its next attempt."""
    if status is RunStatus.WAITING:
        return EventType.TARGET_RUN_RETRIED if retry else None
    return _OF_RUN.get(status, EventType.TARGET_RUN_FINISHED)


RANGE = "target_run"
"""The type of an outbox row that represents the states of target runs in a range of a log."""
_RUN_TYPES = frozenset(
    {
        EventType.TARGET_RUN_STARTED.value,
        EventType.TARGET_RUN_RETRIED.value,
        EventType.TARGET_RUN_FINISHED.value,
        EventType.TARGET_RUN_LOST.value,
        EventType.TARGET_RUN_DEAD.value,
    }
)


def event_types(row_type: str) -> frozenset[str]:
    """Return the types of the events that a row of the outbox with this type represents.

    >>> sorted(event_types("execution.partial"))
    ['execution.partial', 'job.failed']
    """
    if row_type == RANGE:
        return _RUN_TYPES
    twin = twin_of(row_type)
    return frozenset({row_type} if twin is None else {row_type, twin})


def twin_of(event_type: str) -> str | None:
    """Return the type of the job event with equal data, if there is one."""
    try:
        twin = JOB_TWIN.get(EventType(event_type))
    except ValueError:
        return None
    return twin.value if twin else None


def check_event_pattern(pattern: str) -> str:
    """Return the pattern: a type, `<noun>.*` or `*`. Raises ValueError if no type matches."""
    if not matching_types([pattern]):
        near = get_close_matches(pattern, [each.value for each in EventType], n=1)
        hint = f"write {near[0]}" if near else "write a type"
        raise ValueError(f"there is no event {pattern[:60]!r}: {hint}, `execution.*` or `*`")
    return pattern


def matching_types(patterns: Iterable[str]) -> frozenset[str]:
    """Return the types that any of the patterns matches.

    >>> sorted(matching_types(["circuit.*", "worker.lost"]))
    ['circuit.closed', 'circuit.opened', 'worker.lost']
    """
    return frozenset(
        each.value
        for pattern in patterns
        for each in EventType
        if pattern in (each.value, "*", f"{each.value.partition('.')[0]}.*")
    )


def channels(event_type: str) -> tuple[str, str]:
    """Return the pub/sub channels of an event: for all events, and for its type."""
    return CHANNEL, f"{CHANNEL}.{event_type}"


def cloud_event(
    event_id: str,
    event_type: str,
    subject: str,
    at: str,
    data: Mapping[str, Any],
    *,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """Return a CloudEvents 1.0 JSON event.

    `at` is RFC 3339 in UTC; `subject` the uuid of the thing. `traceparent` is the attribute of the
    distributed tracing extension."""
    trace = {} if traceparent is None else {"traceparent": traceparent}
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": SOURCE,
        "type": f"io.opsconductor.{event_type}.v1",
        "subject": subject,
        "time": at,
        "datacontenttype": "application/json",
        **trace,
        "data": dict(data),
    }
