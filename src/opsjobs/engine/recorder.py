"""The worker's pen: what its runs have to say is gathered and committed for all of them at once, in order, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus, moment
from opsjobs.model.failures import Unavailable
from opsjobs.remote.session import Stream
from opsjobs.store.ledger import Claimed, Flush, Ledger, LogLine, Progress, ResultState, RunMove, Settled
from opsjobs.telemetry import Metrics, log

CHUNK_BYTES = 64 << 10
FLUSH_BYTES = 2 << 20
# The next flush begins when the last one has ended, and not earlier than this after its beginning.
FLUSH_PAUSE_SECONDS = 0.02
# A run whose unwritten output is over this waits; so does everybody once all of the worker's is over its own limit.
RUN_UNWRITTEN_BYTES = 1 << 20
WORKER_UNWRITTEN_BYTES = 32 << 20
# One run's share of a flush, so that a flood leaves room for its neighbours.
RUN_FLUSH_BYTES = 256 << 10
# What a log entry counts for besides its data: a flush of 2 MiB has at most some 2,000 entries, whatever their size.
LINE_BYTES = 1_000


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


_Step = _Begin | LogLine | _End | RunMove


@dataclass(slots=True)
class _Draft:
    """A flush being put together."""

    runs: list[RunMove] = field(default_factory=list)
    results: list[ResultState] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)
    size_bytes: int = 0


class RunRecord:
    """What one run has to say, in order. Nothing is said any more once it is `stale`: another worker owns the run."""

    def __init__(self, recorder: Recorder, claimed: Claimed) -> None:
        self.claimed = claimed
        self.stale = False
        self.ended = False
        self.unwritten_bytes = 0
        self._recorder = recorder
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
        self._say(self._line("output", stream=stream, start_offset=start_offset, data=data), len(data) + LINE_BYTES)

    def dropped(self, stream: Stream, start_offset: int, size_bytes: int) -> None:
        """Bytes that the output limit left out."""
        self._say(self._line("output", stream=stream, start_offset=start_offset, dropped=size_bytes), LINE_BYTES)

    def end(self, end: ActionEnd, finished_at: datetime) -> None:
        """The action has ended."""
        begun = self._begun
        assert begun is not None, "an action ends only after it began"
        body = {
            "target_run": self.claimed.id,
            "target": self.claimed.target_id,
            "action_key": begun.key,
            "attempt": begun.attempt,
            "status": end.status.value,
            "exit_code": end.exit_code,
            "error": _error(end.error),
            "cancel_proof": end.cancel_proof and end.cancel_proof.value,
            "stdout_bytes": end.written[0],
            "stderr_bytes": end.written[1],
            "started_at": moment(begun.started_at),
            "finished_at": moment(finished_at),
        }
        self._say(self._line("result", body=body), LINE_BYTES)
        self._say(_End(end, finished_at), 0)

    def finish(self, end: ActionEnd) -> None:
        """The run itself has ended, as its actions made it."""
        self._move(end.status, end.exit_code, end.error, end.cancel_proof)

    def give_back(self) -> None:
        """The run goes back to waiting: nothing of its next action was started."""
        self._move(RunStatus.WAITING, None, None, None)

    async def room(self) -> None:
        """Wait until there is room for more output. Back-pressure: the reader of the channel waits here."""
        while self.unwritten_bytes > RUN_UNWRITTEN_BYTES or self._recorder.unwritten_bytes > WORKER_UNWRITTEN_BYTES:
            if self.stale:
                return
            await self._recorder.flushed()

    def _move(self, status: RunStatus, exit_code: int | None, error: RunError | None, proof: CancelProof | None) -> None:
        run = self.claimed
        body = {"target_run": run.id, "target": run.target_id, "status": status.value, "error": _error(error)}
        self._say(LogLine(run.id, "status", body=body), LINE_BYTES)
        self._say(RunMove(run.id, run.execution_id, run.target_id, run.fence, status, exit_code, error, proof), 0)

    def _line(
        self,
        event: str,
        *,
        stream: Stream | None = None,
        start_offset: int | None = None,
        data: bytes | None = None,
        dropped: int | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> LogLine:
        begun = self._begun
        assert begun is not None, "output and results belong to an action"
        return LogLine(self.claimed.id, event, begun.key, begun.attempt, stream, start_offset, data, dropped, body)

    def _say(self, step: _Step, size_bytes: int) -> None:
        if self.stale or self.ended:
            return
        self.ended = isinstance(step, RunMove)
        self._steps.append(step)
        self._grow(size_bytes)

    def _grow(self, size_bytes: int) -> None:
        self.unwritten_bytes += size_bytes
        self._recorder.dirty(self, size_bytes)

    @property
    def silent(self) -> bool:
        """True where nothing waits to be written."""
        return not self._steps

    def take(self, draft: _Draft) -> int:
        """Move steps into the draft, up to the run's share; says how many bytes they were."""
        taken, move = 0, RunMove(*_identity(self.claimed))
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
                case RunMove():
                    move = step
        draft.runs.append(move)
        draft.results.extend(states)
        self.unwritten_bytes -= taken
        return taken

    def _take_line(self, line: LogLine, states: list[ResultState], draft: _Draft) -> int:
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


class Recorder:
    """Commits for all runs of one owner: one flush in flight, at most 2 MiB, the next not earlier than 20 ms after it began."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        *,
        owner: UUID,
        worker: str,
        settled: Callable[[Flush, Settled], None],
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._owner = owner
        self._worker = worker
        self._settled = settled
        self._number = 0
        self._dirty: dict[int, RunRecord] = {}
        self._something = asyncio.Event()
        self._in_flight = False
        self._flushed: asyncio.Future[None] | None = None
        self.unwritten_bytes = 0

    def open(self, claimed: Claimed) -> RunRecord:
        """The record of a run that was claimed."""
        return RunRecord(self, claimed)

    def dirty(self, record: RunRecord, size_bytes: int) -> None:
        """A record has something to say."""
        self.unwritten_bytes += size_bytes
        self._dirty.setdefault(record.claimed.id, record)
        self._something.set()

    def forget(self, record: RunRecord) -> None:
        """Drop what a stale run still had to say."""
        record.stale = True
        self.unwritten_bytes -= record.unwritten_bytes
        record.unwritten_bytes = 0
        self._dirty.pop(record.claimed.id, None)

    async def flushed(self) -> None:
        """Wait for the end of the next flush."""
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._flushed)

    async def run(self) -> None:
        """Flush for ever, until cancelled."""
        while True:
            await self._something.wait()
            began = time.monotonic()
            await self._flush()
            await asyncio.sleep(max(0.0, began + FLUSH_PAUSE_SECONDS - time.monotonic()))

    async def drained(self) -> None:
        """Wait until everything said is written."""
        while self._dirty or self._in_flight:
            await self.flushed()

    async def _flush(self) -> None:
        flush, records, size_bytes = self._draft()
        if not self._dirty:
            self._something.clear()
        started = time.monotonic()
        self._in_flight = True
        settled = await self._commit(flush)
        self._in_flight = False
        self._metrics.flush_seconds.observe(time.monotonic() - started)
        self._metrics.flush_bytes.observe(size_bytes)
        self._metrics.flush_entries.observe(len(flush.lines))
        for run_id in settled.stale:
            self._metrics.stale_writes.inc()
            self.forget(records[run_id])
        done, self._flushed = self._flushed, None
        if done is not None:
            done.set_result(None)
        self._settled(flush, settled)

    def _draft(self) -> tuple[Flush, dict[int, RunRecord], int]:
        draft = _Draft()
        records: dict[int, RunRecord] = {}
        # Those who were first to have something to say come first; who was cut short goes to the end of the queue.
        for run_id, record in list(self._dirty.items()):
            if draft.size_bytes >= FLUSH_BYTES:
                break
            del self._dirty[run_id]
            records[run_id] = record
            draft.size_bytes += record.take(draft)
            if not record.silent:
                self._dirty[run_id] = record
        self.unwritten_bytes -= draft.size_bytes
        return self._flush_of(draft.runs, draft.results, draft.lines), records, draft.size_bytes

    async def _commit(self, flush: Flush) -> Settled:
        """Commit, whatever it takes. What PostgreSQL refuses of one run must not silence the others: it is found by halving."""
        try:
            return await self._insist(flush)
        except Exception as bug:  # noqa: BLE001  anything but Unavailable is a refusal of what was said
            self._metrics.bugs.labels("recorder").inc()
            log.exception("flush_refused", flush=flush.number, runs=len(flush.runs))
            halves = [await self._commit(part) for part in self._parts(flush, bug)]
        return Settled(
            stale=frozenset().union(*(half.stale for half in halves)),
            ended_executions=[e for half in halves for e in half.ended_executions],
            stopping=frozenset().union(*(half.stopping for half in halves)),
            admitted={zone: count for half in halves for zone, count in half.admitted.items()},
        )

    def _parts(self, flush: Flush, bug: Exception) -> list[Flush]:
        if len(flush.runs) == 1:
            run = flush.runs[0]
            error = RunError(
                ErrorCode.INTERNAL, f"a fault of opsjobs: what the run said could not be stored ({type(bug).__name__})"
            )
            return [self._flush_of([RunMove(*_identity_of(run), RunStatus.FAILED, None, error)], (), ())]
        middle = len(flush.runs) // 2
        parts = []
        for runs in (flush.runs[:middle], flush.runs[middle:]):
            ids = {run.run_id for run in runs}
            results = [r for r in flush.results if r.run_id in ids]
            parts.append(self._flush_of(runs, results, [line for line in flush.lines if line.run_id in ids]))
        return parts

    def _flush_of(self, runs: Sequence[RunMove], results: Sequence[ResultState], lines: Sequence[LogLine]) -> Flush:
        self._number += 1
        return Flush(self._owner, self._worker, self._number, runs, results, lines)

    async def _insist(self, flush: Flush) -> Settled:
        pause = 0.05
        while True:
            try:
                return await self._ledger.settle(flush)
            except Unavailable as away:
                log.warning("flush_repeated", flush=flush.number, reason=str(away))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)


def _identity_of(run: RunMove) -> tuple[int, int, str, int]:
    return run.run_id, run.execution_id, run.target_id, run.fence


def _identity(run: Claimed) -> tuple[int, int, str, int]:
    return run.id, run.execution_id, run.target_id, run.fence


def _error(error: RunError | None) -> dict[str, str] | None:
    return {"code": error.code.value, "message": error.message} if error else None
