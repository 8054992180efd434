"""Flush: the changes that a worker writes for many runs at once, as statement parameters.

Large flushes send PostgreSQL array literals: psycopg's own dump of a list is a Python call per
element, ten times as expensive. A literal is bound like any other text and cast in the statement
(`:'run'::bigint[]`); bytes are sent as a list, in binary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs.model.execution import CancelProof, RunError, RunStatus, WaitingFor, moment
from opsjobs.model.program import SpoolIdentity
from opsjobs.store.statements import load_statement

SETTLE = load_statement(__file__, "settle")
"""The statement that commits a flush, with `parameters`."""

# Instead of a spool id: the run's command was started outside of any spool, so that no worker can
# attach to it.
DIRECT = "direct"
# `awaits` is indexed, and an index entry holds 2,704 bytes at most; PostgreSQL cuts texts by
# characters, of up to 4 bytes.
AWAITS_BYTES_MAX = 2_000


@dataclass(slots=True)
class LogLine:
    """One entry for the execution log; entries are written in the order of their list.

    Output has a stream, other entries have a body.
    """

    run_id: int
    event: str
    action: str | None = None
    attempt: int | None = None
    stream: str | None = None
    start_offset: int | None = None
    data: bytes | None = None
    dropped: int | None = None
    body: Mapping[str, Any] | None = None
    lines: int | None = None
    """The number of lines of output that begin in this entry."""


@dataclass(slots=True)
class ResultState:
    """The state of one attempt at an action after this flush."""

    run_id: int
    action: str
    attempt: int
    begins: bool
    """True if the row is new."""
    status: RunStatus
    stored_before: tuple[int, int]
    """The offsets (stdout, stderr) that the log has reached before this flush."""
    stored: tuple[int, int]
    """The offsets that the log reaches with this flush."""
    written: tuple[int, int]
    """The bytes that the target has written so far."""
    started_at: datetime | None
    finished_at: datetime | None = None
    exit_code: int | None = None
    error: RunError | None = None
    cancel_proof: CancelProof | None = None
    outputs: Mapping[str, Any] | None = None
    identity: SpoolIdentity | None = None
    """The spool in which it may have been started."""
    direct: bool = False
    """True if it may have been started outside of any spool."""
    again_seconds: float | None = None
    """Delay of its retry; None: it is not retried."""
    command: str | None = None
    """With `begins`: its command line, if that differs from the one in its definition."""
    logged_in: tuple[datetime, datetime] | None = None
    """With `begins`: the start and the end of the login, if the action waited for it."""
    open_lines: tuple[bool, bool] = (False, False)
    """True if stdout, stderr has a last line without a line feed, which may continue."""

    @property
    def store_id(self) -> str | None:
        """The value of the column `store_id`."""
        if self.direct:
            return DIRECT
        return self.identity.store if self.identity is not None else None


@dataclass(frozen=True, slots=True)
class ContactChange:
    """A change of the reachability of a run's target."""

    lost_at: datetime | None
    """The time since when the target cannot be reached; None: it can be reached again."""

    @property
    def text(self) -> str:
        """The value of the statement's parameter: a time, or the empty text."""
        return "" if self.lost_at is None else self.lost_at.isoformat()


@dataclass(frozen=True, slots=True)
class RunMove:
    """The state change of a run in this flush: only new output, its end, or back to waiting."""

    run_id: int
    execution_id: int
    target_id: str
    fence: int
    status: RunStatus | None = None
    """Its final status, or WAITING; None: only its output or results grow."""
    exit_code: int | None = None
    error: RunError | None = None
    cancel_proof: CancelProof | None = None
    attempt: int | None = None
    """With WAITING: it waits for this attempt, a retry."""
    identity: SpoolIdentity | None = None
    """The spool in which its command may be started from now on. A waiting run has none."""
    direct: bool = False
    """True if it may be started outside of any spool, where its outcome cannot be looked up."""
    waiting_for: WaitingFor | None = None
    """With WAITING: the kind of the wait; None: the run is given back."""
    wake_seconds: float | None = None
    """Minimum length of the wait (timer, backoff, hold)."""
    awaits: str | None = None
    """The action's key (barrier, approval), the child's uuid, or the reason of a hold.

    For a timer or a backoff: the names of approvals and children that also end the wait, separated
    by spaces.
    """
    watched: bool = False
    """The `watched` of its execution, as of the claim."""
    sweep: bool = False
    """With its end: the outcome of some of its actions is to be looked up in their spool."""
    release: bool = False
    """With its end: its output on the target is removed soon, its record a day later."""
    contact: ContactChange | None = None
    """A change of the reachability of its target; None: no change."""

    @property
    def store_id(self) -> str | None:
        """The value of the column `store_id`."""
        if self.direct:
            return DIRECT
        return self.identity.store if self.identity is not None else None


@dataclass(frozen=True, slots=True)
class Flush:
    """One group commit."""

    owner: UUID
    worker: str
    number: int
    """Sequence number of the flush: it grows by one with every flush of an owner."""
    runs: Sequence[RunMove]
    results: Sequence[ResultState] = field(default_factory=tuple)
    lines: Sequence[LogLine] = field(default_factory=tuple)


def parameters(flush: Flush) -> dict[str, Any]:
    """Return the parameters of the statement of `settle`."""
    runs = {run.run_id: run for run in flush.runs}
    lines: dict[int, int] = {}
    moves: dict[int, int] = {}
    for line in flush.lines:
        lines[line.run_id] = lines.get(line.run_id, 0) + 1
        moves[line.run_id] = moves.get(line.run_id, 0) + (line.event == "status")
    return {
        "owner": flush.owner,
        "worker": flush.worker,
        "run": numbers(r.run_id for r in flush.runs),
        "execution": numbers(r.execution_id for r in flush.runs),
        "fence": numbers(r.fence for r in flush.runs),
        "status": texts(r.status and r.status.value for r in flush.runs),
        "exit": numbers(r.exit_code for r in flush.runs),
        "code": sparse([r.error.code.value if r.error else None for r in flush.runs]),
        "message": sparse([r.error.message if r.error else None for r in flush.runs]),
        "proof": sparse([r.cancel_proof and r.cancel_proof.value for r in flush.runs]),
        "attempt": numbers(r.attempt for r in flush.runs),
        "store": sparse([r.store_id for r in flush.runs]),
        "boot": sparse([None if r.identity is None else r.identity.boot for r in flush.runs]),
        "sweep": flags(r.sweep for r in flush.runs),
        "release": flags(r.release for r in flush.runs),
        "contact": sparse([None if r.contact is None else r.contact.text for r in flush.runs]),
        "lines": numbers(lines.get(r.run_id, 0) for r in flush.runs),
        "moves": numbers(moves.get(r.run_id, 0) for r in flush.runs),
        **_wait_parameters(flush.runs),
        **_result_parameters(flush.results, runs),
        **_line_parameters(flush.lines, runs),
    }


def _wait_parameters(runs: Sequence[RunMove]) -> dict[str, Any]:
    # Most flushes defer no run: an empty array costs nothing, and unnest pads it with NULLs.
    waits = runs if any(r.waiting_for is not None for r in runs) else ()
    return {
        "waiting_for": texts(r.waiting_for and r.waiting_for.value for r in waits),
        "wake": texts(
            None if r.wake_seconds is None else repr(float(r.wake_seconds)) for r in waits
        ),
        "awaits": texts(_indexable(r.awaits) for r in waits),
    }


def _indexable(words: str | None) -> str | None:
    return words and words.encode(errors="replace")[:AWAITS_BYTES_MAX].decode(errors="ignore")


def _result_parameters(
    results: Sequence[ResultState], runs: Mapping[int, RunMove]
) -> dict[str, Any]:
    return {
        "r_run": numbers(r.run_id for r in results),
        "r_execution": numbers(runs[r.run_id].execution_id for r in results),
        "r_action": texts(r.action for r in results),
        "r_attempt": numbers(r.attempt for r in results),
        "r_begins": flags(r.begins for r in results),
        "r_status": texts(r.status.value for r in results),
        "r_out_before": numbers(r.stored_before[0] for r in results),
        "r_err_before": numbers(r.stored_before[1] for r in results),
        "r_out": numbers(r.stored[0] for r in results),
        "r_err": numbers(r.stored[1] for r in results),
        "r_out_written": numbers(r.written[0] for r in results),
        "r_err_written": numbers(r.written[1] for r in results),
        "r_started": moments(r.started_at for r in results),
        "r_finished": moments(r.finished_at for r in results),
        "r_exit": numbers(r.exit_code for r in results),
        "r_code": sparse([r.error.code.value if r.error else None for r in results]),
        "r_message": sparse([r.error.message if r.error else None for r in results]),
        "r_proof": sparse([r.cancel_proof and r.cancel_proof.value for r in results]),
        "r_store": sparse([r.store_id for r in results]),
        "r_boot": sparse([None if r.identity is None else r.identity.boot for r in results]),
        **_rare_parameters(results),
    }


def _rare_parameters(results: Sequence[ResultState]) -> dict[str, Any]:
    # Rarely set: an empty array costs nothing, and unnest fills it up with NULLs.
    outputs = results if any(r.outputs is not None for r in results) else ()
    again = results if any(r.again_seconds is not None for r in results) else ()
    commands = results if any(r.command is not None for r in results) else ()
    logins = results if any(r.logged_in is not None for r in results) else ()
    unfinished = results if any(any(r.open_lines) for r in results) else ()
    return {
        "r_outputs": texts(None if r.outputs is None else json.dumps(r.outputs) for r in outputs),
        "r_again": texts(
            None if r.again_seconds is None else repr(float(r.again_seconds)) for r in again
        ),
        "r_command": texts(r.command for r in commands),
        "r_logged_in": texts(None if r.logged_in is None else _range(*r.logged_in) for r in logins),
        "r_open": numbers(r.open_lines[0] + 2 * r.open_lines[1] for r in unfinished),
    }


def _range(since: datetime, until: datetime) -> str:
    return f"[{since.isoformat()},{until.isoformat()}]"


def _line_parameters(lines: Sequence[LogLine], runs: Mapping[int, RunMove]) -> dict[str, Any]:
    return {
        "l_run": numbers(line.run_id for line in lines),
        "l_execution": numbers(runs[line.run_id].execution_id for line in lines),
        "l_target": texts(runs[line.run_id].target_id for line in lines),
        "l_event": texts(line.event for line in lines),
        "l_action": texts(line.action for line in lines),
        # The entry of a retry names the attempt that the run waits for, which distinguishes it from
        # a run that was given back.
        "l_attempt": numbers(
            runs[line.run_id].attempt
            if line.event == "status" and line.attempt is None
            else line.attempt
            for line in lines
        ),
        "l_stream": texts(line.stream for line in lines),
        "l_start": numbers(line.start_offset for line in lines),
        "l_data": [line.data for line in lines],
        "l_dropped": numbers(line.dropped for line in lines),
        "l_lines": numbers(line.lines for line in lines),
        "l_body": texts(
            None if line.body is None else json.dumps(line.body, ensure_ascii=False)
            for line in lines
        ),
    }


def count_lines(data: bytes | None, *, continues: bool) -> tuple[int, bool]:
    """Return how many lines begin in a piece of a stream, and if its last line may continue.

    `continues`: the piece continues a line that began before it. None: bytes that were not kept are
    one line.
    """
    if data is None:
        return 1, False
    if not data:
        return 0, continues
    is_open = not data.endswith(b"\n")
    return data.count(b"\n") + is_open - continues, is_open


def status_line(
    run_id: int,
    target_id: str,
    status: RunStatus,
    error: RunError | None,
    waiting_for: WaitingFor | None = None,
) -> LogLine:
    """Return the log entry for a new state of a run; `waiting_for` if it waits for something."""
    body = {
        "target_run": run_id,
        "target": target_id,
        "status": status.value,
        "error": _error(error),
    }
    if waiting_for is not None:
        body["waiting_for"] = waiting_for.value
    return LogLine(run_id, "status", body=body)


def result_line(state: ResultState, target_id: str) -> LogLine:
    """Return the log entry for the end of an action."""
    body = {
        "target_run": state.run_id,
        "target": target_id,
        "action_key": state.action,
        "attempt": state.attempt,
        "status": state.status.value,
        "exit_code": state.exit_code,
        "error": _error(state.error),
        "cancel_proof": state.cancel_proof and state.cancel_proof.value,
        "stdout_bytes": state.written[0],
        "stderr_bytes": state.written[1],
        "started_at": moment(state.started_at),
        "finished_at": moment(state.finished_at),
    }
    return LogLine(state.run_id, "result", state.action, state.attempt, body=body)


def _error(error: RunError | None) -> dict[str, str] | None:
    return {"code": error.code.value, "message": error.message} if error else None


_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def numbers(values: Iterable[int | None]) -> str:
    """Return `{1,NULL,3}`; booleans become 0 and 1, so they are for integer columns only."""
    return "{" + ",".join(["NULL" if value is None else str(int(value)) for value in values]) + "}"


def flags(values: Iterable[bool]) -> str:
    """Return `{t,f}`."""
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def texts(values: Iterable[str | None]) -> str:
    r"""Return `{"a","say \"b\"",NULL}`; each text is quoted, so that nothing in it is syntax."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def sparse(values: Sequence[str | None]) -> str:
    """Return the literal of a column that is rarely set.

    If no value is set, it is an empty array; `unnest` with other arrays pads it with NULLs.
    """
    return "{}" if all(value is None for value in values) else texts(values)


def _quoted(value: str) -> str:
    # Searching first is three times as fast as translating, and most texts contain neither
    # character.
    return (
        f'"{value}"' if '"' not in value and "\\" not in value else f'"{value.translate(_QUOTED)}"'
    )


def moments(values: Iterable[datetime | None]) -> str:
    """Return the literal of aware times, in ISO 8601."""
    return texts(None if value is None else value.isoformat() for value in values)
