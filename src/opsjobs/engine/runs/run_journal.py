"""The journal of one run: everything to be written about it, in order.

Group commits take its entries in portions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from opsjobs.model.execution import CancelProof, RunError, RunStatus, WaitingFor
from opsjobs.model.masking import NOTHING, Mask
from opsjobs.model.program import SpoolIdentity
from opsjobs.remote.session import Stream
from opsjobs.store.ledger.claim import Claimed, Progress
from opsjobs.store.ledger.flush import (
    ContactChange,
    LogLine,
    ResultState,
    RunMove,
    count_lines,
    result_line,
    status_line,
)
from opsjobs.store.statements import storable
from opsjobs.telemetry.trace_context import TraceContext

CHUNK_BYTES = 64 << 10
# Back-pressure: a run with more unwritten output than the first limit waits, and every run waits
# while the worker has more than the second. That is larger than a flush, so that the bytes of the
# next flush are in memory while the last one is being committed.
RUN_UNWRITTEN_BYTES = 2 << 20
WORKER_UNWRITTEN_BYTES = 32 << 20
# One run's share of a flush, so that a flood of output leaves room for other runs: at least the
# first, and at most the second of the room left by the others. Each connection to PostgreSQL keeps
# buffers as large as the largest flush that it has sent.
RUN_FLUSH_BYTES = 256 << 10
RUN_FLUSH_BYTES_MAX = 1 << 20
# The size that each log entry adds besides its data: it limits a flush of 2 MiB to some 2,000
# entries, whatever their size.
LINE_BYTES = 1_000
# Key of a lost connection that was recorded by an earlier worker.
_BEFORE_US = None
# Text from a machine in an error (a banner, a signal's name) is cut to this length.
MESSAGE_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True)
class ActionEnd:
    """The end of an action, or of a whole run."""

    status: RunStatus
    exit_code: int | None = None
    error: RunError | None = None
    cancel_proof: CancelProof | None = None
    written: tuple[int, int] = (0, 0)
    """Bytes that the target wrote to stdout and stderr."""
    outputs: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Begin:
    """The attempt's row is inserted with the next flush."""

    size_bytes: int = 0
    """The size of the data that the flush carries in addition to the row."""


@dataclass(slots=True)
class _ActionEnd:
    end: ActionEnd
    finished_at: datetime
    again_seconds: float | None


@dataclass(slots=True)
class _RecordSpool:
    """The spool in which the run may be started from now on."""

    identity: SpoolIdentity | None
    """None: the run is started without a spool."""


_Step = _Begin | LogLine | _ActionEnd | _RecordSpool | ContactChange | RunMove


@dataclass(slots=True)
class FlushBuilder:
    """A flush that is being built."""

    runs: list[RunMove] = field(default_factory=list)
    results: list[ResultState] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    size_bytes: int = 0


class JournalSink(Protocol):
    """Writes journals to the ledger; implemented by the batch writer."""

    unwritten_bytes: int

    def mark_dirty(self, record: RunJournal, size_bytes: int) -> None:
        """Queue a journal that has new entries."""

    def flush_soon(self, record: RunJournal) -> None:
        """Put the journal into the next flush."""

    async def wait_for_flush(self) -> None:
        """Wait for the end of the next flush."""


class AttemptEntry:
    """One attempt at an action, in the journal of its run."""

    def __init__(
        self,
        run: RunJournal,
        action: str,
        attempt: int,
        started_at: datetime | None,
        *,
        progress: Progress | None,
        uses_spool: bool,
        command: str | None = None,
    ) -> None:
        """Open the entry; `progress` is the recorded state of this attempt in the ledger, if any.

        `uses_spool`: the attempt may be started in the spool that the run is bound to. `command`:
        its command line, if it differs from the one in the definition.
        """
        self.run = run
        self.action = action
        self.attempt = attempt
        self.started_at = started_at
        self.stored = progress.stored if progress is not None else (0, 0)
        """Bytes of stdout and stderr that the log holds."""
        self.open_lines = progress.open_lines if progress is not None else (False, False)
        """True if stdout, stderr has a last line without a line feed in the log."""
        self.identity = run.identity if uses_spool else None
        """The spool in which the attempt may be started, if any."""
        self.direct = False
        """True if the attempt is started outside any spool."""
        self.logged_in: tuple[datetime, datetime] | None = None
        """Start and end of the login on its machine, if the attempt had to wait for the login."""
        if progress is not None and (progress.identity is not None or progress.direct):
            self.identity, self.direct = progress.identity, progress.direct
        self._begins = progress is None
        self._command = command

    def write_output(self, stream: Stream, start_offset: int, data: bytes) -> None:
        """Append output at its offset; extend the run's last entry if the output continues it."""
        self.run.write(self, stream, start_offset, data)

    def note_dropped(self, stream: Stream, start_offset: int, size_bytes: int) -> None:
        """Record bytes that the output limit left out."""
        self.run.append(self, self.log_line(stream, start_offset, dropped=size_bytes), LINE_BYTES)

    def record_spool(self, identity: SpoolIdentity | None) -> None:
        """Use this spool for this attempt and all later ones of the run; None: no spool."""
        self.identity, self.direct = identity, identity is None
        self.run.identity = identity
        self.run.append(self, _RecordSpool(identity), LINE_BYTES)

    def mark_alive(self) -> None:
        """Reset the poison counter: the command is still running."""
        self.run.append(self, _RecordSpool(self.run.identity), LINE_BYTES)

    def lose_contact(self, at: datetime) -> None:
        """Record that the machine is unreachable, unless that is recorded already."""
        self.run.lose_contact(self.action, at)

    def regain_contact(self) -> None:
        """Record that the machine is reachable, if it was not before."""
        self.run.regain_contact(self.action)

    def end(
        self, end: ActionEnd, finished_at: datetime, *, again_seconds: float | None = None
    ) -> None:
        """Record the end; `again_seconds`: the next attempt follows after at least this pause."""
        if end.error is not None:
            end = replace(end, error=self.run.redact_error(end.error))
        state = self._state(begins=False)
        state.stored_before = state.stored = state.written = end.written
        _finish(state, end, finished_at)
        self.run.append(self, result_line(state, self.run.claimed.target_id), LINE_BYTES)
        self.run.append(self, _ActionEnd(end, finished_at, again_seconds), 0)
        self.regain_contact()

    def log_line(
        self,
        stream: Stream,
        start_offset: int,
        *,
        data: bytes | None = None,
        dropped: int | None = None,
    ) -> LogLine:
        """Return a log entry of the attempt's output."""
        return LogLine(
            self.run.claimed.id,
            "output",
            self.action,
            self.attempt,
            stream,
            start_offset,
            data,
            dropped,
        )

    def take_state(self) -> ResultState:
        """Return the attempt's row for the current flush; only the first call inserts the row."""
        begins, self._begins = self._begins, False
        return self._state(begins=begins)

    def _state(self, *, begins: bool) -> ResultState:
        return ResultState(
            run_id=self.run.claimed.id,
            action=self.action,
            attempt=self.attempt,
            begins=begins,
            status=RunStatus.RUNNING,
            stored_before=self.stored,
            stored=self.stored,
            written=self.stored,
            started_at=self.started_at,
            identity=self.identity,
            direct=self.direct,
            command=self._command if begins else None,
            logged_in=self.logged_in if begins else None,
            open_lines=self.open_lines,
        )


class RunJournal:
    """Everything to be written about one run, in order.

    There is one entry for each attempt at an action; several may be open at once.
    """

    def __init__(self, sink: JournalSink, claimed: Claimed, mask: Mask = NOTHING) -> None:
        self.claimed = claimed
        self.mask = mask
        """Redacts the run's secrets from everything that is written."""
        self.identity = claimed.identity
        """The spool in which the next action is started."""
        self.stale = False
        """True once another worker owns the run: nothing more is written."""
        self.ended = False
        """True once the end of the run, or its return to waiting, is in the journal."""
        self.detached = False
        """True once this worker has left the run, which continues unchanged."""
        self.in_flight = False
        """True while a flush with entries of this run is being committed."""
        self.unwritten_bytes = 0
        self.status: RunStatus | None = None
        """The status that the run ends with here: final, or waiting; None until then."""
        self.error: RunError | None = None
        """The error that the run ends with."""
        self.trace: TraceContext | None = None
        """The span of the run, under which its commits are recorded."""
        self._sink = sink
        self._contact_lost: dict[str | None, datetime] = {}
        if claimed.contact_lost_at is not None:
            self._contact_lost[_BEFORE_US] = claimed.contact_lost_at
        self._steps: deque[tuple[AttemptEntry | None, _Step]] = deque()

    def begin(
        self,
        action: str,
        attempt: int,
        started_at: datetime | None,
        *,
        progress: Progress | None = None,
        uses_spool: bool = True,
        command: str | None = None,
    ) -> AttemptEntry:
        """Open the entry of an attempt.

        `progress`: its recorded state in the ledger. `uses_spool` and `command` as in AttemptEntry.
        """
        command = command and self.mask.text(command)
        entry = AttemptEntry(
            self,
            action,
            attempt,
            started_at,
            progress=progress,
            uses_spool=uses_spool,
            command=command,
        )
        size = 0 if command is None or progress is not None else len(command)
        self.append(entry, _Begin(size), size)
        return entry

    def write(self, entry: AttemptEntry, stream: Stream, start_offset: int, data: bytes) -> None:
        """Append output of an attempt."""
        if self.stale or self.ended:
            return
        last_entry, last = self._steps[-1] if self._steps else (None, None)
        if (
            last_entry is entry
            and isinstance(last, LogLine)
            and last.data is not None
            and last.stream == stream
            and len(last.data) + len(data) <= CHUNK_BYTES
        ):
            last.data += data
            self._grow(len(data))
            return
        self.append(entry, entry.log_line(stream, start_offset, data=data), len(data) + LINE_BYTES)

    async def flush(self) -> None:
        """Wait until all writes so far are committed, or the run belongs to another worker."""
        self._sink.flush_soon(self)
        while (self._steps or self.in_flight) and not self.stale:
            await self._sink.wait_for_flush()

    def detach(self) -> None:
        """Write nothing more: the run stays unchanged for the worker that takes it over."""
        self.detached = True

    def lose_contact(self, action: str, at: datetime) -> None:
        """Record that an action cannot reach the machine.

        Written once, if no other action of the run has recorded it.
        """
        if action in self._contact_lost:
            return
        self._contact_lost[action] = at
        if len(self._contact_lost) == 1:
            self.append(None, ContactChange(at), LINE_BYTES)

    def regain_contact(self, action: str) -> None:
        """Record that an action reaches the machine, or has ended.

        Written once, if no other action has lost its connection.
        """
        if not self._contact_lost:
            return
        self._contact_lost.pop(action, None)
        self._contact_lost.pop(_BEFORE_US, None)
        if not self._contact_lost:
            self.append(None, ContactChange(None), LINE_BYTES)

    def note_retry(self, attempt: int) -> None:
        """Record that an action is retried without the run going back to waiting."""
        line = status_line(self.claimed.id, self.claimed.target_id, RunStatus.RUNNING, None)
        line.attempt = attempt
        self.append(None, line, LINE_BYTES)

    def finish(
        self,
        end: ActionEnd,
        *,
        direct: bool = False,
        sweep: bool = False,
        release: bool = False,
        attempt: int | None = None,
    ) -> None:
        """Record the end of the run itself.

        `direct`: no spool on its machine holds anything of it. `sweep`: the outcome of some actions
        has to be looked up later. `release`: its output on the machine is to be removed soon.
        `attempt`: the number of the last attempt, if it was not the first.
        """
        if direct:
            self.append(None, _RecordSpool(None), 0)
        self._move(
            RunMove(
                *_identity(self.claimed),
                end.status,
                end.exit_code,
                self.redact_error(end.error),
                end.cancel_proof,
                attempt,
                sweep=sweep,
                release=release,
                watched=self.claimed.watched,
            )
        )

    def give_back(self) -> None:
        """Return the run to the queue; its next action has not been started."""
        self._move(
            RunMove(*_identity(self.claimed), RunStatus.WAITING, watched=self.claimed.watched)
        )

    def defer(
        self,
        waiting_for: WaitingFor,
        *,
        seconds: float | None = None,
        awaits: str | None = None,
        attempt: int | None = None,
    ) -> None:
        """Let the run wait without holding a slot.

        It wakes `seconds` from now, or when the event that it `awaits` occurs (see RunMove).
        """
        move = RunMove(
            *_identity(self.claimed),
            RunStatus.WAITING,
            attempt=attempt,
            watched=self.claimed.watched,
        )
        self._move(
            replace(
                move,
                waiting_for=waiting_for,
                wake_seconds=seconds,
                awaits=awaits and self._redact_text(awaits),
            )
        )

    async def wait_for_room(self) -> None:
        """Wait until there is room for more output.

        This is the back-pressure: the reader of the channel waits here.
        """
        while (
            self.unwritten_bytes > RUN_UNWRITTEN_BYTES
            or self._sink.unwritten_bytes > WORKER_UNWRITTEN_BYTES
        ):
            if self.stale:
                return
            await self._sink.wait_for_flush()

    def redact_error(self, error: RunError | None) -> RunError | None:
        """Return the error redacted and storable in PostgreSQL: a machine may send any text."""
        return None if error is None else RunError(error.code, self._redact_text(error.message))

    def _redact_text(self, text: str) -> str:
        """Redact secrets, replace NUL and lone surrogates, and cut the text to a maximum length."""
        return storable(self.mask.text(text), MESSAGE_CHARACTERS)

    def _move(self, move: RunMove) -> None:
        assert move.status is not None
        self.status, self.error = move.status, move.error
        self.append(
            None,
            status_line(
                self.claimed.id, self.claimed.target_id, move.status, move.error, move.waiting_for
            ),
            LINE_BYTES,
        )
        self.append(None, move, 0)

    def append(self, entry: AttemptEntry | None, step: _Step, size_bytes: int) -> None:
        """Append the next step, either of an attempt or of the run itself."""
        if self.stale or self.ended:
            return
        self.ended = isinstance(step, RunMove)
        self._steps.append((entry, step))
        self._grow(size_bytes)

    def _grow(self, size_bytes: int) -> None:
        self.unwritten_bytes += size_bytes
        self._sink.mark_dirty(self, size_bytes)

    def discard(self) -> None:
        """Mark the run as stale, and drop all unwritten and future entries."""
        self.stale = True
        self.unwritten_bytes = 0
        self._steps.clear()

    @property
    def is_empty(self) -> bool:
        """True if no entries wait to be written."""
        return not self._steps

    def take(self, builder: FlushBuilder, share_bytes: int = RUN_FLUSH_BYTES) -> int:
        """Move steps into the flush, up to the run's share; return their size in bytes."""
        taken, move = 0, RunMove(*_identity(self.claimed))
        changes: list[_RecordSpool | ContactChange] = []
        states: dict[AttemptEntry, ResultState] = {}
        while self._steps and taken < share_bytes:
            entry, step = self._steps.popleft()
            if entry is not None and entry not in states:
                states[entry] = entry.take_state()
            match step:
                case _Begin():
                    taken += step.size_bytes
                case LogLine():
                    taken += _take_line(step, entry, states, builder)
                case _ActionEnd() if entry is not None:
                    _take_end(step, states[entry])
                case _RecordSpool() | ContactChange():
                    changes.append(step)
                    taken += LINE_BYTES
                case RunMove():
                    move = step
        for change in changes:
            move = _changed(move, change)
        builder.runs.append(move)
        builder.results.extend(states.values())
        self.unwritten_bytes -= taken
        return taken


def _changed(move: RunMove, change: _RecordSpool | ContactChange) -> RunMove:
    if isinstance(change, ContactChange):
        return replace(move, contact=change)
    return replace(move, identity=change.identity, direct=change.identity is None)


def _take_line(
    line: LogLine,
    entry: AttemptEntry | None,
    states: dict[AttemptEntry, ResultState],
    builder: FlushBuilder,
) -> int:
    builder.lines.append(line)
    if line.stream is None or entry is None:
        return LINE_BYTES
    state = states[entry]
    size = len(line.data) if line.data is not None else line.dropped or 0
    (out, err), (out_open, err_open) = state.stored, state.open_lines
    if line.stream == "stdout":
        line.lines, out_open = count_lines(line.data, continues=out_open)
        out += size
    else:
        line.lines, err_open = count_lines(line.data, continues=err_open)
        err += size
    state.stored, state.open_lines = (out, err), (out_open, err_open)
    entry.stored, entry.open_lines = state.stored, state.open_lines
    state.written = (max(state.written[0], state.stored[0]), max(state.written[1], state.stored[1]))
    return LINE_BYTES + len(line.data or b"") if line.data is not None else LINE_BYTES


def _take_end(step: _ActionEnd, state: ResultState) -> None:
    _finish(state, step.end, step.finished_at)
    state.written = (
        max(state.written[0], step.end.written[0]),
        max(state.written[1], step.end.written[1]),
    )
    state.outputs, state.again_seconds = step.end.outputs, step.again_seconds


def _finish(state: ResultState, end: ActionEnd, finished_at: datetime) -> None:
    state.status, state.exit_code, state.error = end.status, end.exit_code, end.error
    state.cancel_proof, state.finished_at = end.cancel_proof, finished_at


def _identity(run: Claimed) -> tuple[int, int, str, int]:
    return run.id, run.execution_id, run.target_id, run.fence
