"""Read models: executions, target runs, their timeline, and groups of equal results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from opsjobs.model.execution import (
    ExecutionStatus,
    RunError,
    RunStatus,
    TriggeredBy,
    WaitingFor,
    moment,
)
from opsjobs.model.identity import Identity


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
        """Return the `data` of its events: all fields except `summary`, the text of a command."""
        return {name: value for name, value in self.data().items() if name != "summary"}


@dataclass(frozen=True, slots=True)
class TargetName:
    """A target as of the launch: its id as text, its name, its host."""

    id: str
    name: str
    host: str

    def data(self) -> dict[str, str]:
        """Return `{id, name, host}`."""
        return {"id": self.id, "name": self.name, "host": self.host}


@dataclass(frozen=True, slots=True)
class TargetRun:
    """The current state of one target's run in an execution."""

    id: int
    uuid: str
    position: int
    target: TargetName
    status: RunStatus
    waiting_for: WaitingFor | None
    attempt: int
    wave: int
    worker: str | None
    error: RunError | None
    exit_code: int | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_proof: str | None = None
    late_result: Mapping[str, Any] | None = None
    awaits: str | None = None
    """The object of its wait, by name.

    It is the action of a barrier or an approval, the uuid of a child execution, or the reason of a
    hold; with a timer or a back-off, any other awaited object.
    """
    not_before: datetime | None = None
    """The end of its timer, back-off or hold."""
    step: str | None = None
    """The current action, or the one that did not succeed."""
    last_stderr: str | None = None
    """The last line of stderr there, if it did not succeed."""
    contact_lost_at: datetime | None = None
    """The time since which the host of a running run has been unreachable."""
    cancel: Mapping[str, Any] | None = None
    """{by, reason} if it was cancelled by itself, not with its whole execution."""

    def data(self) -> dict[str, Any]:
        """Return an item of GET /executions/{id}/targets, also the `data` of the run's events."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "target": self.target.data(),
            "status": self.status.value,
            "waiting_for": self.waiting_for.value if self.waiting_for else None,
            "awaits": self.awaits,
            "not_before": moment(self.not_before),
            "attempt": self.attempt,
            "wave": self.wave,
            "step": self.step,
            "last_stderr": self.last_stderr,
            "worker": self.worker,
            "contact_lost_at": moment(self.contact_lost_at),
            "error": _error(self.error),
            "exit_code": self.exit_code,
            "started_at": moment(self.started_at),
            "finished_at": moment(self.finished_at),
            "cancel": self.cancel,
            "cancel_proof": self.cancel_proof,
            "late_result": self.late_result,
        }


@dataclass(frozen=True, slots=True)
class Captured:
    """The head of a stream: its first stored bytes, and the total that the target wrote.

    `head` never continues past a gap."""

    head: bytes
    total_bytes: int

    @property
    def truncated(self) -> bool:
        """True if the target wrote more than `head` holds."""
        return len(self.head) < self.total_bytes

    @property
    def text(self) -> str:
        """The head as UTF-8, with U+FFFD for invalid bytes.

        A character that the limit truncates at the end is omitted."""
        head = _whole_characters(self.head) if self.truncated else self.head
        return head.decode("utf-8", "replace")


NO_OUTPUT = Captured(b"", 0)


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt at one action in one target run."""

    id: int
    execution_id: int
    target_run: int
    target: TargetName
    action_key: str
    attempt: int
    status: RunStatus
    exit_code: int | None
    stdout: Captured
    stderr: Captured
    error: RunError | None
    started_at: datetime | None
    finished_at: datetime | None
    command: str | None
    worker: str | None
    cancel_proof: str | None = None
    inherited_from: int | None = None
    """The execution that ran it; a retry shows the result without running it again."""


@dataclass(frozen=True, slots=True)
class ResultGroup:
    """Targets whose runs ended with equal status, exit code, error and output."""

    digest: str
    exit_code: int | None
    status: RunStatus
    stdout: Captured
    targets: Sequence[TargetName]
    error_code: str | None = None
    error_message: str | None = None
    """The message of the first target's error; those of the others may differ."""
    stderr: Captured = NO_OUTPUT
    """The stderr of runs that did not succeed."""
    count: int = 0
    """The number of its targets; `targets` may be only the first ones."""


LAST_LINE_CHARACTERS = 200


def last_line(text: str) -> str:
    """Return the last line that is not blank, truncated for a message; empty if none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-LAST_LINE_CHARACTERS:] if lines else ""


def _error(error: RunError | None) -> dict[str, str] | None:
    return None if error is None else {"code": error.code.value, "message": error.message}


def _whole_characters(head: bytes) -> bytes:
    """Return the bytes without an incomplete UTF-8 character at the end."""
    for back in range(1, min(4, len(head) + 1)):
        byte = head[-back]
        if byte & 0xC0 == 0x80:
            continue
        # A first byte from 0xC0, 0xE0 or 0xF0 on starts a character of 2, 3 or 4 bytes.
        needed = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        return head[:-back] if needed > back else head
    return head


class Phase(StrEnum):
    """The phases of a run.

    `queue`: waiting to be claimed; `slot`: waiting for a slot of the target; `connect`: connecting
    to the machine, `auth`: logging in there, if a connection was made for it; `exec` and
    `transfer`: an action; `commit`: from the end of the last action to the end of the run."""

    QUEUE = "queue"
    SLOT = "slot"
    CONNECT = "connect"
    AUTH = "auth"
    EXEC = "exec"
    TRANSFER = "transfer"
    COMMIT = "commit"


@dataclass(frozen=True, slots=True)
class Acted:
    """One attempt at an action, with times of its worker's clock."""

    run_id: int
    action: str
    type: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    auth_at: datetime | None = None
    """The start of its login, if it waited for one."""
    entered_at: datetime | None = None
    """The end of that login."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase of one run; `finished_at` is None while it lasts."""

    run: TargetRun
    phase: Phase
    started_at: datetime
    finished_at: datetime | None
    action: str | None = None
    attempt: int = 1


def timeline(launched_at: datetime, run: TargetRun, acted: Sequence[Acted]) -> list[Stretch]:
    """Return the phases of one run, in order.

    `acted`: its own attempts, in the order in which they began."""
    claimed_at = run.started_at
    stretches = [Stretch(run, _waiting(run), launched_at, claimed_at or run.finished_at)]
    if claimed_at is None:
        return stretches
    if (first := next((a for a in acted if a.started_at >= claimed_at), None)) or (
        run.status is RunStatus.RUNNING and not acted
    ):
        stretches += _entering(run, claimed_at, first)
    stretches += [
        Stretch(run, _acting(a), a.started_at, a.finished_at, a.action, a.attempt) for a in acted
    ]
    ends = [a.finished_at for a in acted if a.finished_at is not None]
    if run.finished_at is not None and ends:
        stretches.append(
            Stretch(run, Phase.COMMIT, max(ends), run.finished_at, attempt=run.attempt)
        )
    return sorted(stretches, key=lambda stretch: stretch.started_at)


def _entering(run: TargetRun, claimed_at: datetime, first: Acted | None) -> list[Stretch]:
    """Return the phases of connecting and, if recorded, of the login."""
    until = first.started_at if first is not None else None
    if first is None or first.auth_at is None or first.entered_at is None:
        return [Stretch(run, Phase.CONNECT, claimed_at, until, attempt=run.attempt)]
    # Another run may have begun the same connection before this one was claimed.
    began = max(first.auth_at, claimed_at)
    entered = max(first.entered_at, began)
    return [
        Stretch(run, Phase.CONNECT, claimed_at, began, attempt=run.attempt),
        Stretch(run, Phase.AUTH, began, entered, attempt=run.attempt),
    ]


def _waiting(run: TargetRun) -> Phase:
    return Phase.SLOT if run.waiting_for is WaitingFor.SLOT else Phase.QUEUE


def _acting(acted: Acted) -> Phase:
    return Phase.TRANSFER if acted.type == "file_transfer" else Phase.EXEC
