"""A run's way to its machine."""

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
"""So long after the claim the logins that it brought are taken as they are."""


class RunConnection:
    """One session at a time, opened when it is needed, and opened again after contact was lost."""

    def __init__(
        self,
        sessions: Sessions,
        endpoint: Endpoint,
        clock: Clock,
        *,
        insist: bool = False,
        renew: Renew | None = None,
        old: bool = False,
    ) -> None:
        """`insist`: something of the run may be on the machine already, so an open circuit for want of contact does not count.

        `renew`: gives the way with its logins as they are by now, for every session but the first; for that one, too, if it is `old`.
        """
        self.endpoint = replace(endpoint, insist=insist)
        self._renew = renew
        self._old = old
        self._sessions = sessions
        self._clock = clock
        self._made = clock.monotonic()
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def session(self) -> Session:
        """The session. Raises RemoteFailure where none can be had.

        To connect may take the store (an accepted host key is written there): while it is away, the session is waited for.
        """
        if self._session is None:
            async with failpoints.at("session"):
                self._session = await wait_out(self._connect, self._clock)
            self.endpoint, self._old = replace(self.endpoint, insist=True), True
        return self._session

    async def _connect(self) -> Session:
        if self._old and self._renew is not None:
            self.endpoint = await self._renew(self.endpoint)
        return await self._stack.enter_async_context(self._sessions.session(self.endpoint))

    def logged_in(self) -> tuple[datetime, datetime] | None:
        """From when until when its machine let us in, where that was waited for here."""
        found = self._session.logged_in if self._session is not None else None
        if found is None or found.ended < self._made:
            return None
        now, here = self._clock.now(), self._clock.monotonic()
        self._made = here  # waited for once
        return now - timedelta(seconds=here - found.began), now - timedelta(seconds=here - found.ended)

    async def drop(self) -> None:
        """Let go of the session: the next one may go over another connection."""
        self._session = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.drop()


class RunConnections:
    """The ways of one run to its machine: one, unless branches of it are at work side by side."""

    def __init__(self, sessions: Sessions, endpoint: Endpoint | None, clock: Clock, renew: Renew | None = None) -> None:
        self._renew = renew
        self._made = clock.monotonic()
        self._sessions = sessions
        self._endpoint = endpoint
        self._clock = clock
        self._idle: list[RunConnection] = []

    def take(self, *, insist: bool = False) -> RunConnection:
        """A way that nobody else goes just now; to be given back. `insist`: as a Link says."""
        if self._idle:
            return self._idle.pop()
        assert self._endpoint is not None, "a target that was removed is seen to before"
        old = self._clock.monotonic() - self._made > FRESH_SECONDS
        return RunConnection(self._sessions, self._endpoint, self._clock, insist=insist, renew=self._renew, old=old)

    def give(self, link: RunConnection) -> None:
        """Somebody else may go it."""
        self._idle.append(link)

    async def close(self) -> None:
        """Let go of every session."""
        while self._idle:
            await self._idle.pop().drop()
