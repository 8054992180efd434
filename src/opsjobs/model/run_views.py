"""Read models of an execution: target runs, results, and groups of equal results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.model.execution import RunError, RunStatus, WaitingFor, moment


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
    """The current state of one target's run in an execution.

    `awaits`: the name of what a waiting run waits for: the action of a barrier or an approval, the
    uuid of a child execution, the reason of a hold; with a timer or a back-off, what else is
    awaited. `not_before`: when its timer, back-off or hold ends. `step`: the current action, or the
    one that did not succeed. `last_stderr`: the last line there, if it did not succeed.
    `contact_lost_at`: since when the machine of a running run has been unreachable."""

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
    not_before: datetime | None = None
    step: str | None = None
    last_stderr: str | None = None
    contact_lost_at: datetime | None = None

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
            "cancel_proof": self.cancel_proof,
            "late_result": self.late_result,
        }


@dataclass(frozen=True, slots=True)
class Captured:
    """The beginning of a stream: its first stored bytes, and the total the target wrote.

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

        A character that the limit cuts off at the end is left out."""
        head = _whole_characters(self.head) if self.truncated else self.head
        return head.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt at one action in one target run.

    `inherited_from`: the execution that ran it; a retry shows the result without running it again.
    """

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


@dataclass(frozen=True, slots=True)
class ResultGroup:
    """Targets whose runs ended alike: same status, exit code, error and output.

    `stderr`: of runs that did not succeed."""

    digest: str
    exit_code: int | None
    status: RunStatus
    stdout: Captured
    targets: Sequence[TargetName]
    error_code: str | None = None
    stderr: bytes = b""


LAST_LINE_CHARACTERS = 200


def last_line(text: str) -> str:
    """Return the last line that is not blank, cut to fit into a message; empty if none."""
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
