"""One request to a machine, and its response: records among arbitrary bytes.

The records of an end, a cancel and a look are parsed here, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import SpoolIdentity
from opsjobs.remote.output_buffer import PIECE_BYTES
from opsjobs.remote.session import (
    CancelOutcome,
    Cause,
    ContactLost,
    Output,
    RemoteExit,
    RemoteProcess,
    Stream,
)
from opsjobs.remote.spool.become import InteractiveProcess, last_lines
from opsjobs.remote.spool.script import SpoolRequest

Start = Callable[[str, bytes], Awaitable[RemoteProcess]]
"""Start a command line with this standard input; raises RemoteFailure as Session.start."""
OVER_SECONDS = 1.0


class SpoolLogin:
    """The detected properties of a login's shell, valid as long as its connection."""

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self.awaits = False
        """True if a plain shell keeps here-documents in memory: no file may hold input."""
        self.stores: dict[str | None, SpoolIdentity] = {}
        """The last seen spool of each become user. Only a hint: a start checks again."""


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


RECORD_BYTES = 4096
"""The maximum length of a record, and of the login scripts' output that is kept."""

Record = tuple[str, ...]
"""A record without its nonce."""

_CAUSES: tuple[Cause, ...] = (
    "timeout",
    "output_limit",
    "cancel",
    "disk_full",
    "interpreter",
    "folder",
    "storage",
)
_NAMES = {int(number): number.name.removeprefix("SIG") for number in signal.Signals}
_NOTHING = "-"
_STREAMS: dict[str, Stream] = {"1": "stdout", "2": "stderr"}


class RecordParser:
    """Split one stream of a channel into records, and the output between them.

    Only a program that was given the nonce can write a record. `stream` is the stream for output
    that no record assigns to a stream (None: discard it).
    """

    def __init__(self, nonce: str, stream: Stream | None = None) -> None:
        self._mark = nonce.encode() + b" "
        self._held = b""
        self._base = stream
        self._stream = stream
        self.noise = b""
        """Output before the first record, by login scripts or by a shell that reports errors."""

    def feed(self, data: bytes) -> Iterator[Output | Record]:
        """Yield records and output, in order; hold back only a possible start of a record."""
        data = self._held + data
        self._held = b""
        start = 0
        while (at := data.find(self._mark, start)) >= 0:
            end = data.find(b"\n", at)
            if end < 0 and len(data) - at < RECORD_BYTES:
                break
            yield from self._emit_output(data[start:at])
            yield self._record(data[at + len(self._mark) : end])
            start = end + 1
        keep = len(data) - at if at >= 0 else self._beginning(data[start:])
        self._held = data[len(data) - keep :]
        yield from self._emit_output(data[start : len(data) - keep])

    def rest(self) -> Iterator[Output]:
        """Yield the bytes that were held back when the stream ended."""
        held, self._held = self._held, b""
        if held:
            yield from self._emit_output(held)

    def complain(self, data: bytes) -> None:
        """Keep output of another stream, in case there is no better explanation."""
        if self._stream is None:
            self.noise = (self.noise + data)[:RECORD_BYTES]

    def _beginning(self, data: bytes) -> int:
        """Return how many of the last bytes may be the start of a record."""
        tail = data[1 - len(self._mark) :]
        at = tail.find(self._mark[:1])
        while at >= 0 and not self._mark.startswith(tail[at:]):
            at = tail.find(self._mark[:1], at + 1)
        return len(tail) - at if at >= 0 else 0

    def _record(self, line: bytes) -> Record:
        word = tuple(line.decode(errors="replace").split())
        self._stream = _STREAMS.get(word[0], self._base) if word else self._base
        return word

    def _emit_output(self, data: bytes) -> Iterator[Output]:
        if self._stream is None:
            self.complain(data)
            return
        for at in range(0, len(data), PIECE_BYTES):
            yield Output(self._stream, data[at : at + PIECE_BYTES])


def parse_exit(status: str, cause: str) -> RemoteExit:
    """Return the exit from `3` or `s15`, and one of the causes or `-`.

    Raises ValueError for anything else.
    """
    # If two writers had a cause at the same time, one overwrote the other: the rest of a longer
    # word may remain.
    why = next((known for known in _CAUSES if cause.startswith(known)), None)
    if status.startswith("s"):
        number = int(status[1:])
        return RemoteExit(None, _NAMES.get(number, str(number)), why)
    ended = RemoteExit(int(status), None, why)
    return replace(ended, code=None) if ended.never_started else ended


def parse_cancel(answer: Record) -> CancelOutcome:
    """Return the outcome in a cancel's response: the proof, and the exit if the run ended.

    An end without its words proves the end, and not its exit.
    """
    _, proof, *end = answer
    return CancelOutcome(
        CancelProof(proof), parse_exit(*end) if len(end) == 2 and end[0] != _NOTHING else None
    )


def parse_look(answer: Record) -> CancelOutcome | None:
    """Return the outcome in a look's response: None while the run is running or starting."""
    _, state, *end = answer
    match state:
        case "L" | "E":
            return None
        case "N" | "V":
            return CancelOutcome(CancelProof.NEVER_STARTED)
        case "D" if len(end) == 2:
            return CancelOutcome(CancelProof.ALREADY_FINISHED, parse_exit(*end))
        case _:
            return CancelOutcome(CancelProof.ALREADY_FINISHED)
