"""A TCP proxy that misbehaves on request: delay, rate, reset, black hole, half-close, cut after so many bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HANDSHAKE_BYTES = 2000
"""What an OpenSSH server has sent by the end of a login, about."""


@dataclass(slots=True)
class Faults:
    """What the proxy does to the bytes; may be changed while connections are open."""

    delay_seconds: float = 0.0
    bytes_per_second: float | None = None
    black_hole: bool = False
    """Take everything and pass nothing on; connections stay open."""
    refuse: bool = False
    """Reset every new connection at once, as sshd does beyond MaxStartups."""
    cut_after_bytes: int | None = None
    """Reset a connection once so many bytes came back from the server."""


@dataclass(slots=True)
class Proxy:
    """A running proxy."""

    host: str
    port: int
    faults: Faults
    connections: int = 0
    """Connections that were accepted so far."""
    peak: int = 0
    """The most that were open at a time."""
    handshaking: int = 0
    """Open connections over which the server has sent less than an SSH handshake takes."""
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _servers: set[asyncio.StreamWriter] = field(default_factory=set)

    def reset_all(self) -> None:
        """Break every open connection with a RST, on both sides."""
        for writer in [*self._open, *self._servers]:
            _reset(writer)

    def half_close_all(self) -> None:
        """Tell the clients that the server will say no more, and let them go on talking."""
        for writer in self._open:
            if writer.can_write_eof():
                writer.write_eof()


@asynccontextmanager
async def proxy(host: str, port: int, faults: Faults | None = None) -> AsyncIterator[Proxy]:
    """A proxy on loopback before host:port, for the length of the block."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _serve(running, host, port, reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running = Proxy("127.0.0.1", server.sockets[0].getsockname()[1], faults or Faults())
    try:
        yield running
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _serve(running: Proxy, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    running.connections += 1
    if running.faults.refuse:
        _reset(writer)
        return
    running._open.add(writer)
    running.peak = max(running.peak, len(running._open))
    back, forth = await asyncio.open_connection(host, port)
    running._servers.add(forth)
    try:
        pumps = [_pump(running, reader, forth), _pump(running, back, writer, counted=True)]
        await asyncio.gather(*pumps, return_exceptions=True)
    finally:
        running._open.discard(writer)
        running._servers.discard(forth)
        writer.close()
        forth.close()


async def _pump(running: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False) -> None:
    passed_bytes = 0
    running.handshaking += counted
    while data := await reader.read(65_536):
        faults = running.faults
        if faults.delay_seconds:
            await asyncio.sleep(faults.delay_seconds)
        if faults.bytes_per_second:
            await asyncio.sleep(len(data) / faults.bytes_per_second)
        if faults.black_hole:
            continue
        if counted and passed_bytes <= HANDSHAKE_BYTES < passed_bytes + len(data):
            running.handshaking -= 1
        passed_bytes += len(data)
        if counted and faults.cut_after_bytes is not None and passed_bytes > faults.cut_after_bytes:
            _reset(writer)
            return
        writer.write(data)
        await writer.drain()
    if not running.faults.black_hole:
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
