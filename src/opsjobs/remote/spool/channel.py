"""One request of ours on its way, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import ContactLost, Output, RemoteExit, RemoteProcess
from opsjobs.remote.spool.become import Speaker, last_words
from opsjobs.remote.spool.frame_parser import Records, Word
from opsjobs.remote.spool.script import SpoolRequest

Start = Callable[[str, bytes], Awaitable[RemoteProcess]]
"""Starts a command line with this standard input; raises RemoteFailure as Session.start does."""


OVER_SECONDS = 1.0


class Channel:
    """Records and output of one request, in order. One reader at a time, who may be cancelled and come back."""

    def __init__(self, process: RemoteProcess, nonce: str, *, awaited: bool = False) -> None:
        self._process = process
        self._awaited = awaited
        self._records = Records(nonce)
        self._items: deque[Output | Word] = deque()
        self._pieces: AsyncIterator[Output | RemoteExit] | None = None
        self.ended: RemoteExit | None = None
        """How the request's own shell ended, once it has."""

    @classmethod
    async def open(cls, start: Start, request: SpoolRequest, *, plain: bool = False) -> Channel:
        """Send a request. Raises RemoteFailure(CONNECTION_LOST) where it did not arrive, ContactLost where it may have."""
        try:
            return cls(await sent(start, request, plain=plain), request.nonce, awaited=request.awaited)
        except RemoteFailure as failure:
            raise _told(failure) from None

    async def next(self) -> Output | Word | None:
        """What comes next; None at the end. Raises ContactLost."""
        while not self._items:
            if self.ended is not None:
                return None
            await self._pull()
        return self._items.popleft()

    async def word(self) -> Word | None:
        """The next record; output before it is passed over."""
        while isinstance(item := await self.next(), Output):
            pass
        return item

    @property
    def noise(self) -> str:
        """What was said that is not ours, for people."""
        return self._records.noise[:200].decode(errors="replace").strip()

    @property
    def last_words(self) -> str:
        """The end of that, in one line."""
        return last_words(self._records.noise)

    async def _pull(self) -> None:
        if self._pieces is None:
            self._pieces = aiter(self._process)
        try:
            piece = await anext(self._pieces)
        except asyncio.CancelledError:
            self._pieces = None  # an iterator that was cancelled is over; a new one goes on where it stopped
            raise
        except RemoteFailure as failure:
            raise _told(failure) from None
        if isinstance(piece, RemoteExit):
            self.ended = piece
        elif piece.stream == "stdout":
            self._items.extend(self._records.feed(piece.data))
        else:
            self._records.complain(piece.data)

    def release(self) -> None:
        """What was started is not waited for any more: it has to look after itself."""
        if self._awaited and self.ended is None:
            assert isinstance(self._process, Speaker)
            self._process.say(b"", end=True)

    async def finish(self) -> None:
        """Let go of it once the machine has, or soon: until then it counts as one of our sessions there. All was said."""
        with contextlib.suppress(TimeoutError, RemoteFailure):
            async with asyncio.timeout(OVER_SECONDS):
                while await self.next() is not None:
                    pass
        await self.close()

    async def close(self) -> None:
        """Let go of it; what it started goes on."""
        await self._process.close()


def _told(failure: RemoteFailure) -> RemoteFailure:
    """What a lost command is to others is lost contact here: its machine remembers."""
    return ContactLost(failure.message) if failure.code is ErrorCode.LOST else failure


async def sent(start: Start, request: SpoolRequest, *, plain: bool = False) -> RemoteProcess:
    """The process of a request, as whomever it runs. Raises RemoteFailure as `start`, and BECOME_FAILED.

    Where a password may be asked for, `start` has to leave the standard input open.
    """
    way = request.way
    if way is None:
        return await start(request.line(plain=plain), request.stdin)
    ahead = request.line(plain=True).encode() + b"\n" + request.stdin
    if not way.talks:
        return await start(request.alone(way.line), ahead)
    try:
        process = await start(request.alone(way.line), b"")
        assert isinstance(process, Speaker)
        try:
            await way.enter(process)
        except BaseException:
            await process.close()
            raise
    except RemoteFailure as failure:
        if failure.code is not ErrorCode.LOST:
            raise
        raise RemoteFailure(ErrorCode.CONNECTION_LOST, failure.message) from None  # nothing of the request was sent
    process.say(f"{way.mark}\n".encode() + ahead, end=not request.hold)
    return process
