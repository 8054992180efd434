"""Join all writes of one turn of the event loop to a connection into one.

asyncssh writes each packet by itself, and uvloop sends each write at once: starting a command with
its standard input would need a system call per packet, and would wake the machine's sshd as often.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

AT_ONCE_BYTES = 128 * 1024
"""This much is sent before the turn's end: files come in pieces of it."""


class Socket:
    """A connected socket in the form of a tunnel: asyncssh asks it to make the connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected

    async def create_connection(
        self, factory: Callable[[], Any], _host: str, _port: int
    ) -> tuple[Any, Any]:
        """Return the transport, and asyncssh's protocol over it. Raises OSError."""
        gathered, protocol = await asyncio.get_running_loop().create_connection(
            lambda: _Gathered(factory()), sock=self._connected
        )
        return gathered, protocol.protocol


class _Gathered(asyncio.Protocol):
    """The protocol between the loop's transport and asyncssh, which gets a joining transport."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign]  # what comes in goes straight through
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]  # likewise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.protocol.connection_made(_Gathering(cast(asyncio.Transport, transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


class _Gathering:
    """The part of a transport that asyncssh uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        """Send the data together with the other writes of this turn of the loop."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= AT_ONCE_BYTES:
            self._send()

    def _send(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held) if len(held) > 1 else held[0])

    def close(self) -> None:
        """Send what is left, and close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held.clear()
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the loop's transport knows of its socket."""
        return self._transport.get_extra_info(name, default)
