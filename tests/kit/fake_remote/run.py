"""A durable run on a scripted machine: it plays its script once and keeps all its output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from kit.fake_remote.script import Break, Deed, Echo, Gate, Pause
from opsjobs.clock import Clock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import StartOrder
from opsjobs.remote.output_buffer import PIECE_BYTES
from opsjobs.remote.session import Cause, ContactLost, Output, RemoteExit, Stream


class Nature(Protocol):
    """The reaction of a machine's commands to a signal."""

    ignores_term: bool
    unkillable: bool


class FakeRun:
    """One start of one action, as its machine records it: its output, and its exit."""

    def __init__(
        self, order: StartOrder, deeds: Sequence[Deed], nature: Nature, clock: Clock
    ) -> None:
        self.order = order
        self.exit: RemoteExit | None = None
        self.gone = False
        """True: it has no supervisor any more, and its exit will not be recorded."""
        self.working = True
        """True while a part of it runs."""
        self.record: list[Output | Break] = []
        self.spent: set[int] = set()
        """The positions in the record where a Break has broken a follower's contact."""
        self.followers: list[FakeFollower] = []
        self._nature = nature
        self._clock = clock
        self._written: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._do(self._play(deeds))
        self._do(self._watch())

    @property
    def live(self) -> bool:
        """Return True if it is running, and its end will be recorded."""
        return self.working and not self.gone

    async def moved(self) -> None:
        """Wait until it writes or ends."""
        await self._moved.wait()

    async def _play(self, deeds: Sequence[Deed]) -> None:
        for deed in deeds:
            match deed:
                case Output():
                    await self._write(deed)
                case Echo() if self.order.program is not None:
                    await self._write(Output("stdout", self.order.program.stdin or b""))
                case Break():
                    self.record.append(deed)
                    self.tell()
                case RemoteExit():
                    self.end(deed)
                case Pause(seconds):
                    await self._clock.sleep(seconds)
                case Gate():
                    await deed.stand()
            if not self.working:
                return
        self.end(RemoteExit(0))

    async def _write(self, output: Output) -> None:
        pieces = (
            output.data[at : at + PIECE_BYTES] for at in range(0, len(output.data), PIECE_BYTES)
        )
        self.record.extend(Output(output.stream, piece) for piece in pieces)
        self._written[output.stream] += len(output.data)
        self.tell()
        if self._written[output.stream] > self.order.limit_bytes:
            await self.kill(self.order.grace_seconds, "output_limit")

    async def _watch(self) -> None:
        await self._clock.sleep(self.order.timeout_seconds)
        await self.kill(self.order.grace_seconds, "timeout")

    async def kill(self, grace_seconds: float, cause: Cause | None = None) -> None:
        """Send TERM, or after the grace KILL if TERM is ignored or the run has no supervisor.

        An unkillable run continues.
        """
        if self._nature.unkillable:
            return
        if self._nature.ignores_term:
            await self._clock.sleep(grace_seconds)
        hard = self._nature.ignores_term or self.gone
        if self.gone:  # the kill of an orphan only records its end
            self.gone, cause = False, None
        self.end(RemoteExit(None, "KILL" if hard else "TERM", cause))

    def end(self, exit_: RemoteExit) -> None:
        """End with this exit, unless it has ended already."""
        if self.working:
            self.exit = None if self.gone else exit_
            self._stop()

    def orphan(self) -> None:
        """Kill its supervisor; the command itself continues. No effect once it has ended."""
        if self.working:
            self.gone = True
            self.tell()

    def vanish(self) -> None:
        """Make it disappear without a record of its exit. No effect once it has ended."""
        if self.working:
            self.gone = True
            self._stop()

    def cut(self) -> None:
        """Break contact for all its followers."""
        for follower in list(self.followers):
            follower.cut(
                ContactLost(f"Contact broke while {self.order.key} was followed (as scripted).")
            )

    async def close(self) -> None:
        """Stop playing, at the end of a test."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _stop(self) -> None:
        self.working = False
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self.tell()

    def tell(self) -> None:
        """Notify all that wait for a change."""
        self._moved.set()
        self._moved = asyncio.Event()


class FakeFollower:
    """The process of a durable run: its output from an offset on.

    `cancel` is what its machine does for a kill.
    """

    def __init__(
        self,
        run: FakeRun,
        offsets: tuple[int, int],
        cancel: Callable[[float], Awaitable[CancelProof]],
    ) -> None:
        self._run = run
        self._before: dict[Stream, int] = {"stdout": offsets[0], "stderr": offsets[1]}
        self._at = 0
        self._cancel = cancel
        self._broken: RemoteFailure | None = None
        run.followers.append(self)

    async def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the rest of the output, then the run's exit.

        Raises what ended the contact, or LOST if the run is gone.
        """
        run = self._run
        while True:
            while (piece := self._next()) is not None:
                if piece.data:
                    yield piece
            if not run.live:
                break
            await run.moved()
        if run.exit is None:
            raise RemoteFailure(
                ErrorCode.LOST, f"{run.order.key} is gone: how it ended is on no record."
            )
        yield run.exit

    def _next(self) -> Output | None:
        """Return the next output of the record after the offsets, or None if there is none yet."""
        run = self._run
        while self._broken is None and self._at < len(run.record):
            at, self._at = self._at, self._at + 1
            match run.record[at]:
                case Output(stream, data):
                    before = min(self._before[stream], len(data))
                    self._before[stream] -= before
                    return Output(stream, data[before:])
                case Break(failure) if at not in run.spent and not any(self._before.values()):
                    run.spent.add(at)
                    self.cut(ContactLost(failure.message))
        if self._broken is not None:
            raise self._broken
        return None

    def cut(self, failure: RemoteFailure) -> None:
        """Break contact: each read from now on raises this failure."""
        if self._broken is None:
            self._broken = failure
            self._run.tell()

    async def kill(self, grace_seconds: float) -> CancelProof:
        """Cancel as the machine's durable runs do."""
        return await self._cancel(grace_seconds)

    async def close(self) -> None:
        """Close the follower: the run continues."""
        self.cut(ContactLost(f"{self._run.order.key} was let go; it goes on."))
        if self in self._run.followers:
            self._run.followers.remove(self)
