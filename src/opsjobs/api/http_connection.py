"""HTTP connection of uvicorn with a deadline for request headers and an immediate drop.

A drop discards unsent bytes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from opsjobs.api.connection_limits import ConnectionLimits, ConnectionSlot

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
DROP = "opsjobs.drop"
HEADER_SECONDS = 10.0
"""Deadline for the last header of a request.

It counts from the connection, or from the end of the previous answer.
"""


class HttpConnection(H11Protocol):
    """HTTP connection that can be dropped at once and has a deadline for request headers.

    The application gets `scope["extensions"]["opsjobs.drop"]`, which ends the connection without
    flushing unsent bytes. ASGI has no such operation: an ordinary close waits forever for a peer
    that does not read.

    A connection on which no request is served is dropped after `header_seconds`, however many
    bytes arrive: uvicorn times out only connections on which nothing arrives at all, and not
    before the first request.
    """

    def __init__(
        self,
        *args: Any,
        limits: ConnectionLimits | None = None,
        header_seconds: float = HEADER_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits or ConnectionLimits()
        self._header_seconds = header_seconds
        self._place: ConnectionSlot | None = None
        self._due: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, start its deadline, and remember how to drop it."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self.app = _droppable(self.app, transport)
        self._place = self._limits.enter(self.client[0] if self.client else None, transport.abort)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._stop_watching()
        if self._place is not None:
            self._limits.leave(self._place)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process received data; the last header of a request stops the deadline."""
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        """Start the deadline of the next request."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            if self._place is not None:
                self._limits.serves(self._place)
            self._stop_watching()
        elif self._due is None and self._place is not None:
            self._limits.waits(self._place)
            self._unsent = self.transport.get_write_buffer_size()
            self._due = self.loop.call_later(self._header_seconds, self._too_slow)

    def _stop_watching(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _too_slow(self) -> None:
        self._due = None
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # the peer is still reading the previous answer
            self._watch()
            return
        self.transport.abort()


def _droppable(app: Any, transport: asyncio.Transport) -> App:
    async def droppable(scope: Scope, receive: Any, send: Any) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), DROP: drop}
        await app(scope, receive, send)

    def drop() -> None:
        # With a linger of 0 seconds the kernel also discards unsent bytes, and the peer sees a
        # reset instead of an end of file.
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        transport.abort()

    return droppable
