"""All writes to a connection in one turn of the loop are sent in one piece, in order."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from opsjobs.remote.ssh.client import AT_ONCE_BYTES, SocketTunnel

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class PlainProtocol(asyncio.Protocol):
    """Replaces asyncssh's own protocol."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.heard = b""
        self.over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()


class RecordingSocket(socket.socket):
    """Records the data of each system call."""

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        self.__dict__.setdefault("sent", []).append(bytes(data))
        return super().send(data, flags)

    @property
    def pieces(self) -> list[bytes]:
        found: list[bytes] = self.__dict__.get("sent", [])
        return found


async def opened() -> tuple[PlainProtocol, RecordingSocket, socket.socket]:
    """Return a protocol over one end of a connection, that end, and the other one."""
    made, far = socket.socketpair()
    near = RecordingSocket(fileno=made.detach())
    near.setblocking(False)
    far.settimeout(60)
    _, protocol = await SocketTunnel(near).create_connection(PlainProtocol, "web-1", 22)
    assert isinstance(protocol, PlainProtocol)
    return protocol, near, far


async def test_what_one_turn_writes_is_one_piece() -> None:
    protocol, near, far = await opened()
    for part in (b"one ", b"two ", b"three"):
        protocol.transport.write(part)
    assert near.pieces == []
    await asyncio.sleep(0)
    protocol.transport.write(b"four")
    await asyncio.sleep(0)
    assert near.pieces == [b"one two three", b"four"]
    protocol.transport.close()
    await asyncio.wait_for(protocol.over.wait(), 60)
    assert far.recv(100) == b"one two threefour"
    far.close()


async def test_much_is_not_kept_until_the_end_of_the_turn() -> None:
    protocol, near, far = await opened()
    half = b"x" * (AT_ONCE_BYTES // 2)
    for part in (half, half, b"rest"):
        protocol.transport.write(part)
    assert near.pieces
    assert near.pieces[0] == half + half
    protocol.transport.abort()
    await asyncio.wait_for(protocol.over.wait(), 60)
    far.close()


async def test_a_close_comes_after_what_was_written_and_an_abort_does_not() -> None:
    for ending, said in (("close", b"last words"), ("abort", b"")):
        protocol, _, far = await opened()
        protocol.transport.write(b"last words")
        getattr(protocol.transport, ending)()
        await asyncio.wait_for(protocol.over.wait(), 60)
        assert far.recv(100) == said
        far.close()


async def test_what_comes_in_comes_through_and_the_end_is_told() -> None:
    protocol, _, far = await opened()
    far.send(b"hello")
    far.close()
    await asyncio.wait_for(protocol.over.wait(), 60)
    assert protocol.heard == b"hello"
