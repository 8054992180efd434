"""What one run has to say, in order: its record, taken piece by piece into group commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from opsjobs.model.execution import CancelProof, RunError, RunStatus, WaitingFor
from opsjobs.model.masking import NOTHING, Mask
from opsjobs.model.spool_identity import SpoolIdentity
from opsjobs.remote.session import Stream
from opsjobs.store.ledger import Claimed, ContactChange, LogLine, Progress, ResultState, RunMove
from opsjobs.store.ledger.flush import result_line, status_line
from opsjobs.store.storable import storable

CHUNK_BYTES = 64 << 10
# A run whose unwritten output is over this waits; so does everybody once all of the worker's is over its own limit. The next
# flush must find its bytes here while the last one is being committed.
RUN_UNWRITTEN_BYTES = 2 << 20
WORKER_UNWRITTEN_BYTES = 32 << 20
# One run's share of a flush, so that a flood leaves room for its neighbours: at least the first, and of what they leave of the
# flush at most the second. Each connection to PostgreSQL keeps buffers as large as the largest flush that it has sent.
RUN_FLUSH_BYTES = 256 << 10
RUN_FLUSH_BYTES_MAX = 1 << 20
# What a log entry counts for besides its data: a flush of 2 MiB has at most some 2,000 entries, whatever their size.
LINE_BYTES = 1_000
# Key of a loss of contact that a worker before us has noted.
_BEFORE_US = None
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
    outputs: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Begin:
    """The page is begun with the next flush; `size_bytes`: what that has to carry beside the row."""

    size_bytes: int = 0


@dataclass(slots=True)
class _ActionEnd:
    end: ActionEnd
    finished_at: datetime
    again_seconds: float | None


@dataclass(slots=True)
class _Identify:
    """Under which store the run may be started from now on; None: it is started without one."""

    identity: SpoolIdentity | None


_Step = _Begin | LogLine | _ActionEnd | _Identify | ContactChange | RunMove


@dataclass(slots=True)
class FlushBuilder:
    """A flush being put together."""

    runs: list[RunMove] = field(default_factory=list)
    results: list[ResultState] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    size_bytes: int = 0


class JournalSink(Protocol):
    """Who writes it down."""

    unwritten_bytes: int

    def dirty(self, record: RunJournal, size_bytes: int) -> None:
        """The record has more to say."""

    def urge(self, record: RunJournal) -> None:
        """What the record has to say is waited for."""

    async def flushed(self) -> None:
        """Wait for the end of the next flush."""


class AttemptEntry:
    """One attempt at an action, in the record of its run. `stored`: how far the log had come when it was opened here.

    `identity`: the store that it may be started in; `direct`: outside any. `command`: its line, where the definition has another.
    `logged_in`: from when until when its machine let us in, where that was waited for just before.
    """

    def __init__(
        self,
        run: RunJournal,
        action: str,
        attempt: int,
        started_at: datetime | None,
        *,
        seen: Progress | None,
        known: bool,
        command: str | None = None,
    ) -> None:
        self.run = run
        self.action = action
        self.attempt = attempt
        self.started_at = started_at
        self.stored = seen.stored if seen is not None else (0, 0)
        self.identity = run.identity if known else None
        self.direct = False
        self.logged_in: tuple[datetime, datetime] | None = None
        if seen is not None and (seen.identity is not None or seen.direct):
            self.identity, self.direct = seen.identity, seen.direct
        self._begins = seen is None
        self._command = command

    def output(self, stream: Stream, start_offset: int, data: bytes) -> None:
        """Bytes at their offset; grows the last entry of the run where it directly goes on with it."""
        self.run.write(self, stream, start_offset, data)

    def dropped(self, stream: Stream, start_offset: int, size_bytes: int) -> None:
        """Bytes that the output limit left out."""
        self.run.say(self, self.line(stream, start_offset, dropped=size_bytes), LINE_BYTES)

    def identify(self, identity: SpoolIdentity | None) -> None:
        """From now on it, and what the run begins after it, is started in this store; None: outside any."""
        self.identity, self.direct = identity, identity is None
        self.run.identity = identity
        self.run.say(self, _Identify(identity), LINE_BYTES)

    def show_life(self) -> None:
        """It was found alive: the run is no poison."""
        self.run.say(self, _Identify(self.run.identity), LINE_BYTES)

    def lose_contact(self, at: datetime) -> None:
        """Note that the machine cannot be reached, unless that is noted already."""
        self.run.lose_contact(self.action, at)

    def regain_contact(self) -> None:
        """Note that the machine can be reached, if it could not before."""
        self.run.regain_contact(self.action)

    def end(self, end: ActionEnd, finished_at: datetime, *, again_seconds: float | None = None) -> None:
        """It has ended; `again_seconds`: the next attempt comes, not before so long from now."""
        if end.error is not None:
            end = replace(end, error=self.run.storable(end.error))
        state = self._state(begins=False)
        state.stored_before = state.stored = state.written = end.written
        _finish(state, end, finished_at)
        self.run.say(self, result_line(state, self.run.claimed.target_id), LINE_BYTES)
        self.run.say(self, _ActionEnd(end, finished_at, again_seconds), 0)
        self.regain_contact()

    def line(self, stream: Stream, start_offset: int, *, data: bytes | None = None, dropped: int | None = None) -> LogLine:
        """An entry of its output."""
        return LogLine(self.run.claimed.id, "output", self.action, self.attempt, stream, start_offset, data, dropped)

    def state(self) -> ResultState:
        """What the flush that is being put together says of it; as it begins, if it does with this one."""
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
        )


class RunJournal:
    """What one run has to say, in order: a page for each attempt at an action, several of them open at once.

    Nothing is said any more once it is `stale`: another worker owns the run. `left`: this worker goes, the run stays as it is.
    `in_flight`: a flush is being committed that has words of it. `identity`: the store in which the next action is started.
    `mask`: what is not to be seen in anything that it says.
    """

    def __init__(self, pen: JournalSink, claimed: Claimed, mask: Mask = NOTHING) -> None:
        self.claimed = claimed
        self.mask = mask
        self.identity = claimed.identity
        self.stale = False
        self.ended = False
        self.left = False
        self.in_flight = False
        self.unwritten_bytes = 0
        self._pen = pen
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
        seen: Progress | None = None,
        known: bool = True,
        command: str | None = None,
    ) -> AttemptEntry:
        """An action starts; `seen` where it is on record already. `known`: it may be started in the store that the run knows.

        `command`: as a page has it.
        """
        command = command and self.mask.text(command)
        page = AttemptEntry(self, action, attempt, started_at, seen=seen, known=known, command=command)
        size = 0 if command is None or seen is not None else len(command)
        self.say(page, _Begin(size), size)
        return page

    def write(self, page: AttemptEntry, stream: Stream, start_offset: int, data: bytes) -> None:
        """Output of a page."""
        if self.stale or self.ended:
            return
        of, last = self._steps[-1] if self._steps else (None, None)
        if (
            of is page
            and isinstance(last, LogLine)
            and last.data is not None
            and last.stream == stream
            and len(last.data) + len(data) <= CHUNK_BYTES
        ):
            last.data += data
            self._grow(len(data))
            return
        self.say(page, page.line(stream, start_offset, data=data), len(data) + LINE_BYTES)

    async def written(self) -> None:
        """Wait until all that was said is committed, or the run is another's."""
        self._pen.urge(self)
        while (self._steps or self.in_flight) and not self.stale:
            await self._pen.flushed()

    def leave(self) -> None:
        """Say nothing more: the run goes on as it stands, for whoever takes it over."""
        self.left = True

    def lose_contact(self, action: str, at: datetime) -> None:
        """Note that an action cannot reach the machine. Written once, if no other action of the run has noted it."""
        if action in self._contact_lost:
            return
        self._contact_lost[action] = at
        if len(self._contact_lost) == 1:
            self.say(None, ContactChange(at), LINE_BYTES)

    def regain_contact(self, action: str) -> None:
        """Note that an action reaches the machine, or has ended. Written once, if no other action is cut off."""
        if not self._contact_lost:
            return
        self._contact_lost.pop(action, None)
        self._contact_lost.pop(_BEFORE_US, None)
        if not self._contact_lost:
            self.say(None, ContactChange(None), LINE_BYTES)

    def retried(self, attempt: int) -> None:
        """An action is tried again, without the run going back to waiting."""
        line = status_line(self.claimed.id, self.claimed.target_id, RunStatus.RUNNING, None)
        line.attempt = attempt
        self.say(None, line, LINE_BYTES)

    def finish(
        self, end: ActionEnd, *, direct: bool = False, sweep: bool = False, release: bool = False, attempt: int | None = None
    ) -> None:
        """The run itself has ended, as its actions made it. `direct`: nothing of it lies in a store of its machine.

        `sweep`: what became of some of them is to be found out. `release`: its output on the machine is removed soon.
        `attempt`: the last one, where it was not the first.
        """
        if direct:
            self.say(None, _Identify(None), 0)
        self._move(
            RunMove(
                *_identity(self.claimed),
                end.status,
                end.exit_code,
                self.storable(end.error),
                end.cancel_proof,
                attempt,
                sweep=sweep,
                release=release,
                watched=self.claimed.watched,
            )
        )

    def give_back(self) -> None:
        """The run goes back to waiting: nothing of its next action was started."""
        self._move(RunMove(*_identity(self.claimed), RunStatus.WAITING, watched=self.claimed.watched))

    def defer(
        self, waiting_for: WaitingFor, *, seconds: float | None = None, awaits: str | None = None, attempt: int | None = None
    ) -> None:
        """The run waits, and holds nothing meanwhile: for so long from now, or for what it `awaits` (see RunMove)."""
        move = RunMove(*_identity(self.claimed), RunStatus.WAITING, attempt=attempt, watched=self.claimed.watched)
        self._move(replace(move, waiting_for=waiting_for, wake_seconds=seconds, awaits=awaits and self._plain(awaits)))

    async def room(self) -> None:
        """Wait until there is room for more output. Back-pressure: the reader of the channel waits here."""
        while self.unwritten_bytes > RUN_UNWRITTEN_BYTES or self._pen.unwritten_bytes > WORKER_UNWRITTEN_BYTES:
            if self.stale:
                return
            await self._pen.flushed()

    def storable(self, error: RunError | None) -> RunError | None:
        """The error in words that may be seen and that PostgreSQL takes: a machine may have put anything into them."""
        return None if error is None else RunError(error.code, self._plain(error.message))

    def _plain(self, words: str) -> str:
        """Without secrets, NUL and halves of characters, and no novel."""
        return storable(self.mask.text(words), MESSAGE_CHARACTERS)

    def _move(self, move: RunMove) -> None:
        assert move.status is not None
        self.say(None, status_line(self.claimed.id, self.claimed.target_id, move.status, move.error), LINE_BYTES)
        self.say(None, move, 0)

    def say(self, page: AttemptEntry | None, step: _Step, size_bytes: int) -> None:
        """The next step, of a page or of the run itself."""
        if self.stale or self.ended:
            return
        self.ended = isinstance(step, RunMove)
        self._steps.append((page, step))
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

    def take(self, draft: FlushBuilder, share_bytes: int = RUN_FLUSH_BYTES) -> int:
        """Move steps into the draft, up to the run's share; says how many bytes they were."""
        taken, move = 0, RunMove(*_identity(self.claimed))
        changes: list[_Identify | ContactChange] = []
        states: dict[AttemptEntry, ResultState] = {}
        while self._steps and taken < share_bytes:
            page, step = self._steps.popleft()
            if page is not None and page not in states:
                states[page] = page.state()
            match step:
                case _Begin():
                    taken += step.size_bytes
                case LogLine():
                    taken += _take_line(step, page, states, draft)
                case _ActionEnd() if page is not None:
                    _take_end(step, states[page])
                case _Identify() | ContactChange():
                    changes.append(step)
                    taken += LINE_BYTES
                case RunMove():
                    move = step
        for change in changes:
            move = _changed(move, change)
        draft.runs.append(move)
        draft.results.extend(states.values())
        self.unwritten_bytes -= taken
        return taken


def _changed(move: RunMove, change: _Identify | ContactChange) -> RunMove:
    if isinstance(change, ContactChange):
        return replace(move, contact=change)
    return replace(move, identity=change.identity, direct=change.identity is None)


def _take_line(line: LogLine, page: AttemptEntry | None, states: dict[AttemptEntry, ResultState], draft: FlushBuilder) -> int:
    draft.lines.append(line)
    if line.stream is None or page is None:
        return LINE_BYTES
    state = states[page]
    size = len(line.data) if line.data is not None else line.dropped or 0
    out, err = state.stored
    state.stored = page.stored = (out + size, err) if line.stream == "stdout" else (out, err + size)
    state.written = (max(state.written[0], state.stored[0]), max(state.written[1], state.stored[1]))
    return LINE_BYTES + len(line.data or b"") if line.data is not None else LINE_BYTES


def _take_end(step: _ActionEnd, state: ResultState) -> None:
    _finish(state, step.end, step.finished_at)
    state.written = (max(state.written[0], step.end.written[0]), max(state.written[1], step.end.written[1]))
    state.outputs, state.again_seconds = step.end.outputs, step.again_seconds


def _finish(state: ResultState, end: ActionEnd, finished_at: datetime) -> None:
    state.status, state.exit_code, state.error = end.status, end.exit_code, end.error
    state.cancel_proof, state.finished_at = end.cancel_proof, finished_at


def _identity(run: Claimed) -> tuple[int, int, str, int]:
    return run.id, run.execution_id, run.target_id, run.fence
