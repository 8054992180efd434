"""A run's connections to its machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from opsjobs import failpoints
from opsjobs.clock import Clock
from opsjobs.engine.runs.outage import wait_out
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Session, Sessions

Renew = Callable[[Endpoint], Awaitable[Endpoint]]

FRESH_SECONDS = 60.0
"""The logins of a claim are refreshed if they are older than this."""


class RunConnection:
    """One session at a time, opened when it is needed, and again after contact was lost."""

    def __init__(
        self,
        sessions: Sessions,
        endpoint: Endpoint,
        clock: Clock,
        *,
        insist: bool = False,
        renew: Renew | None = None,
        stale: bool = False,
    ) -> None:
        """Prepare; nothing is opened yet.

        `insist`: something of the run may be on the machine already, so a circuit that is open for
        lack of contact does not count. `renew` returns the endpoint with its current logins, for
        every session but the first; for that one, too, if it is `stale`.
        """
        self.endpoint = replace(endpoint, insist=insist)
        self._renew = renew
        self._stale = stale
        self._sessions = sessions
        self._clock = clock
        self._created_at = clock.monotonic()
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def session(self) -> Session:
        """Return the session, opened if there is none. Raises RemoteFailure.

        Connecting may write to the database (an accepted host key); an outage is waited out.
        """
        if self._session is None:
            async with failpoints.at("session"):
                self._session = await wait_out(self._connect, self._clock)
            self.endpoint, self._stale = replace(self.endpoint, insist=True), True
        return self._session

    async def _connect(self) -> Session:
        if self._stale and self._renew is not None:
            self.endpoint = await self._renew(self.endpoint)
        return await self._stack.enter_async_context(self._sessions.session(self.endpoint))

    def take_login_times(self) -> tuple[datetime, datetime] | None:
        """Return start and end of the login, if this run had to wait for it; once only."""
        found = self._session.login_times if self._session is not None else None
        if found is None or found.ended < self._created_at:
            return None
        now, here = self._clock.now(), self._clock.monotonic()
        self._created_at = here  # reported once
        return now - timedelta(seconds=here - found.began), now - timedelta(
            seconds=here - found.ended
        )

    async def drop(self) -> None:
        """Drop the session: the next one may use another connection."""
        self._session = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drop()


class RunConnections:
    """The connections of one run to its machine: one, unless its branches work in parallel."""

    def __init__(
        self,
        sessions: Sessions,
        endpoint: Endpoint | None,
        clock: Clock,
        renew: Renew | None = None,
    ) -> None:
        self._renew = renew
        self._created_at = clock.monotonic()
        self._sessions = sessions
        self._endpoint = endpoint
        self._clock = clock
        self._idle: list[RunConnection] = []

    def acquire(self, *, insist: bool = False) -> RunConnection:
        """Return an idle connection for exclusive use; `release` it afterwards.

        `insist` as in RunConnection.
        """
        if self._idle:
            return self._idle.pop()
        assert self._endpoint is not None, "a target that was removed is seen to before"
        stale = self._clock.monotonic() - self._created_at > FRESH_SECONDS
        return RunConnection(
            self._sessions,
            self._endpoint,
            self._clock,
            insist=insist,
            renew=self._renew,
            stale=stale,
        )

    def release(self, connection: RunConnection) -> None:
        """Return a connection for use by another branch."""
        self._idle.append(connection)

    async def close(self) -> None:
        """Close all sessions."""
        while self._idle:
            await self._idle.pop().drop()
