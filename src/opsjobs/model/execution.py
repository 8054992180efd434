"""States of executions and target runs, legal transitions, and the overall outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from opsjobs.model.identity import Identity


class RunStatus(StrEnum):
    """The status of a target run. All but the first two are final."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    BLOCKED = "blocked"
    LOST = "lost"
    DEAD = "dead"

    @property
    def final(self) -> bool:
        """True if the status can no longer change."""
        return self not in (RunStatus.WAITING, RunStatus.RUNNING)


FINAL_RUN_STATUSES: tuple[RunStatus, ...] = tuple(s for s in RunStatus if s.final)

# The transitions, each with its verb. The database enforces them with CHECKs on the columns
# of each state.
#   waiting -> running      claim
#   running -> waiting      give_back (a worker stops), defer (a barrier, an approval, a back-off)
#   waiting -> final        cancel, expire (a deadline), skip
#   running -> final        settle
MOVES: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.WAITING: frozenset({RunStatus.RUNNING, *FINAL_RUN_STATUSES}) - {RunStatus.SUCCEEDED},
    RunStatus.RUNNING: frozenset({RunStatus.WAITING, *FINAL_RUN_STATUSES}),
    **{status: frozenset() for status in FINAL_RUN_STATUSES},
}


class WaitingFor(StrEnum):
    """The reason why a waiting run is not claimed; without a reason it is ready."""

    ADMISSION = "admission"
    SLOT = "slot"
    BACKOFF = "backoff"
    BARRIER = "barrier"
    APPROVAL = "approval"
    CHILD = "child"
    TIMER = "timer"
    HOLD = "hold"


ANSWERED_WAITS = frozenset({WaitingFor.APPROVAL, WaitingFor.CHILD})
"""The waits that an answer ends: a decision, or the end of another execution."""


class ExecutionStatus(StrEnum):
    """The status of an execution.

    `paused` and `cancelling` are shown while such a request is pending."""

    PENDING_APPROVAL = "pending_approval"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def final(self) -> bool:
        """True if the status can no longer change."""
        return self in FINAL_EXECUTION_STATUSES


FINAL_EXECUTION_STATUSES = frozenset(
    {
        ExecutionStatus.COMPLETED,
        ExecutionStatus.PARTIAL,
        ExecutionStatus.FAILED,
        ExecutionStatus.TIMEOUT,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.REJECTED,
    }
)


class TriggeredBy(StrEnum):
    """The trigger of an execution."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    API = "api"
    WEBHOOK = "webhook"
    RETRY = "retry"
    WORKFLOW = "workflow"


class ErrorCode(StrEnum):
    """The reason why a run failed, or why its output may be incomplete, for programs."""

    DNS = "dns"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_LOST = "connection_lost"
    HOST_KEY = "host_key"
    AUTH_FAILED = "auth_failed"
    CREDENTIAL_MISSING = "credential_missing"
    COMMAND_TIMEOUT = "command_timeout"
    NONZERO_EXIT = "nonzero_exit"
    INTERPRETER_MISSING = "interpreter_missing"
    BECOME_FAILED = "become_failed"
    TRANSFER = "transfer"
    OUTPUT_LIMIT = "output_limit"
    DISK_FULL = "disk_full"
    OUTPUT_INCOMPLETE = "output_incomplete"
    SAFETY_BLOCKED = "safety_blocked"
    TARGET_CHANGED = "target_changed"
    CIRCUIT_OPEN = "circuit_open"
    TARGET_BUSY = "target_busy"
    LOST = "lost"
    POISON = "poison"
    CANCELLED = "cancelled"
    INTERNAL = "internal"

    @property
    def run_status(self) -> RunStatus:
        """The status of a run that ends with this error."""
        return _STATUS_OF.get(self, RunStatus.FAILED)


OFFLINE = frozenset(
    {
        ErrorCode.DNS,
        ErrorCode.CONNECT_TIMEOUT,
        ErrorCode.CONNECTION_REFUSED,
        ErrorCode.CONNECTION_LOST,
    }
)
"""The codes of an unreachable host, which may recover by itself."""

_UNREACHABLE = (
    ErrorCode.DNS,
    ErrorCode.CONNECT_TIMEOUT,
    ErrorCode.CONNECTION_REFUSED,
    ErrorCode.CONNECTION_LOST,
    ErrorCode.HOST_KEY,
    ErrorCode.AUTH_FAILED,
    ErrorCode.CREDENTIAL_MISSING,
    ErrorCode.CIRCUIT_OPEN,
    ErrorCode.TARGET_BUSY,
)
_STATUS_OF: Mapping[ErrorCode, RunStatus] = {
    **dict.fromkeys(_UNREACHABLE, RunStatus.UNREACHABLE),
    ErrorCode.COMMAND_TIMEOUT: RunStatus.TIMEOUT,
    ErrorCode.SAFETY_BLOCKED: RunStatus.BLOCKED,
    ErrorCode.TARGET_CHANGED: RunStatus.BLOCKED,
    ErrorCode.LOST: RunStatus.LOST,
    ErrorCode.POISON: RunStatus.DEAD,
    ErrorCode.CANCELLED: RunStatus.CANCELLED,
    ErrorCode.OUTPUT_INCOMPLETE: RunStatus.SUCCEEDED,
}


class CancelProof(StrEnum):
    """The result of a cancel on the target: `unreachable`: the command may still be running."""

    NEVER_STARTED = "never_started"
    KILLED = "killed"
    ALREADY_FINISHED = "already_finished"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class RunError:
    """The error of a run or an action."""

    code: ErrorCode
    message: str


def verdict(counts: Mapping[RunStatus, int], *, cancel_asked: bool) -> ExecutionStatus:
    """Return the final status of an execution whose runs have all ended.

    `cancel_asked`: of the whole execution, or of each of its runs and all were cancelled.
    `counts` holds how many runs ended in each status (missing = 0). An execution without targets is
    completed. A statement in store/ledger computes it in SQL; a property test compares
    the two."""
    total = sum(counts.values())
    succeeded = counts.get(RunStatus.SUCCEEDED, 0)
    if cancel_asked and counts.get(RunStatus.CANCELLED, 0):
        return ExecutionStatus.CANCELLED
    if succeeded == total:
        return ExecutionStatus.COMPLETED
    if succeeded:
        return ExecutionStatus.PARTIAL
    if counts.get(RunStatus.TIMEOUT, 0) == total:
        return ExecutionStatus.TIMEOUT
    return ExecutionStatus.FAILED


class LaunchedBy(NamedTuple):
    """The identity that launched an execution."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Execution:
    """One launch, as read from the database."""

    id: int
    uuid: str
    job_id: int | None
    job_version: int | None
    number: int | None
    job_name: str
    status: ExecutionStatus
    """The visible status: paused and cancelling while such a request is pending."""
    triggered_by: TriggeredBy
    requested_by: Identity
    parameters: Mapping[str, Any]
    counts: Mapping[str, int]
    """The number of runs in each status, without zeros."""
    total_targets: int
    last_seq: int
    log_day: date
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reason: str | None = None
    cancelled_by: str | None = None
    cancel_reason: str | None = None
    parent: int | None = None
    halt_reason: str | None = None
    """The reason for skipping the runs that had not started."""
    paused_by: str | None = None
    """The name of the identity that paused it; None if a gate paused it."""
    pause_reason: str | None = None
    waves: Mapping[str, int] | None = None
    """{open, total}, if it has several."""
    waiting_on: Mapping[str, Any] | None = None
    """The object of its wait: {kind, reason, …}.

    The kind is pause, confirm, max_fail, exclusive or approval.
    """
    labels: Mapping[str, str] = field(default_factory=dict)
    """The labels that all of its targets had in common at the launch."""
    retries: Sequence[int] = ()
    """The first 100 executions that retry runs of it."""
    judgement: Mapping[str, Any] | None = None
    """{verdict, findings} of the safety check; None: it was not checked."""
    summary: str | None = None
    """The line that describes an ad-hoc execution; None for a job, which has a name."""

    @property
    def launcher(self) -> LaunchedBy:
        """The identity that launched it."""
        return LaunchedBy(self.requested_by, self.requested_by_kind)

    def data(self) -> dict[str, Any]:
        """Return what API responses show of it; they also have links."""
        ended = self.finished_at - self.created_at if self.finished_at else None
        return {
            "id": self.id,
            "uuid": self.uuid,
            "number": self.number,
            "job_id": self.job_id,
            "job_version": self.job_version,
            "job_name": self.job_name,
            "summary": self.summary,
            "status": self.status.value,
            "triggered_by": self.triggered_by.value,
            "requested_by": self.requested_by.name,
            "requested_by_kind": self.requested_by.kind,
            "labels": dict(self.labels),
            "parameters": dict(self.parameters),
            "counts": dict(self.counts),
            "total_targets": self.total_targets,
            "created_at": moment(self.created_at),
            "started_at": moment(self.started_at),
            "finished_at": moment(self.finished_at),
            "duration_ms": round(ended.total_seconds() * 1000) if ended is not None else None,
            "reason": self.reason,
            "error": self.halt_reason,
            "paused_by": self.paused_by,
            "pause_reason": self.pause_reason,
            "waves": self.waves,
            "waiting_on": self.waiting_on,
            "verdict": self.judgement["verdict"] if self.judgement is not None else None,
            "findings": list(self.judgement["findings"]) if self.judgement is not None else [],
            "parent": self.parent,
            "retries": list(self.retries),
        }

    def event_data(self) -> dict[str, Any]:
        """Return the `data` of its events: all but the text of a command, which stays here."""
        return {name: value for name, value in self.data().items() if name != "summary"}


def child_uuid(run: UUID, action: str, attempt: int) -> UUID:
    """Return the uuid of the execution that this attempt of a run's `job` action launches."""
    return uuid5(run, f"{action}.{attempt}")


def moment(at: datetime | None) -> str | None:
    """Return a time in RFC 3339, UTC, with milliseconds, as all API responses format it."""
    return (
        None if at is None else at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
    )
