"""What one run has to say, in order: its record, taken piece by piece into group commits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from opsjobs.model.durable import Identity
from opsjobs.model.execution import CancelProof, RunError, RunStatus
from opsjobs.remote.session import Stream
from opsjobs.store.ledger import Claimed, LogLine, Progress, ResultState, RunMove
from opsjobs.store.ledger.lines import result_line, status_line

CHUNK_BYTES = 64 << 10
# A run whose unwritten output is over this waits; so does everybody once all of the worker's is over its own limit.
RUN_UNWRITTEN_BYTES = 1 << 20
WORKER_UNWRITTEN_BYTES = 32 << 20
# One run's share of a flush, so that a flood leaves room for its neighbours.
RUN_FLUSH_BYTES = 256 << 10
# What a log entry counts for besides its data: a flush of 2 MiB has at most some 2,000 entries, whatever their size.
LINE_BYTES = 1_000
# What a machine says of itself in an error (a banner, a signal's name) is cut to this.
MESSAGE_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True)
class ActionEnd:
    """How an action ended."""

    status: RunStatus
    exit_code: int | None = None
    error: RunError | None = None
    cancel_proof: CancelProof | None = None
    written: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Action:
    """The action that is being written: where the log stands, and what the next flush will say of it."""

    key: str
    attempt: int
    begins: bool
    started_at: datetime | None
    stored: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Begin:
    action: _Action


@dataclass(slots=True)
class _End:
    end: ActionEnd
    finished_at: datetime


@dataclass(slots=True)
class _Identify:
    """Under which store the run may be started from now on; None: it is started without one."""

    identity: Identity | None


_Step = _Begin | LogLine | _End | _Identify | RunMove


@dataclass(slots=True)
class Draft:
    """A flush being put together."""

    runs: list[RunMove] = field(default_factory=list)
    results: list[ResultState] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    size_bytes: int = 0


class Pen(Protocol):
    """Who writes it down."""

    unwritten_bytes: int

    def dirty(self, record: RunRecord, size_bytes: int) -> None:
        """The record has more to say."""

    async def flushed(self) -> None:
        """Wait for the end of the next flush."""


class RunRecord:
    """What one run has to say, in order. Nothing is said any more once it is `stale`: another worker owns the run.

    `left`: this worker goes, the run stays as it is. `in_flight`: a flush is being committed that has words of it.
    """

    def __init__(self, pen: Pen, claimed: Claimed) -> None:
        self.claimed = claimed
        self.identity = claimed.identity
        self.stale = False
        self.ended = False
        self.left = False
        self.in_flight = False
        self.unwritten_bytes = 0
        self._pen = pen
        self._steps: deque[_Step] = deque()
        self._action: _Action | None = None
        self._begun: _Action | None = None

    def begin(self, action: str, attempt: int, started_at: datetime | None, *, seen: Progress | None = None) -> None:
        """An action starts; `seen` where it is on record already, by a worker before us."""
        new = _Action(action, attempt, seen is None, started_at, seen.stored if seen else (0, 0))
        self._begun = new
        self._say(_Begin(new), 0)

    def output(self, stream: Stream, start_offset: int, data: bytes) -> None:
        """Bytes of the action at their offset; grows the last entry where it directly goes on with it."""
        if self.stale or self.ended:
            return
        last = self._steps[-1] if self._steps else None
        if (
            isinstance(last, LogLine)
            and last.data is not None
            and last.stream == stream
            and len(last.data) + len(data) <= CHUNK_BYTES
        ):
            last.data += data
            self._grow(len(data))
            return
        self._say(self._line(stream, start_offset, data=data), len(data) + LINE_BYTES)

    def dropped(self, stream: Stream, start_offset: int, size_bytes: int) -> None:
        """Bytes that the output limit left out."""
        self._say(self._line(stream, start_offset, dropped=size_bytes), LINE_BYTES)

    def end(self, end: ActionEnd, finished_at: datetime) -> None:
        """The action has ended."""
        begun = self._begun
        assert begun is not None, "an action ends only after it began"
        end = replace(end, error=_storable(end.error))
        state = self._state_of(begun, end, finished_at)
        self._say(result_line(state, self.claimed.target_id), LINE_BYTES)
        self._say(_End(end, finished_at), 0)

    def _state_of(self, begun: _Action, end: ActionEnd, finished_at: datetime) -> ResultState:
        return ResultState(
            run_id=self.claimed.id,
            action=begun.key,
            attempt=begun.attempt,
            begins=False,
            status=end.status,
            stored_before=end.written,
            stored=end.written,
            written=end.written,
            started_at=begun.started_at,
            finished_at=finished_at,
            exit_code=end.exit_code,
            error=end.error,
            cancel_proof=end.cancel_proof,
        )

    @property
    def started_at(self) -> datetime | None:
        """When the action that is being written began."""
        return self._begun.started_at if self._begun is not None else None

    def identify(self, identity: Identity | None) -> None:
        """From now on the run may be started in this store; None: directly, so that nobody can look for it there."""
        self.identity = identity
        self._say(_Identify(identity), LINE_BYTES)

    async def written(self) -> None:
        """Wait until all that was said is committed, or the run is another's."""
        while (self._steps or self.in_flight) and not self.stale:
            await self._pen.flushed()

    def leave(self) -> None:
        """Say nothing more: the run goes on as it stands, for whoever takes it over."""
        self.left = True

    def finish(self, end: ActionEnd, *, direct: bool = False) -> None:
        """The run itself has ended, as its actions made it. `direct`: nothing of it lies in a store of its machine."""
        if direct:
            self._say(_Identify(None), 0)
        self._move(end.status, end.exit_code, end.error, end.cancel_proof)

    def give_back(self) -> None:
        """The run goes back to waiting: nothing of its next action was started."""
        self._move(RunStatus.WAITING, None, None, None)

    def retry(self, attempt: int) -> None:
        """The run goes back to waiting, for another attempt at the action that did not end well."""
        self._move(RunStatus.WAITING, None, None, None, attempt=attempt)

    async def room(self) -> None:
        """Wait until there is room for more output. Back-pressure: the reader of the channel waits here."""
        while self.unwritten_bytes > RUN_UNWRITTEN_BYTES or self._pen.unwritten_bytes > WORKER_UNWRITTEN_BYTES:
            if self.stale:
                return
            await self._pen.flushed()

    def _move(
        self,
        status: RunStatus,
        exit_code: int | None,
        error: RunError | None,
        proof: CancelProof | None,
        attempt: int | None = None,
    ) -> None:
        error = _storable(error)
        self._say(status_line(self.claimed.id, self.claimed.target_id, status, error), LINE_BYTES)
        move = RunMove(*_identity(self.claimed), status, exit_code, error, proof)
        self._say(replace(move, attempt=attempt) if attempt is not None else move, 0)

    def _line(
        self,
        stream: Stream,
        start_offset: int,
        *,
        data: bytes | None = None,
        dropped: int | None = None,
    ) -> LogLine:
        begun = self._begun
        assert begun is not None, "output belongs to an action"
        return LogLine(self.claimed.id, "output", begun.key, begun.attempt, stream, start_offset, data, dropped)

    def _say(self, step: _Step, size_bytes: int) -> None:
        if self.stale or self.ended:
            return
        self.ended = isinstance(step, RunMove)
        self._steps.append(step)
        self._grow(size_bytes)

    def _grow(self, size_bytes: int) -> None:
        self.unwritten_bytes += size_bytes
        self._pen.dirty(self, size_bytes)

    def fall_silent(self) -> None:
        """Nothing of it is wanted any more: neither what waits nor what comes."""
        self.stale = True
        self.unwritten_bytes = 0
        self._steps.clear()

    @property
    def silent(self) -> bool:
        """True where nothing waits to be written."""
        return not self._steps

    def take(self, draft: Draft) -> int:
        """Move steps into the draft, up to the run's share; says how many bytes they were."""
        taken, move = 0, RunMove(*_identity(self.claimed))
        store: _Identify | None = None
        states: list[ResultState] = []
        while self._steps and taken < RUN_FLUSH_BYTES:
            step = self._steps.popleft()
            match step:
                case _Begin(action):
                    self._action = action
                    states.append(self._state(action))
                case LogLine():
                    taken += self._take_line(step, states, draft)
                case _End():
                    self._take_end(step, states)
                case _Identify():
                    store = step
                    taken += LINE_BYTES
                case RunMove():
                    move = step
        if store is not None:
            move = replace(move, identity=store.identity, direct=store.identity is None)
        draft.runs.append(move)
        draft.results.extend(states)
        self.unwritten_bytes -= taken
        return taken

    def _take_line(self, line: LogLine, states: list[ResultState], draft: Draft) -> int:
        draft.lines.append(line)
        if line.stream is None:
            return LINE_BYTES
        state = self._current(states)
        size = len(line.data) if line.data is not None else line.dropped or 0
        out, err = state.stored
        state.stored = (out + size, err) if line.stream == "stdout" else (out, err + size)
        state.written = (max(state.written[0], state.stored[0]), max(state.written[1], state.stored[1]))
        assert self._action is not None
        self._action.stored = state.stored
        return LINE_BYTES + len(line.data or b"") if line.data is not None else LINE_BYTES

    def _take_end(self, step: _End, states: list[ResultState]) -> None:
        state = self._current(states)
        state.status, state.exit_code, state.error = step.end.status, step.end.exit_code, step.end.error
        state.cancel_proof, state.finished_at = step.end.cancel_proof, step.finished_at
        state.written = (max(state.written[0], step.end.written[0]), max(state.written[1], step.end.written[1]))

    def _current(self, states: list[ResultState]) -> ResultState:
        assert self._action is not None
        if not states or states[-1].action != self._action.key:
            states.append(self._state(self._action))
        return states[-1]

    def _state(self, action: _Action) -> ResultState:
        begins, action.begins = action.begins, False
        return ResultState(
            run_id=self.claimed.id,
            action=action.key,
            attempt=action.attempt,
            begins=begins,
            status=RunStatus.RUNNING,
            stored_before=action.stored,
            stored=action.stored,
            written=action.stored,
            started_at=action.started_at,
        )


def _identity(run: Claimed) -> tuple[int, int, str, int]:
    return run.id, run.execution_id, run.target_id, run.fence


def _storable(error: RunError | None) -> RunError | None:
    """The error in words that PostgreSQL takes: a machine may have put NUL or half a character into them, or a novel."""
    if error is None:
        return None
    message = error.message[:MESSAGE_CHARACTERS].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return RunError(error.code, message)
