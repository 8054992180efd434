"""A run's connections to its machine, and its files: reopened after a lost connection.

An outage of PostgreSQL is waited out, and a rotated login is refreshed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

from opsjobs import failpoints
from opsjobs.backoff import Backoff
from opsjobs.clock import Clock
from opsjobs.integrations.targets import Targets
from opsjobs.model.credential import Credential
from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.model.units import format_duration
from opsjobs.remote.disk import Disk
from opsjobs.remote.session import Session, Sessions
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.tracing import SpanKind

Renew = Callable[[Endpoint], Awaitable[Endpoint]]

# Pauses between tries while PostgreSQL or the machine is unavailable.
PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0

FRESH_SECONDS = 60.0
"""The logins of a claim are refreshed if they are older than this."""


class RunConnection:
    """One session at a time, opened on demand, and again after the connection was lost."""

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

        `insist`: ignore a circuit that opened because the machine was unreachable, as part of the
        run may already be there. `renew` returns the endpoint with its current logins. It is called
        before each attempt to connect but the first, and before that one, too, if `stale` is set:
        a login that was unavailable at the claim may be available by now.
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
                self._session = await self._open()
            self.endpoint = replace(self.endpoint, insist=True)
        return self._session

    async def _open(self) -> Session:
        """Open a session, and record in the trace how long its connection and login took."""
        began = time.monotonic()
        try:
            session = await wait_out(self._connect, self._clock)
        except RemoteFailure as failure:
            tracing.record("connect", began, kind=SpanKind.CLIENT, error=failure.code.value)
            raise
        login = session.login_times
        if login is not None and login.ended >= began:  # else the connection existed already
            tracing.record("connect", began, login.began, kind=SpanKind.CLIENT)
            tracing.record("auth", login.began, login.ended, kind=SpanKind.CLIENT)
        return session

    async def _connect(self) -> Session:
        if self._stale and self._renew is not None:
            self.endpoint = await self._renew(self.endpoint)
        self._stale = True
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
    """The connections of one run to its machine: one, unless its branches run in parallel."""

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


# Failures that may pass once the machine, the network or the database is available again.
_PASSING = (
    ErrorCode.CONNECTION_LOST,
    ErrorCode.CONNECT_TIMEOUT,
    ErrorCode.CONNECTION_REFUSED,
    ErrorCode.DNS,
    ErrorCode.CIRCUIT_OPEN,
)


class ResilientDisk:
    """The disk over a connection, reopened as needed.

    `window_seconds`: how long it may be unavailable; any progress in between restarts the time.
    """

    def __init__(
        self,
        connection: RunConnection,
        clock: Clock,
        window_seconds: float,
        note: Callable[[bool], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._window_seconds = window_seconds
        self._note = note
        self._stack = AsyncExitStack()
        self._disk: Disk | None = None
        self._lost_since: float | None = None
        self._backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)

    async def open(self) -> Disk:
        """Return the machine's disk, opened if it is not. Raises RemoteFailure."""
        if self._disk is None:
            session = await self._connection.session()
            self._disk = await self._stack.enter_async_context(session.disk())
        return self._disk

    def note_progress(self) -> None:
        """Reset the failure count: bytes were moved, so the machine is reachable."""
        self._lost_since = None
        self._backoff.reset()
        self._note(True)

    async def wait_before_retry(self, failure: RemoteFailure | Unavailable) -> None:
        """Pause before the next try; raise if a retry makes no sense.

        Raises the failure itself if it is permanent, and RemoteFailure(TRANSFER) if it lasted too
        long.
        """
        if isinstance(failure, RemoteFailure):
            if failure.code not in _PASSING:
                raise failure
            self._note(False)
            await self.close()
            await self._connection.drop()
        now = self._clock.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since > self._window_seconds:
            window = format_duration(self._window_seconds)
            message = f"the connection was lost for more than {window}: {failure}"
            raise RemoteFailure(ErrorCode.TRANSFER, message) from failure
        await self._clock.sleep(self._backoff.next())

    async def close(self) -> None:
        """Close the disk; the connection stays open, as it belongs to the caller."""
        self._disk = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


async def refresh_credentials(targets: Targets, endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with the current versions of its credentials.

    Logins are unchanged if there is no newer version, or the database is unavailable.
    """
    try:
        now = (await targets.endpoints([endpoint.target.id])).get(endpoint.target.id)
    except Unavailable:
        return endpoint
    if now is None:
        return endpoint
    logins = {hop.target.id: hop.credential for hop in (now, *now.jumps)}
    return replace(
        _hop(endpoint, logins), jumps=tuple(_hop(jump, logins) for jump in endpoint.jumps)
    )


def _hop(hop: Endpoint, logins: Mapping[str, Credential | None]) -> Endpoint:
    old, new = hop.credential, logins.get(hop.target.id)
    if old is None or new is None or old.fault is not None or new.fault is not None:
        return hop
    # A changed user name makes it a different login, which was not part of what was approved.
    same = (new.id, new.username) == (old.id, old.username)
    return replace(hop, credential=new) if same and new.version != old.version else hop


T = TypeVar("T")


async def wait_out(ask: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Return the result of `ask`; while it raises Unavailable, pause and call it again.

    There is no limit: without PostgreSQL a run cannot record anything either. Call it inside
    `StopSignal.interruptible()`, so that a request to stop ends the wait.
    """
    backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)
    while True:
        try:
            return await ask()
        except Unavailable as away:
            if backoff.is_first:
                log.warning("run_waits_for_database", reason=str(away))
        await clock.sleep(backoff.next())
