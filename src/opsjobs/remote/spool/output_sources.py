"""The sources of a run's output: the start itself, at its end, or an attach."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import ContactLost, Output, RemoteExit, Stream
from opsjobs.remote.spool.channel import Channel
from opsjobs.remote.spool.exit_records import exit_of
from opsjobs.remote.spool.frame_parser import Word

SILENCE_SECONDS = 30.0
"""The maximum silence of an attach, which sends something every second."""


class OutputSource(Protocol):
    """A source of output from its offsets on, then the exit."""

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item; None if the source ended before the run's end: use another one.

        May be cancelled. Raises ContactLost, and RemoteFailure(LOST) if the run is gone for good.
        """

    async def finish(self) -> None:
        """Close the source after the run's end."""

    async def close(self) -> None:
        """Close the source."""


class TooLong(Exception):
    """The run does not end soon."""


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
        """Return the next item that was handed over."""
        while not self._ready and not self._broken:
            item = await self._item()
            if item is None:
                break
            self._take(item)
        return self._ready.popleft() if self._ready else None

    async def _item(self) -> Output | Word | None:
        if not self._quiet:
            return await self.channel.next()
        try:
            async with asyncio.timeout_at(self._live_at):
                item = await self.channel.next()
        except TimeoutError:
            raise TooLong from None
        self._quiet = False
        return item

    def _take(self, item: Output | Word) -> None:
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
        """Check the size of a short output that went through a shell variable.

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

    def _end(self, word: Word) -> None:
        _, status, cause, *sizes = word
        if status == "n":
            raise ContactLost("The command did not arrive whole, and was not started.")
        # The process that handed it over may have been killed meanwhile.
        if any(given < int(size) for given, size in zip(self._given.values(), sizes, strict=True)):
            self._broken = True
        else:
            self._ready.append(exit_of(status, cause))

    async def finish(self) -> None:
        """Close the channel when it has ended."""
        await self.channel.finish()

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


class PolledOutput:
    """The channel of an attach, which polls the record and the files, ever less often."""

    def __init__(self, channel: Channel, key: str) -> None:
        self._channel = channel
        self._key = key

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item that was read."""
        while True:
            item = await self._item()
            if item is None or isinstance(item, Output):
                return item
            match item[0]:
                case "D":
                    return exit_of(item[1], item[2])
                case "G":
                    raise run_lost(self._key)
                case "V":
                    raise ContactLost(f"{self._key} was given up before it began.")

    async def _item(self) -> Output | Word | None:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await self._channel.next()
        except TimeoutError:
            raise ContactLost(
                f"{self._key}: no answer for {SILENCE_SECONDS:.0f} s; it continues there."
            ) from None

    async def finish(self) -> None:
        """Close the channel when it has ended."""
        await self._channel.finish()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def run_lost(key: str) -> RemoteFailure:
    """Return the failure for a run without a record of its end."""
    message = f"{key} was started on its machine and is gone; there is no record of its end (a reboot, or a kill of its supervisor)."
    return RemoteFailure(ErrorCode.LOST, message)
