"""What one turn of the loop writes to a connection leaves in one piece.

asyncssh writes each packet by itself, and uvloop sends what it is given at once: a command that is started and given its standard
input would be a system call for each, and as many times that the machine's sshd is woken.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

AT_ONCE_BYTES = 128 * 1024
"""So much is not kept until the turn's end: files go in pieces of it."""


class Socket:
    """The way over a socket of ours, as asyncssh takes one: it asks it for the connection that it would make itself."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected

    async def create_connection(self, factory: Callable[[], Any], _host: str, _port: int) -> tuple[Any, Any]:
        """The transport, and asyncssh's protocol over it. Raises OSError."""
        gathered, protocol = await asyncio.get_running_loop().create_connection(
            lambda: _Gathered(factory()), sock=self._connected
        )
        return gathered, protocol.protocol


class _Gathered(asyncio.Protocol):
    """Between the loop's transport and asyncssh's protocol: that one is given a transport that gathers."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign]  # what comes in goes straight through
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]  # likewise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.protocol.connection_made(_Gathering(cast(asyncio.Transport, transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


class _Gathering:
    """As much of a transport as asyncssh uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        """Send it with what else this turn of the loop writes."""
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
        """What the loop's transport knows of its socket."""
        return self._transport.get_extra_info(name, default)
