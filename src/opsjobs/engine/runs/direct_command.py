"""A command that lives and dies with its channel: `durable: off`, and machines that know no better."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs import failpoints
from opsjobs.clock import Clock
from opsjobs.engine.runs import outcomes
from opsjobs.engine.runs.cancellation import LEAVING, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.output import Capture
from opsjobs.engine.runs.run_journal import ActionEnd, AttemptEntry
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.session import RemoteExit, RemoteProcess, Session


@dataclass(frozen=True, slots=True)
class Work:
    """One action that is to be done: its definition, where its output goes, and its limits in seconds."""

    action: Mapping[str, Any]
    capture: Capture
    page: AttemptEntry
    stops: StopSignal
    clock: Clock
    timeout_seconds: float
    grace_seconds: float

    async def read(self, process: RemoteProcess) -> RemoteExit:
        """Take in all output until the command's end. Raises RemoteFailure(LOST), or ContactLost."""
        async for piece in process:
            if isinstance(piece, RemoteExit):
                return piece
            self.capture.add(piece)
            await self.page.run.room()
        raise RemoteFailure(ErrorCode.LOST, "the channel ended without saying how the command ended")


class DirectCommand:
    """Starts a command over a session and stays until it has ended."""

    def __init__(self, work: Work, command: str | Program) -> None:
        self._work = work
        self._command = command

    async def perform(self, session: Session) -> ActionEnd:
        """Start, read, judge; a stop kills it. Raises RemoteFailure."""
        # Not interruptible: a start that is given up half-way would leave open whether the command runs.
        work = self._work
        async with failpoints.at("start"):
            process = await session.start(self._command)
        timer = work.clock.later(work.timeout_seconds, lambda: work.stops.order(StopReason.ACTION_TIMEOUT))
        try:
            with work.stops.here():
                exited = await work.read(process)
            return outcomes.judged(exited, work.action["expected_exit_codes"], work.timeout_seconds)
        except Interrupted as stopped:
            return await self._stop(process, stopped.why)
        finally:
            timer.cancel()
            work.stops.over(StopReason.ACTION_TIMEOUT)
            await process.close()

    async def _stop(self, process: RemoteProcess, why: StopReason) -> ActionEnd:
        """Kill the command, read what it still says, and judge by the proof."""
        work = self._work
        if why in LEAVING:
            return outcomes.failed(RemoteFailure(ErrorCode.LOST, "its worker was stopped while the command was running"))
        reader = asyncio.create_task(work.read(process))
        try:
            proof = await process.kill(work.grace_seconds)
        finally:
            exited = await _within(reader, work.grace_seconds)
        return outcomes.settled(proof, exited, why, work.action["expected_exit_codes"], work.timeout_seconds)


async def _within(reader: asyncio.Task[RemoteExit], seconds: float) -> RemoteExit | None:
    await asyncio.wait({reader}, timeout=seconds)
    if not reader.done():
        reader.cancel()
        await asyncio.wait({reader})
    return None if reader.cancelled() or reader.exception() is not None else reader.result()
