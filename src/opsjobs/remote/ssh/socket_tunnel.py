"""Coalesce the writes of asyncssh to a connected socket.

asyncssh writes each packet by itself, and uvloop sends each write at once: starting a command with
its standard input would need a system call per packet, and would wake the machine's sshd as often.
So all writes of one turn of the event loop are joined into one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

AT_ONCE_BYTES = 128 * 1024
"""The size at which data is sent before the turn's end: files are sent in pieces of it."""


class SocketTunnel:
    """A connected socket in the form of a tunnel, through which asyncssh connects."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected

    async def create_connection(
        self, factory: Callable[[], Any], _host: str, _port: int
    ) -> tuple[Any, Any]:
        """Return the transport, and asyncssh's protocol over it. Raises OSError."""
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: _CoalescingProtocol(factory()), sock=self._connected
        )
        return transport, protocol.protocol


class _CoalescingProtocol(asyncio.Protocol):
    """The protocol between the loop's transport and asyncssh, with a coalescing transport."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        # Received data is passed on directly.
        self.data_received = protocol.data_received  # type: ignore[method-assign]  # an instance's
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]  # likewise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.protocol.connection_made(_CoalescingTransport(cast(asyncio.Transport, transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)


class _CoalescingTransport:
    """The part of a transport that asyncssh uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def write(self, data: bytes) -> None:
        """Send the data together with the other writes of this turn of the loop."""
        if not self._pending:
            self._loop.call_soon(self._send)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= AT_ONCE_BYTES:
            self._send()

    def _send(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if pending and not self._transport.is_closing():
            self._transport.write(b"".join(pending) if len(pending) > 1 else pending[0])

    def close(self) -> None:
        """Send the remaining data, and close."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._pending.clear()
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the information of the loop's transport about its socket."""
        return self._transport.get_extra_info(name, default)
