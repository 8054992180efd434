"""States of executions and target runs, legal transitions, and the overall outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5


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


def child_uuid(run: UUID, action: str, attempt: int) -> UUID:
    """Return the uuid of the execution that this attempt of a run's `job` action launches."""
    return uuid5(run, f"{action}.{attempt}")


def moment(at: datetime | None) -> str | None:
    """Return a time in RFC 3339, UTC, with milliseconds, as all API responses format it."""
    return (
        None if at is None else at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
    )
