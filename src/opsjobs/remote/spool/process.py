"""The process of a durable run: each byte is delivered once, whatever its source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.session import (
    CancelOutcome,
    ContactLost,
    NotStarted,
    Output,
    RemoteExit,
    SpoolChanged,
    SpoolUnavailable,
    Stream,
    unstarted,
)
from opsjobs.remote.spool.channel import Channel
from opsjobs.remote.spool.live_follow import Live
from opsjobs.remote.spool.output_sources import InlineOutput, OutputSource, TooLong

ATTACHES = 3
"""The maximum of attaches in a row that end for no network reason, without a byte."""

Offsets = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ways:
    """The requests to reach a run again, and its program if it has one."""

    key: str
    program: Program | None
    attach: Callable[[Offsets], Awaitable[OutputSource]]
    follow: Callable[[Channel], Awaitable[Live | None]]
    cancel: Callable[[float], Awaitable[CancelOutcome]]

    def explain(self, end: RemoteExit) -> RemoteExit:
        """Return the exit with a message, if its machine lacked something."""
        return (
            unstarted(end.cause, self.program)
            if end.unstarted and end.cause and self.program
            else end
        )


class DurableProcess:
    """A run that was started. Reading may stop and resume; closing leaves the run as it is."""

    def __init__(self, ways: Ways, source: OutputSource, offsets: Offsets = (0, 0)) -> None:
        self._ways = ways
        self._source = source
        self._given: dict[Stream, int] = {"stdout": offsets[0], "stderr": offsets[1]}
        self._attaches = 0
        self._exit: RemoteExit | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit.

        Raises ContactLost, and RemoteFailure(LOST) if the run is gone for good.
        """
        return self._read()

    async def _read(self) -> AsyncIterator[Output | RemoteExit]:
        while isinstance(piece := await self._next(), Output):
            yield piece
        yield piece

    async def _next(self) -> Output | RemoteExit:
        while self._exit is None:
            try:
                piece = await self._source.read()
            except TooLong:
                await self._go_live()
                continue
            if isinstance(piece, Output):
                self._given[piece.stream] += len(piece.data)
                self._attaches = 0
                return piece
            if piece is None:
                await self._attach()
                continue
            self._exit = self._ways.explain(piece)
            await self._source.finish()
        return self._exit

    async def _go_live(self) -> None:
        """Follow over a second channel, or attach if there is none."""
        assert isinstance(self._source, InlineOutput)
        live = await self._ways.follow(self._source.channel)
        if live is None:
            await self._attach()
        else:
            self._source = live

    async def _attach(self) -> None:
        """Continue from the last byte, by the machine's record."""
        key = self._ways.key
        await self._source.close()
        self._attaches += 1
        if self._closed or self._attaches > ATTACHES:
            raise ContactLost(f"{key} is followed no more; it goes on there.")
        try:
            self._source = await self._ways.attach((self._given["stdout"], self._given["stderr"]))
        except RemoteFailure as failure:
            if failure.code is ErrorCode.LOST:
                raise
            raise ContactLost(
                f"{key} cannot be followed now; it goes on there: {failure.message}"
            ) from None
        except (NotStarted, SpoolChanged, SpoolUnavailable) as changed:
            raise ContactLost(
                f"{key} was begun, but its machine knows it no more: {changed}"
            ) from None

    async def kill(self, grace_seconds: float) -> CancelProof:
        """End the run, and the processes that escaped from it."""
        if self._exit is not None:
            return CancelProof.ALREADY_FINISHED
        return (await self._ways.cancel(grace_seconds)).proof

    async def close(self) -> None:
        """Close the channels; the run continues."""
        self._closed = True
        await self._source.close()
