"""Dispatch to the transport of each target, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from opsjobs.model.target import Endpoint, Transport
from opsjobs.remote.session import HostKey, Session, Sessions, SessionStep


class Transports:
    """Sessions for every transport, chosen by the target."""

    def __init__(self, sessions: Mapping[Transport, Sessions]) -> None:
        self._sessions = dict(sessions)

    def session(self, endpoint: Endpoint) -> AbstractAsyncContextManager[Session]:
        """Yield a session to the machine. Raises RemoteFailure."""
        return self._sessions[endpoint.target.transport].session(endpoint)

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Connect afresh and time each step."""
        return await self._sessions[endpoint.target.transport].test(endpoint)

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the host keys that the host shows now. Raises RemoteFailure."""
        return await self._sessions[endpoint.target.transport].scan_host_keys(endpoint)

    async def close(self) -> None:
        """Close every connection of every transport."""
        for sessions in self._sessions.values():
            await sessions.close()
