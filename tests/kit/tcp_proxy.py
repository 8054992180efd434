"""A TCP proxy with faults on request: delay, rate, stall, reset, black hole, half-close, cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

GREETING_BYTES = 512
HANDSHAKE_BYTES = 2000
"""About the number of bytes that an OpenSSH server has sent when a login ends."""
STALL_LOOK_SECONDS = 0.02


@dataclass(slots=True)
class Faults:
    """The faults of the proxy; they may be changed while connections are open."""

    delay_seconds: float = 0.0
    bytes_per_second: float | None = None
    stall: bool = False
    """Hold all bytes back until it is False again, like a network outage: no byte is lost."""
    black_hole: bool = False
    """Read everything and pass nothing on; connections stay open."""
    silence: bytes | None = None
    """Pass nothing on over connections, open or new, whose client's first bytes contain these."""
    refuse: bool = False
    """Reset every new connection at once, as sshd does beyond MaxStartups."""
    cut_after_bytes: int | None = None
    """Reset a connection after so many bytes from the server."""
    cut: Cut | None = None
    """Pass on exactly so many more bytes, then break that connection."""


@dataclass(slots=True)
class Cut:
    """The place where a connection breaks.

    It is after `left_bytes` more from the client, or with `answers` from the server.
    """

    left_bytes: int
    answers: bool = False

    def passes(self, data: bytes, *, answer: bool) -> bytes:
        """Return the part of these bytes that still passes."""
        if answer is not self.answers:
            return data
        passed = data[: self.left_bytes]
        self.left_bytes -= len(data)
        return passed

    @property
    def due(self) -> bool:
        """True if a byte was held back."""
        return self.left_bytes < 0


@dataclass(slots=True)
class Proxy:
    """A running proxy."""

    host: str
    port: int
    faults: Faults
    connections: int = 0
    """Number of accepted connections so far."""
    peak: int = 0
    """Highest number of open connections at a time."""
    handshaking: int = 0
    """Open connections over which the server has sent fewer bytes than an SSH handshake takes."""
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _silenced: set[asyncio.StreamWriter] = field(default_factory=set)
    _servers: set[asyncio.StreamWriter] = field(default_factory=set)
    _greetings: dict[asyncio.StreamWriter, bytes] = field(default_factory=dict)
    """The first bytes of each open connection's client, by both of its sides."""

    def reset_all(self) -> None:
        """Break every open connection with a RST, on both sides."""
        for writer in [*self._open, *self._servers]:
            _reset(writer)

    def silence_all(self, of: bytes = b"") -> int:
        """Pass nothing on over open connections whose first bytes contain these.

        Returns their number. They stay open, and new ones work.
        """
        self._silenced |= {
            side for side in self._open | self._servers if of in self._greetings.get(side, b"")
        }
        return len(self._silenced & self._open)

    def _silent(self, *sides: asyncio.StreamWriter) -> bool:
        silence = self.faults.silence
        if silence is not None and silence in self._greetings.get(sides[0], b""):
            self._silenced |= {*sides}
        return sides[0] in self._silenced

    def half_close_all(self) -> None:
        """Signal the end of the server's data to the clients, which may continue to send."""
        for writer in self._open:
            if writer.can_write_eof():
                writer.write_eof()

    def drop_servers(self) -> None:
        """Break the connections to the server only.

        The clients' data goes nowhere, as after a power cut.
        """
        self.faults.black_hole = True
        for writer in self._servers:
            _reset(writer)


@asynccontextmanager
async def proxy(
    host: str, port: int, faults: Faults | None = None, *, listen: str = "127.0.0.1"
) -> AsyncIterator[Proxy]:
    """Run a proxy on loopback in front of host:port until the block ends.

    A `host` with a slash is the folder of a Unix socket.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(
                asyncio.CancelledError
            ):  # by the end of the block; asyncio would report it as an error
                await _serve(running, host, port, reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, listen, 0)
    running = Proxy(listen, server.sockets[0].getsockname()[1], faults or Faults())
    try:
        yield running
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _serve(
    running: Proxy, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    running.connections += 1
    if running.faults.refuse:
        _reset(writer)
        return
    running._open.add(writer)
    running.peak = max(running.peak, len(running._open))
    try:
        unix = f"{host}/.s.PGSQL.{port}" if "/" in host else None
        back, forth = await (
            asyncio.open_unix_connection(unix) if unix else asyncio.open_connection(host, port)
        )
    except OSError:  # nothing listens there: the client sees the same as without the proxy
        running._open.discard(writer)
        _reset(writer)
        return
    running._servers.add(forth)
    try:
        pumps = [
            _pump(running, reader, forth, writer),
            _pump(running, back, writer, forth, counted=True),
        ]
        await asyncio.gather(*pumps, return_exceptions=True)
    finally:
        running._open.discard(writer)
        running._servers.discard(forth)
        running._silenced -= {writer, forth}
        for side in (writer, forth):
            running._greetings.pop(side, None)
        writer.close()
        forth.close()


async def _pump(
    running: Proxy,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    opposite: asyncio.StreamWriter,
    *,
    counted: bool = False,
) -> None:
    passed_bytes = 0
    running.handshaking += counted
    try:
        while data := await reader.read(65_536):
            if (
                not counted
                and len(greeting := running._greetings.get(writer, b"")) < GREETING_BYTES
            ):
                running._greetings[writer] = running._greetings[opposite] = (greeting + data)[
                    :GREETING_BYTES
                ]
            while running.faults.stall:
                await asyncio.sleep(STALL_LOOK_SECONDS)
            faults = running.faults
            if faults.delay_seconds:
                await asyncio.sleep(faults.delay_seconds)
            if faults.bytes_per_second:
                await asyncio.sleep(len(data) / faults.bytes_per_second)
            if faults.black_hole or running._silent(writer, opposite):
                continue
            if counted and passed_bytes <= HANDSHAKE_BYTES < passed_bytes + len(data):
                running.handshaking -= 1
            passed_bytes += len(data)
            if (
                counted
                and faults.cut_after_bytes is not None
                and passed_bytes > faults.cut_after_bytes
            ):
                _reset(writer)
                return
            cut = faults.cut
            writer.write(data if cut is None else cut.passes(data, answer=counted))
            await writer.drain()
            if cut is not None and cut.due:
                await _break(running, cut, writer, opposite)
                return
    finally:
        # A side that has ended or broken ends the other one, too, unless the fault is silence.
        if not running.faults.black_hole and writer not in running._silenced:
            writer.close()


async def _break(
    running: Proxy, cut: Cut, writer: asyncio.StreamWriter, opposite: asyncio.StreamWriter
) -> None:
    """Break this connection on both sides; the bytes that were passed on arrive before."""
    if running.faults.cut is cut:
        running.faults.cut = None
    # a reset would overtake bytes that the receiver has not read yet
    await asyncio.sleep(STALL_LOOK_SECONDS)
    for side in (writer, opposite):
        _reset(side)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # closed already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
