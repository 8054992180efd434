"""One target run from top to bottom: a session, the actions one after another, timeouts and cancels, and the record of it.

Whatever can stop a run (a cancel, a timeout, the worker's end, the loss of its lease) comes in through `interrupt`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from opsjobs import failpoints
from opsjobs.clock import Clock, Timer
from opsjobs.engine.output import Capture
from opsjobs.engine.record import ActionEnd, RunRecord
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.failures import RemoteFailure
from opsjobs.model.target import Endpoint
from opsjobs.model.units import format_duration, parse_duration, parse_size
from opsjobs.remote.session import Exit, Process, Session, Sessions
from opsjobs.store.ledger import Progress, Spec
from opsjobs.telemetry import Metrics, log


class Why(Enum):
    """What stops a run before its own end."""

    CANCEL = auto()
    DEADLINE = auto()
    ACTION_TIMEOUT = auto()
    WORKER_STOPS = auto()
    NOT_OURS = auto()


class Interrupted(Exception):
    """The run was asked to stop, at a place where it can."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.name)
        self.why = why


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Defaults of an action, and the seconds between TERM and KILL. The rest of the output is awaited as long after a kill."""

    command_seconds: float = 300.0
    output_bytes: int = 10 << 20
    kill_grace_seconds: float = 5.0


class TargetRun:
    """A claimed run at work in this process.

    `may_start`: whether this worker's lease is fresh enough to start something on a machine. `lost`: why it is unknown what
    became of the run's command, where nothing may be started any more.
    """

    def __init__(
        self,
        record: RunRecord,
        spec: Spec,
        endpoint: Endpoint | None,
        progress: Sequence[Progress],
        *,
        sessions: Sessions,
        clock: Clock,
        limits: RunLimits,
        metrics: Metrics,
        may_start: Callable[[], bool],
        lost: str | None = None,
    ) -> None:
        self.claimed = record.claimed
        self.record = record
        self._spec = spec
        self._endpoint = endpoint
        self._unfinished = next((seen for seen in progress if seen.status is RunStatus.RUNNING), None)
        self._ends = {seen.action: _ended(seen) for seen in progress if seen.status is not RunStatus.RUNNING}
        self._sessions = sessions
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._may_start = may_start
        self._lost = lost
        self._why: Why | None = None
        self._interruptible = False
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._open_action: str | None = None
        self.began = time.monotonic()
        self.commanding = False

    def interrupt(self, why: Why) -> None:
        """Stop at the next place where that is possible. The first reason stays, but losing the run overrules all."""
        if self._why is None or why is Why.NOT_OURS:
            self._why = why
        if self._interruptible and self._task is not None:
            self._interruptible = False  # one cancel is enough: a second one would stay with the task
            self._task.cancel()

    def drain(self) -> None:
        """Begin nothing more: the command at work may end, what comes after it is given back."""
        self._draining = True
        if not self.commanding:
            self.interrupt(Why.WORKER_STOPS)

    async def perform(self) -> None:
        """Do it all. Never raises for what a machine or a person does; what is a bug of ours is recorded as `internal`."""
        self._task = asyncio.current_task()
        deadline = self._until_deadline()
        end: ActionEnd | None
        try:
            end = await self._walk()
        except Interrupted as stopped:
            end = self._tell(_unstarted(stopped.why)) if stopped.why is not Why.WORKER_STOPS else None
        except RemoteFailure as failure:
            end = self._tell(_failed(failure))
        except Exception as bug:  # noqa: BLE001  a bug ends this run, on record, and no other
            self._metrics.bugs.labels("target_run").inc()
            log.exception("target_run_failed", execution=self.claimed.execution_id, target_run=self.claimed.id)
            end = self._tell(_failed(RemoteFailure(ErrorCode.INTERNAL, f"a fault of opsjobs: {type(bug).__name__}")))
        finally:
            if deadline is not None:
                deadline.cancel()
        self.record.finish(end) if end is not None else self.record.give_back()

    def _until_deadline(self) -> Timer | None:
        left = self.claimed.seconds_left
        return None if left is None else self._clock.later(left, lambda: self.interrupt(Why.DEADLINE))

    def _tell(self, end: ActionEnd) -> ActionEnd:
        """Record an end that came from outside an action: the open or else the next action has it as its result.

        Where the actions have ended already, it comes too late to change anything.
        """
        if (known := self._outcome()) is not None:
            return known
        if self._open_action is None:
            seen = self._unfinished
            key = seen.action if seen else self._remaining()[0]["key"]
            self.record.begin(key, self.claimed.attempt, seen.started_at if seen else None, seen=seen)
        self._open_action = None
        self.record.end(end, self._clock.now())
        return end

    def _remaining(self) -> Sequence[Mapping[str, Any]]:
        return [action for action in self._spec.actions if action["key"] not in self._ends]

    def _outcome(self) -> ActionEnd | None:
        """How the run ends by its actions; None while there is one to do: the first that failed says it, else the last."""
        bad = [
            action
            for action in self._spec.actions
            if (end := self._ends.get(action["key"])) and end.status is not RunStatus.SUCCEEDED
        ]
        stopped = any(
            self._ends[action["key"]].status is not RunStatus.FAILED or action["on_failure"] != "continue" for action in bad
        )
        if not stopped and self._remaining():
            return None
        return self._ends[(bad or self._spec.actions[-1:])[0]["key"]]

    async def _walk(self) -> ActionEnd:
        if (known := self._outcome()) is not None:
            return known
        if self._lost is not None:
            raise RemoteFailure(ErrorCode.LOST, self._lost)
        if self._endpoint is None:
            raise RemoteFailure(
                ErrorCode.INTERNAL, f"target {self.claimed.target_name} was removed from the inventory after the launch"
            )
        async with AsyncExitStack() as stack:
            with self._where_it_may_stop():
                async with failpoints.at("session"):
                    session = await stack.enter_async_context(self._sessions.session(self._endpoint))
            while (known := self._outcome()) is None:
                await self._action(session, self._remaining()[0])
            async with failpoints.at("finish"):
                return known

    @contextmanager
    def _where_it_may_stop(self) -> Iterator[None]:
        """Inside, `interrupt` takes effect at once, as Interrupted; before and after, it waits for the next such place."""
        if self._why is not None:
            raise Interrupted(self._why)
        self._interruptible = True
        try:
            yield
        except asyncio.CancelledError:
            if self._why is None or self._task is None:
                raise
            self._task.uncancel()
            raise Interrupted(self._why) from None
        finally:
            self._interruptible = False

    async def _action(self, session: Session, action: Mapping[str, Any]) -> None:
        with self._where_it_may_stop():
            pass
        if self._draining or not self._may_start():
            raise Interrupted(Why.WORKER_STOPS)
        self._open_action = action["key"]
        self.record.begin(action["key"], self.claimed.attempt, self._clock.now())
        limit = action["output_limit"]
        capture = Capture(self.record, self._limits.output_bytes if limit is None else parse_size(limit))
        try:
            end = await self._command(session, action, capture)
        except RemoteFailure as failure:
            end = _failed(failure)
        end = replace(end, written=capture.finish())
        self._open_action = None
        self._ends[action["key"]] = end
        self.record.end(end, self._clock.now())

    async def _command(self, session: Session, action: Mapping[str, Any], capture: Capture) -> ActionEnd:
        # Not interruptible: a start that is given up half-way would leave open whether the command runs.
        self.commanding = True
        async with failpoints.at("start"):
            process = await session.start(action["command"])
        seconds = self._limits.command_seconds if action["timeout"] is None else parse_duration(action["timeout"])
        timer = self._clock.later(seconds, lambda: self.interrupt(Why.ACTION_TIMEOUT))
        try:
            with self._where_it_may_stop():
                exited = await self._read(process, capture)
            return _judged(exited, action["expected_exit_codes"])
        except Interrupted as stopped:
            return await self._stop(process, capture, stopped.why, action, seconds)
        finally:
            timer.cancel()
            if self._why is Why.ACTION_TIMEOUT:
                self._why = None
            self.commanding = False
            await process.close()

    async def _read(self, process: Process, capture: Capture) -> Exit:
        async for piece in process:
            if isinstance(piece, Exit):
                return piece
            capture.add(piece)
            await self.record.room()
        raise RemoteFailure(ErrorCode.LOST, "the channel ended without saying how the command ended")

    async def _stop(self, process: Process, capture: Capture, why: Why, action: Mapping[str, Any], seconds: float) -> ActionEnd:
        """Kill the command, read what it still says, and judge by the proof."""
        if why in (Why.WORKER_STOPS, Why.NOT_OURS):
            return _failed(RemoteFailure(ErrorCode.LOST, "its worker was stopped while the command was running"))
        reader = asyncio.create_task(self._read(process, capture))
        try:
            proof = await process.kill(self._limits.kill_grace_seconds)
        finally:
            exited = await _within(reader, self._limits.kill_grace_seconds)
        match proof:
            case CancelProof.ALREADY_FINISHED if exited is not None:
                end = _judged(exited, action["expected_exit_codes"])
            case CancelProof.KILLED:
                end = _killed(why, seconds)
            case _:
                end = _failed(
                    RemoteFailure(ErrorCode.LOST, "contact was lost while killing the command: it is perhaps still running")
                )
        return replace(end, cancel_proof=proof)


async def _within(reader: asyncio.Task[Exit], seconds: float) -> Exit | None:
    await asyncio.wait({reader}, timeout=seconds)
    if not reader.done():
        reader.cancel()
        await asyncio.wait({reader})
    return None if reader.cancelled() or reader.exception() is not None else reader.result()


def _failed(failure: RemoteFailure) -> ActionEnd:
    return ActionEnd(failure.code.run_status, error=RunError(failure.code, failure.message))


def _ended(seen: Progress) -> ActionEnd:
    return ActionEnd(seen.status, seen.exit_code, seen.error, written=seen.stored)


def _judged(exited: Exit, expected: Sequence[int]) -> ActionEnd:
    if exited.code is None and exited.signal is None:
        # Network devices close the channel without a word on success: all that can be known is that the command ended.
        return ActionEnd(RunStatus.SUCCEEDED)
    if exited.code is None:
        how, code = f"ended by signal {exited.signal}", None
    else:
        how, code = f"exit status {exited.code}", _int32(exited.code)
        if exited.code in expected:
            return ActionEnd(RunStatus.SUCCEEDED, code)
    return ActionEnd(RunStatus.FAILED, code, RunError(ErrorCode.NONZERO_EXIT, how))


def _int32(code: int) -> int:
    """As SSH and Windows mean it: 0xC000013A does not fit into the column, -1073741510 does."""
    return (code + (1 << 31)) % (1 << 32) - (1 << 31)


def _killed(why: Why, seconds: float) -> ActionEnd:
    if why is Why.CANCEL:
        return ActionEnd(RunStatus.CANCELLED, error=RunError(ErrorCode.CANCELLED, "cancelled: the command was killed"))
    limit = f"the action's timeout of {format_duration(seconds)}" if why is Why.ACTION_TIMEOUT else "the execution's timeout"
    return ActionEnd(RunStatus.TIMEOUT, error=RunError(ErrorCode.COMMAND_TIMEOUT, f"killed: {limit} has passed"))


def _unstarted(why: Why) -> ActionEnd:
    if why is Why.CANCEL:
        error = RunError(ErrorCode.CANCELLED, "cancelled before it was started")
        return ActionEnd(RunStatus.CANCELLED, error=error, cancel_proof=CancelProof.NEVER_STARTED)
    error = RunError(ErrorCode.COMMAND_TIMEOUT, "the execution's timeout passed before it was started")
    return ActionEnd(RunStatus.TIMEOUT, error=error, cancel_proof=CancelProof.NEVER_STARTED)
