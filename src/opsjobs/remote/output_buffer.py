"""The buffer of one command's output: bounded, in order, ended exactly once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.session import Output, RemoteExit, Stream

HIGH_WATER_BYTES = 128 * 1024
"""The source is paused above this; the data then in flight (one window) is added."""

LOW_WATER_BYTES = 32 * 1024
PIECE_BYTES = 64 * 1024


def _nothing() -> None:
    """Do nothing, for a source that cannot be paused."""


class OutputBuffer:
    """A buffer between a transport that pushes and one reader that pulls, on the same loop."""

    def __init__(
        self, *, pause: Callable[[], None] = _nothing, resume: Callable[[], None] = _nothing
    ) -> None:
        self._pause = pause
        self._resume = resume
        self._pieces: deque[Output] = deque()
        self._held_bytes = 0
        self._paused = False
        self._end: RemoteExit | RemoteFailure | None = None
        self._reader: asyncio.Future[None] | None = None
        self.settled = asyncio.Event()
        """Set once the command's end is known, even while earlier output waits for the reader."""

    @property
    def outcome(self) -> RemoteExit | RemoteFailure | None:
        """The outcome of the command, or None if it is not known yet."""
        return self._end

    def put(self, stream: Stream, data: bytes) -> None:
        """Add output, cut into pieces of at most 64 KiB; pause the source when full."""
        if not data:
            return
        if len(data) <= PIECE_BYTES:
            self._pieces.append(Output(stream, data))
        else:
            self._pieces.extend(
                Output(stream, data[at : at + PIECE_BYTES])
                for at in range(0, len(data), PIECE_BYTES)
            )
        self._held_bytes += len(data)
        if self._held_bytes > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def end(self, outcome: RemoteExit | RemoteFailure) -> None:
        """Record the outcome after all output was put; only the first call has an effect."""
        if self._end is None:
            self._end = outcome
            # The source may refer to this buffer: without a reference cycle both are freed with
            # their last use.
            self._pause = self._resume = _nothing
            self.settled.set()
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> AsyncIterator[Output | RemoteExit]:
        """Yield all output in order, then the exit; or raise the failure that ended it."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._held_bytes -= len(piece.data)
                if self._paused and self._held_bytes <= LOW_WATER_BYTES:
                    self._paused = False
                    self._resume()
                yield piece
            if self._end is not None:
                break
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if isinstance(self._end, RemoteFailure):
            # A separate exception for each reader: a raised one refers to the frames that it passed
            # through, and this one is kept.
            raise RemoteFailure(self._end.code, self._end.message, because=self._end.because)
        yield self._end
