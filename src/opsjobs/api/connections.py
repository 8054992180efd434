"""HTTP connections of one process: deadlines, an immediate drop, limits on their number.

Connections are limited in total and per address. If there are too many, this module selects the one
to drop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from opsjobs.model.addresses import origin
from opsjobs.telemetry.logs import log

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
DROP = "opsjobs.drop"
HEADER_SECONDS = 10.0
"""Deadline for the last header of a request.

It counts from the connection, or from the end of the previous response.
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
        if 0 < unsent < self._unsent:  # the peer is still reading the previous response
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


CONNECTIONS_MAX = 20_000
"""Maximum number of connections of one process, however many descriptors it may open."""
DESCRIPTORS_KEPT = 128
"""Descriptors reserved for everything else: PostgreSQL, Redis, tested targets, files."""
BACKLOG_MAX = 1_024
WARNING_SECONDS = 1.0

Drop = Callable[[], None]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def backlog_of(descriptors: int) -> int:
    """Return the length of the accept backlog.

    The event loop accepts as many connections in one go, before any of them is counted.
    """
    return max(16, min(BACKLOG_MAX, descriptors // 4))


def most_of(descriptors: int) -> int:
    """Return the maximum number of open connections for this descriptor limit of a process."""
    return max(16, min(CONNECTIONS_MAX, descriptors - DESCRIPTORS_KEPT - backlog_of(descriptors)))


@dataclass(eq=False)
class ConnectionSlot:
    """One open connection. `drop` closes it at once."""

    drop: Drop
    origin: str
    shared: bool
    left: bool = False


@dataclass
class _Origin:
    open: int = 0
    waiting: dict[ConnectionSlot, None] = field(default_factory=dict)


class ConnectionLimits:
    """Connection limiter that drops the connection idle longest to make room for a new one.

    A connection whose request is being served is never dropped. `per_address`: the limit per IPv4
    address or IPv6 /64; 0: no limit. It does not apply to loopback and `trusted` proxies, which
    connect for many clients.
    """

    def __init__(
        self,
        *,
        most: int = CONNECTIONS_MAX,
        per_address: int = 0,
        trusted: Sequence[Network] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._per_address = per_address
        self._trusted = tuple(trusted)
        self._now = now
        self._open = 0
        self._waiting: dict[ConnectionSlot, None] = {}
        self._origins: defaultdict[str, _Origin] = defaultdict(_Origin)
        self._dropped = 0
        self._warned_at = float("-inf")

    def enter(self, address: str | None, drop: Drop) -> ConnectionSlot | None:
        """Count a new connection, which waits for its first request.

        Return None if there was no room and it was dropped.
        """
        place = ConnectionSlot(drop, origin(address), self._is_shared(address))
        here = self._origins[place.origin]
        if self._per_address and not place.shared and here.open >= self._per_address:
            room = self._make_room(here.waiting)
        else:
            room = self._open < self._most or self._make_room(self._waiting)
        if not room:
            self._forget_if_empty(place.origin)
            self._warn(place.origin)
            drop()
            return None
        self._open += 1
        self._origins[place.origin].open += 1
        self.waits(place)
        return place

    def waits(self, place: ConnectionSlot) -> None:
        """Mark the connection as waiting for a request from now on."""
        if not place.left:
            self._waiting[place] = None
            self._origins[place.origin].waiting[place] = None

    def serves(self, place: ConnectionSlot) -> None:
        """Mark the connection as serving a request."""
        self._waiting.pop(place, None)
        self._origins[place.origin].waiting.pop(place, None)

    def leave(self, place: ConnectionSlot) -> None:
        """Stop counting the connection."""
        if place.left:
            return
        self.serves(place)
        place.left = True
        self._open -= 1
        self._origins[place.origin].open -= 1
        self._forget_if_empty(place.origin)

    def _make_room(self, among: dict[ConnectionSlot, None]) -> bool:
        oldest = next(iter(among), None)
        if oldest is None:
            return False
        self.leave(oldest)
        self._warn(oldest.origin)
        oldest.drop()
        return True

    def _warn(self, whose: str) -> None:
        self._dropped += 1
        now = self._now()
        if now >= self._warned_at + WARNING_SECONDS:
            log.warning(
                "connections_dropped",
                count=self._dropped,
                address=whose,
                open=self._open,
                most=self._most,
            )
            self._dropped, self._warned_at = 0, now

    def _forget_if_empty(self, where: str) -> None:
        if not self._origins[where].open:
            del self._origins[where]

    def _is_shared(self, address: str | None) -> bool:
        try:
            found = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return True  # a Unix socket
        found = getattr(found, "ipv4_mapped", None) or found
        return found.is_loopback or any(
            found in network for network in self._trusted if network.version == found.version
        )
