"""uvicorn's HTTP connection with one more ability: to be dropped at once, unsent bytes and all."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
DROP = "opsjobs.drop"


class Connection(H11Protocol):
    """Gives the application `scope["extensions"]["opsjobs.drop"]`: ends the connection without flushing what is unsent.

    ASGI knows no such word: an ordinary close waits for a peer that does not read, for ever.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember how to drop this transport."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self.app = _droppable(self.app, transport)


def _droppable(app: Any, transport: asyncio.Transport) -> App:
    async def droppable(scope: Scope, receive: Any, send: Any) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), DROP: drop}
        await app(scope, receive, send)

    def drop() -> None:
        # With a linger of 0 seconds the kernel, too, forgets what is unsent, and the peer sees a reset, not an end.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    return droppable
