"""Follow a longer run: output over a second channel, its end over the first one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Stream
from opsjobs.remote.spool.channel import Channel, RecordParser, Start, parse_exit, send
from opsjobs.remote.spool.script import SpoolRequest

FOLLOW_SECONDS = 2.0
"""The time for the follower's first record; then the follower is abandoned."""

REST_SECONDS = 2.0
"""The time, after the run's end, for the rest of its output to arrive."""

_PIECES = 4


@dataclass(frozen=True, slots=True)
class _FollowEnd:
    exit: RemoteExit
    sizes: dict[Stream, int]


@dataclass(frozen=True, slots=True)
class _Over:
    """One of the two channels has ended too early."""


class Live:
    """Both channels merged. Bounded: without a reader, both wait."""

    def __init__(self, channel: Channel, follower: _Follower) -> None:
        self._channel = channel
        self._follower = follower
        self._queue: asyncio.Queue[Output | _FollowEnd | _Over | Exception] = asyncio.Queue(_PIECES)
        self._tasks = [
            asyncio.create_task(self._pump_output()),
            asyncio.create_task(self._pump_end()),
        ]
        self._given: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._end: _FollowEnd | None = None

    @classmethod
    async def open(cls, channel: Channel, start: Start, request: SpoolRequest) -> Live | None:
        """Follow from the first byte; return None if there is no second channel or no follower."""
        try:
            async with asyncio.timeout(FOLLOW_SECONDS):
                process = await send(start, request)
        except (RemoteFailure, TimeoutError):
            return None
        follower = _Follower(process, request.nonce)
        try:
            async with asyncio.timeout(FOLLOW_SECONDS):
                await follower.greeting()
        except (RemoteFailure, TimeoutError):
            await process.close()
            return None
        except asyncio.CancelledError:
            await process.close()
            raise
        return cls(channel, follower)

    async def read(self) -> Output | RemoteExit | None:
        """Return the next item, or None if an attach must continue."""
        while not self._complete():
            try:
                async with asyncio.timeout(REST_SECONDS if self._end is not None else None):
                    item = await self._queue.get()
            except TimeoutError:
                return None
            match item:
                case Output() if piece := self._clipped(item):
                    return piece
                case _FollowEnd():
                    self._end = item
                case _Over():
                    return None
                case Exception():
                    raise item
        assert self._end is not None
        return self._end.exit

    def _complete(self) -> bool:
        return self._end is not None and all(
            self._given[stream] >= size for stream, size in self._end.sizes.items()
        )

    def _clipped(self, piece: Output) -> Output | None:
        """Cut output written after the end, by processes that the command left running."""
        stream, data = piece.stream, piece.data
        if self._end is not None:
            data = data[: max(self._end.sizes[stream] - self._given[stream], 0)]
        self._given[stream] += len(data)
        return Output(stream, data) if data else None

    async def _pump_output(self) -> None:
        try:
            async for piece in self._follower.pieces():
                await self._queue.put(piece)
        except RemoteFailure:
            pass  # the other channel shows whether the connection is lost
        await self._queue.put(_Over())

    async def _pump_end(self) -> None:
        """Read the end of the run; skip output that arrives with it.

        The output is also sent on this channel if the follower started too late to prevent it.
        """
        try:
            while (record := await self._channel.next_record()) is not None:
                if record[0] == "E" and record[1] != "n":
                    await self._queue.put(
                        _FollowEnd(
                            parse_exit(record[1], record[2]),
                            {"stdout": int(record[3]), "stderr": int(record[4])},
                        )
                    )
                    return
        except RemoteFailure as failure:
            await self._queue.put(failure)
            return
        await self._queue.put(_Over())

    async def finish(self) -> None:
        """Close the follower, and the other channel once it has ended."""
        await self._leave()
        await self._channel.finish()

    async def close(self) -> None:
        """Close both channels."""
        await self._leave()
        await self._channel.close()

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._follower.close()


class _Follower:
    """The channel that carries both streams, each after a record that names it."""

    def __init__(self, process: RemoteProcess, nonce: str) -> None:
        self._process = process
        self._pieces = aiter(process)
        self._records: dict[Stream, RecordParser] = {
            "stdout": RecordParser(nonce),
            "stderr": RecordParser(nonce),
        }
        self._early: list[Output] = []

    async def greeting(self) -> None:
        """Return once it follows. Raises RemoteFailure; TimeoutError if it ended instead."""
        async for piece in self._pieces:
            if isinstance(piece, RemoteExit):
                break
            greeted = False
            for item in self._records[piece.stream].feed(piece.data):
                if isinstance(item, Output):
                    self._early.append(item)
                else:
                    greeted = True
            if greeted:
                return
        raise TimeoutError

    async def pieces(self) -> AsyncIterator[Output]:
        """Yield output as it is written."""
        for early in self._early:
            yield early
        async for piece in self._pieces:
            if isinstance(piece, RemoteExit):
                return
            for item in self._records[piece.stream].feed(piece.data):
                if isinstance(item, Output):
                    yield item

    async def close(self) -> None:
        """End its standard input, which ends the follower."""
        await self._process.close()
