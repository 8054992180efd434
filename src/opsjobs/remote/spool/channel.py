"""One request to a machine, and its response."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import ContactLost, Output, RemoteExit, RemoteProcess
from opsjobs.remote.spool.become import InteractiveProcess, last_lines
from opsjobs.remote.spool.records import Record, RecordParser
from opsjobs.remote.spool.script import SpoolRequest

Start = Callable[[str, bytes], Awaitable[RemoteProcess]]
"""Start a command line with this standard input; raises RemoteFailure as Session.start."""


OVER_SECONDS = 1.0


class Channel:
    """Records and output of one request, in order.

    It has one reader at a time, which may be cancelled and read again later.
    """

    def __init__(self, process: RemoteProcess, nonce: str, *, awaited: bool = False) -> None:
        self._process = process
        self._awaited = awaited
        self._records = RecordParser(nonce)
        self._items: deque[Output | Record] = deque()
        self._pieces: AsyncIterator[Output | RemoteExit] | None = None
        self.ended: RemoteExit | None = None
        """The exit of the request's own shell, once it has ended."""

    @classmethod
    async def open(cls, start: Start, request: SpoolRequest, *, plain: bool = False) -> Channel:
        """Send a request.

        Raises RemoteFailure(CONNECTION_LOST) if it did not arrive, ContactLost if it may have.
        """
        try:
            return cls(
                await send(start, request, plain=plain), request.nonce, awaited=request.awaited
            )
        except RemoteFailure as failure:
            raise as_contact_lost(failure) from None

    async def next(self) -> Output | Record | None:
        """Return the next item, or None at the end. Raises ContactLost."""
        while not self._items:
            if self.ended is not None:
                return None
            await self._pull()
        return self._items.popleft()

    async def next_record(self) -> Record | None:
        """Return the next record; skip output before it."""
        while isinstance(item := await self.next(), Output):
            pass
        return item

    @property
    def noise(self) -> str:
        """The start of the output that is not part of the protocol, for messages."""
        return self._records.noise[:200].decode(errors="replace").strip()

    @property
    def last_lines(self) -> str:
        """The end of that output, in one line."""
        return last_lines(self._records.noise)

    async def _pull(self) -> None:
        if self._pieces is None:
            self._pieces = aiter(self._process)
        try:
            piece = await anext(self._pieces)
        except asyncio.CancelledError:
            self._pieces = None  # a cancelled iterator is finished; a new one continues
            raise
        except RemoteFailure as failure:
            raise as_contact_lost(failure) from None
        if isinstance(piece, RemoteExit):
            self.ended = piece
        elif piece.stream == "stdout":
            self._items.extend(self._records.feed(piece.data))
        else:
            self._records.complain(piece.data)

    def release(self) -> None:
        """Stop waiting for the started program; it continues on its own."""
        if self._awaited and self.ended is None:
            assert isinstance(self._process, InteractiveProcess)
            self._process.write_stdin(b"", end=True)

    async def finish(self) -> None:
        """Close the channel once the machine has, or soon, after all responses are read.

        Until then it counts as one of this login's sessions there.
        """
        with contextlib.suppress(TimeoutError, RemoteFailure):
            async with asyncio.timeout(OVER_SECONDS):
                while await self.next() is not None:
                    pass
        await self.close()

    async def close(self) -> None:
        """Close the channel; the started program continues."""
        await self._process.close()


def as_contact_lost(failure: RemoteFailure) -> RemoteFailure:
    """Map a lost command to ContactLost: its machine has the record."""
    return ContactLost(failure.message) if failure.code is ErrorCode.LOST else failure


async def send(start: Start, request: SpoolRequest, *, plain: bool = False) -> RemoteProcess:
    """Return the process of a request, run as the request's user.

    Raises RemoteFailure as `start`, and BECOME_FAILED.

    If a password may be prompted for, `start` must leave the standard input open.
    """
    become = request.become_request
    if become is None:
        return await start(request.line(plain=plain), request.stdin)
    ahead = request.line(plain=True).encode() + b"\n" + request.stdin
    if not become.asks_password:
        return await start(request.alone(become.line), ahead)
    try:
        process = await start(request.alone(become.line), b"")
        assert isinstance(process, InteractiveProcess)
        try:
            await become.enter(process)
        except BaseException:
            await process.close()
            raise
    except RemoteFailure as failure:
        if failure.code is not ErrorCode.LOST:
            raise
        # Nothing of the request was sent.
        raise RemoteFailure(ErrorCode.CONNECTION_LOST, failure.message) from None
    process.write_stdin(f"{become.mark}\n".encode() + ahead, end=not request.hold)
    return process
