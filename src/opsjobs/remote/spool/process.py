"""The process of a durable run: each byte is delivered once, from any source.

The sources are the start itself, which returns the output of a short run at its end, a second
channel that follows a longer one (`live_follow`), or an attach.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

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
    explain_unstarted,
)
from opsjobs.remote.spool.channel import Channel, Record, parse_exit
from opsjobs.remote.spool.live_follow import Live

ATTACHES = 3
"""The maximum of attaches in a row that end without a byte and not for a network reason."""

SILENCE_SECONDS = 30.0
"""The maximum silence of an attach, which sends data every second."""

Offsets = tuple[int, int]


class OutputSource(Protocol):
    """A source of output from given offsets on, then the exit."""

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item; None if the source ended before the run's end: use another one.

        May be cancelled. Raises ContactLost, and RemoteFailure(LOST) if the run no longer exists.
        """

    async def finish(self) -> None:
        """Close the source after the run's end."""

    async def close(self) -> None:
        """Close the source."""


@dataclass(frozen=True, slots=True)
class RunRequests:
    """The requests to reconnect to a run, and its program if it has one."""

    key: str
    program: Program | None
    attach: Callable[[Offsets], Awaitable[OutputSource]]
    follow: Callable[[Channel], Awaitable[Live | None]]
    cancel: Callable[[float], Awaitable[CancelOutcome]]

    def explain(self, end: RemoteExit) -> RemoteExit:
        """Return the exit, with a message if its machine lacked a prerequisite."""
        return (
            explain_unstarted(end.cause, self.program)
            if end.never_started and end.cause and self.program
            else end
        )


class DurableProcess:
    """A started run. Reading may stop and resume; closing leaves the run unchanged."""

    def __init__(
        self, requests: RunRequests, source: OutputSource, offsets: Offsets = (0, 0)
    ) -> None:
        self._requests = requests
        self._source = source
        self._given: dict[Stream, int] = {"stdout": offsets[0], "stderr": offsets[1]}
        self._attaches = 0
        self._exit: RemoteExit | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        """Iterate over the output, then one RemoteExit.

        Raises ContactLost, and RemoteFailure(LOST) if the run no longer exists.
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
            self._exit = self._requests.explain(piece)
            await self._source.finish()
        return self._exit

    async def _go_live(self) -> None:
        """Follow over a second channel, or attach if there is none."""
        assert isinstance(self._source, InlineOutput)
        live = await self._requests.follow(self._source.channel)
        if live is None:
            await self._attach()
        else:
            self._source = live

    async def _attach(self) -> None:
        """Continue from the last byte, using the machine's record."""
        key = self._requests.key
        await self._source.close()
        self._attaches += 1
        if self._closed or self._attaches > ATTACHES:
            raise ContactLost(f"{key} is followed no more; it goes on there.")
        try:
            self._source = await self._requests.attach(
                (self._given["stdout"], self._given["stderr"])
            )
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
        return (await self._requests.cancel(grace_seconds)).proof

    async def close(self) -> None:
        """Close the channels; the run continues."""
        self._closed = True
        await self._source.close()


class TooLong(Exception):
    """The run will not end soon."""


class InlineOutput:
    """The channel of a start, which returns all output at the end.

    Raises TooLong once that may take longer.
    """

    def __init__(self, channel: Channel, live_at: float) -> None:
        self.channel = channel
        self._live_at = live_at
        self._quiet = True
        self._sized: tuple[int, bytearray] | None = None
        self._stream: Stream = "stdout"
        self._given: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._broken = False
        self._ready: deque[Output | RemoteExit] = deque()

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item that the start returned."""
        while not self._ready and not self._broken:
            item = await self._item()
            if item is None:
                break
            self._take(item)
        return self._ready.popleft() if self._ready else None

    async def _item(self) -> Output | Record | None:
        if not self._quiet:
            return await self.channel.next()
        try:
            async with asyncio.timeout_at(self._live_at):
                item = await self.channel.next()
        except TimeoutError:
            raise TooLong from None
        self._quiet = False
        return item

    def _take(self, item: Output | Record) -> None:
        if isinstance(item, Output):
            self._stream = item.stream
            if self._sized is None:
                self._give(item.data)
            else:
                self._sized[1].extend(item.data)
            return
        self._check()
        self._sized = (
            (int(item[1]), bytearray()) if item[0] in ("1", "2") and len(item) > 1 else None
        )
        if item[0] == "E" and not self._broken:
            self._end(item)

    def _check(self) -> None:
        """Check the size of a short output that was passed through a shell variable.

        If the shell dropped bytes, the output is read again.
        """
        if self._sized is None:
            return
        size, data = self._sized
        if len(data) == size:
            self._give(bytes(data))
        else:
            self._broken = True

    def _give(self, data: bytes) -> None:
        self._given[self._stream] += len(data)
        self._ready.append(Output(self._stream, data))

    def _end(self, record: Record) -> None:
        _, status, cause, *sizes = record
        if status == "n":
            raise ContactLost("The command did not arrive whole, and was not started.")
        # The process that sends the output may have been killed meanwhile.
        if any(given < int(size) for given, size in zip(self._given.values(), sizes, strict=True)):
            self._broken = True
        else:
            self._ready.append(parse_exit(status, cause))

    async def finish(self) -> None:
        """Close the channel once it has ended."""
        await self.channel.finish()

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


class PolledOutput:
    """The channel of an attach, which polls the record and the files at growing intervals."""

    def __init__(self, channel: Channel, key: str) -> None:
        self._channel = channel
        self._key = key

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item read."""
        while True:
            item = await self._item()
            if item is None or isinstance(item, Output):
                return item
            match item[0]:
                case "D" if len(item) == 3:
                    return parse_exit(item[1], item[2])
                case "D" | "G":
                    raise run_lost(self._key)
                case "V":
                    raise ContactLost(f"{self._key} was given up before it began.")

    async def _item(self) -> Output | Record | None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await self._channel.next()
        except TimeoutError:
            raise ContactLost(
                f"{self._key}: no answer for {SILENCE_SECONDS:.0f} s; it continues there."
            ) from None

    async def finish(self) -> None:
        """Close the channel once it has ended."""
        await self._channel.finish()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def run_lost(key: str) -> RemoteFailure:
    """Return the failure for a run without a record of its end."""
    message = (
        f"{key} was started on its machine and is gone; there is no record of its end "
        "(a reboot, or a kill of its supervisor)."
    )
    return RemoteFailure(ErrorCode.LOST, message)
