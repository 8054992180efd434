"""Commands that end with their channel: `durable: off`, and targets without a spool."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from opsjobs import failpoints
from opsjobs.clock import Clock
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import DETACHING, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.model.action_base import FrozenRunningAction
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.session import RemoteExit, RemoteProcess, Session


@dataclass(frozen=True, slots=True)
class Work:
    """One program to run: its action, the destinations of its output, and its limits."""

    action: FrozenRunningAction
    capture: Capture
    entry: AttemptEntry
    stop_signal: StopSignal
    clock: Clock
    timeout_seconds: float
    """The command is killed after this time."""
    grace_seconds: float
    """Seconds between TERM and KILL."""

    async def read(self, process: RemoteProcess) -> RemoteExit:
        """Read all output until the command ends. Raises RemoteFailure(LOST), or ContactLost."""
        async for piece in process:
            if isinstance(piece, RemoteExit):
                return piece
            self.capture.add(piece)
            await self.entry.run.wait_for_room()
        raise RemoteFailure(
            ErrorCode.LOST, "the channel ended without saying how the command ended"
        )


class DirectCommand:
    """Starts a command over a session and holds its channel until the command ends."""

    def __init__(self, work: Work, command: str | Program) -> None:
        self._work = work
        self._command = command

    async def perform(self, session: Session) -> ActionEnd:
        """Start the command, read its output, and return the command's end; a stop kills it.

        Raises RemoteFailure.
        """
        # Not interruptible: after an aborted start it is unknown whether the command runs.
        work = self._work
        async with failpoints.at("start"):
            process = await session.start(self._command)
        timer = work.clock.later(
            work.timeout_seconds, lambda: work.stop_signal.request(StopReason.ACTION_TIMEOUT)
        )
        try:
            with work.stop_signal.interruptible():
                exited = await work.read(process)
            return outcomes.from_exit(exited, work.action.expected_exit_codes, work.timeout_seconds)
        except Interrupted as stopped:
            return await self._stop(process, stopped.reason)
        finally:
            timer.cancel()
            work.stop_signal.clear(StopReason.ACTION_TIMEOUT)
            await process.close()

    async def _stop(self, process: RemoteProcess, reason: StopReason) -> ActionEnd:
        """Kill the command, read the rest of its output, and derive its end from the proof."""
        work = self._work
        if reason in DETACHING:
            return outcomes.from_failure(
                RemoteFailure(
                    ErrorCode.LOST, "its worker was stopped while the command was running"
                )
            )
        reader = asyncio.create_task(work.read(process))
        try:
            proof = await process.kill(work.grace_seconds)
        finally:
            exited = await _finish_within(reader, work.grace_seconds)
        return outcomes.from_kill(
            proof, exited, reason, work.action.expected_exit_codes, work.timeout_seconds
        )


async def _finish_within(reader: asyncio.Task[RemoteExit], seconds: float) -> RemoteExit | None:
    await asyncio.wait({reader}, timeout=seconds)
    if not reader.done():
        reader.cancel()
        await asyncio.wait({reader})
    return None if reader.cancelled() or reader.exception() is not None else reader.result()
