"""Sessions whose transport is loaded when the first target needs it.

A process without Windows targets does not pay for the libraries of WinRM, in time or memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Protocol, cast

from opsjobs.model.target import Endpoint
from opsjobs.remote.session import HostKey, Session, Sessions, SessionStep


class ConnectionCounts(Protocol):
    """The numbers of connections of a pool, for metrics."""

    @property
    def connections(self) -> int:
        """Open connections."""

    @property
    def idle_connections(self) -> int:
        """Open connections that no run uses."""

    @property
    def handshakes(self) -> int:
        """Logins in progress."""

    @property
    def handshakes_waiting(self) -> int:
        """Logins that wait for a limit."""


class LateSessions:
    """The Sessions that `build_pool` of a module returns, built at the first use."""

    def __init__(self, module: str, options: Mapping[str, Any]) -> None:
        self._module = module
        self._options = options
        self._building: asyncio.Task[Sessions] | None = None

    @property
    def built(self) -> list[ConnectionCounts]:
        """The pool, once it is built."""
        task = self._building
        is_built = task is not None and task.done() and task.exception() is None
        return [cast(ConnectionCounts, task.result())] if task is not None and is_built else []

    async def _sessions(self) -> Sessions:
        if self._building is None:
            self._building = asyncio.create_task(self._build())
        return await asyncio.shield(self._building)

    async def _build(self) -> Sessions:
        module = await asyncio.to_thread(import_module, self._module)
        built: Sessions = module.build_pool(**self._options)
        return built

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Yield a session to the machine. Raises RemoteFailure."""
        async with (await self._sessions()).session(endpoint) as session:
            yield session

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Open a new connection and time each step."""
        return await (await self._sessions()).test(endpoint)

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return what identifies the machine. Raises RemoteFailure."""
        return await (await self._sessions()).scan_host_keys(endpoint)

    async def close(self) -> None:
        """Close every connection, if there ever was one."""
        if self._building is not None:
            await (await self._building).close()
