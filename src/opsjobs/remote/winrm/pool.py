"""WinRM sessions: a host for each target and login, with the shared circuit breaker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Endpoint
from opsjobs.model.winrm import WinrmOptions
from opsjobs.remote.circuit_breaker import Breaker
from opsjobs.remote.connection_steps import elapsed_ms, failed_steps, login_steps, try_shell
from opsjobs.remote.session import (
    Durable,
    HostKey,
    RemoteExit,
    Session,
    SessionStep,
    SpoolUnavailable,
)
from opsjobs.remote.winrm import ShellOwners
from opsjobs.remote.winrm.connect import ConnectPhases, WinrmConnector
from opsjobs.remote.winrm.connection import Connection
from opsjobs.remote.winrm.host import COMMANDS_MAX, IDLE_SECONDS, SHELL_IDLE_SECONDS, WinrmHost
from opsjobs.remote.winrm.session import WinrmSession

SWEEP_SECONDS = 15.0
CLOSE_SECONDS = 5.0
CONNECTS_MAX = 50
"""Concurrent connects of one process: a login costs the CPU of both sides."""

Key = tuple[object, ...]


class WinrmPool:
    """The Sessions of transport `winrm`."""

    def __init__(
        self,
        connector: WinrmConnector,
        clock: Clock | None = None,
        breaker: Breaker | None = None,
        owners: ShellOwners | None = None,
    ) -> None:
        self._owners = owners
        self._connector = connector
        self._clock = clock or SystemClock()
        self._breaker = breaker or Breaker(clock=self._clock)
        self._hosts: dict[Key, WinrmHost] = {}
        self._insisting: Counter[Key] = Counter()
        self._connects = asyncio.Semaphore(CONNECTS_MAX)
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        self.handshakes = 0
        """The number of connects in progress."""
        self.handshakes_waiting = 0

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return sum(host.connections for host in self._hosts.values())

    @property
    def idle_connections(self) -> int:
        """The number of open connections that no request uses."""
        return sum(host.idle_connections for host in self._hosts.values())

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Yield a session once the host has a place for its commands; connect if needed.

        A session that insists may be there to cancel a run: it waits for its place at its first
        start. Raises RemoteFailure.
        """
        if self._closed:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST, "This worker is stopping: nothing new is started."
            )
        key = _key(endpoint)
        host = self._host(key, endpoint)
        self._insisting[key] += endpoint.insist
        host.users += 1
        try:
            placed = not (endpoint.insist and host.places.locked())
            if placed:
                await host.places.acquire()
            try:
                async with host.connection() as connection:
                    times = connection.login_times
            except BaseException:
                if placed:
                    host.places.release()
                raise
            session = WinrmSession(host, times, _options(endpoint), placed=placed)
            try:
                yield session
            finally:
                await session.close()
        finally:
            self._insisting[key] -= endpoint.insist
            host.users -= 1
            host.idle_since = time.monotonic()

    def _host(self, key: Key, endpoint: Endpoint) -> WinrmHost:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = WinrmHost(
                endpoint.target.name,
                partial(self._connect, key, endpoint),
                min(endpoint.target.slots, COMMANDS_MAX),
                owners=self._owners,
            )
        return host

    async def _connect(self, key: Key, endpoint: Endpoint) -> Connection:
        endpoint = replace(endpoint, insist=self._insisting[key] > 0)
        async with self._breaker.attempt(endpoint, insist=endpoint.insist), self._turn():
            return await self._connector.connect(endpoint)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Limit the connects in progress, and count them."""
        self.handshakes_waiting += 1
        try:
            await self._connects.acquire()
        finally:
            self.handshakes_waiting -= 1
        self.handshakes += 1
        try:
            yield
        finally:
            self.handshakes -= 1
            self._connects.release()

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Open a new connection, ignoring the circuit; time each step.

        They are connect, auth, shell or psrp, durable and file.

        Ends with the first failed step. The outcome of the login closes or opens its circuit.
        """
        phases = ConnectPhases()
        try:
            connection = await self._connector.connect(endpoint, phases)
        except RemoteFailure as failure:
            await self._breaker.report(endpoint, failure)
            return failed_steps(phases.started, phases.connected, failure)
        await self._breaker.report(endpoint, None)
        connected, finished = phases.connected, phases.finished
        assert connected is not None, "it has connected"
        assert finished is not None, "it has logged in"
        steps = login_steps(phases.started, connected, finished)
        host = WinrmHost(endpoint.target.name, partial(self._connector.connect, endpoint))
        host.adopt(connection)
        options = _options(endpoint)
        session = WinrmSession(host, connection.login_times, options, placed=False)
        try:
            engine = "psrp" if options.engine == "psrp" else "shell"
            steps.append(await _limit(engine, _test_engine(session, options), needed=True))
            durable, runs = session.durable(), steps[-1].ok
            if runs and durable is not None:
                steps.append(await _limit("durable", _try_durable(durable)))
            if runs and options.configuration is None:
                steps.append(await _limit("file", _test_file(session)))
        finally:
            await session.close()
            await host.close(CLOSE_SECONDS)
        return steps

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the certificate that the host shows, in place of a host key.

        Raises RemoteFailure.
        """
        return await self._connector.scan(endpoint.target)

    async def _sweep(self) -> None:
        """Close connections and shells that have been idle for too long."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for key, host in [*self._hosts.items()]:
                host.close_idle(now - IDLE_SECONDS)
                host.delete_idle_shells(now - SHELL_IDLE_SECONDS)
                if host.empty:
                    del self._hosts[key]
                    self._insisting.pop(key, None)

    async def close(self) -> None:
        """Delete the kept shells and close every connection, in bounded time."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*(host.close(CLOSE_SECONDS) for host in self._hosts.values()))
        self._connector.close()
        await self._breaker.close()


def build_pool(
    *, breaker: Breaker | None = None, owners: ShellOwners | None = None, **options: Any
) -> WinrmPool:
    """Return a pool with a connector of these options."""
    return WinrmPool(WinrmConnector(**options), breaker=breaker, owners=owners)


def _key(endpoint: Endpoint) -> Key:
    """Return the key of a host: sessions with equal keys share connections and shells."""
    target, credential = endpoint.target, endpoint.credential
    login = (
        (credential.id, credential.version, credential.username, credential.fault)
        if credential is not None
        else None
    )
    options = target.winrm.model_dump_json() if target.winrm is not None else ""
    return (target.id, target.host, target.port, target.slots, options, login)


STEP_SECONDS = 120.0
"""The time for one step of the test of a target."""


async def _limit(
    name: str, step: Coroutine[Any, Any, SessionStep], *, needed: bool = False
) -> SessionStep:
    """Return the step, or that the host did not answer in time."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(STEP_SECONDS):
            return await step
    except TimeoutError:
        late = f"It did not answer within {STEP_SECONDS:.0f} s."
        return SessionStep(name, False, elapsed_ms(started), late, needed=needed)


async def _try_durable(durable: Durable) -> SessionStep:
    """Test whether the host keeps durable runs."""
    started = time.monotonic()
    try:
        await durable.identity()
    except RemoteFailure as failure:
        return SessionStep("durable", False, elapsed_ms(started), failure.message, needed=False)
    except SpoolUnavailable as reason:
        return SessionStep("durable", False, elapsed_ms(started), str(reason), needed=False)
    return SessionStep("durable", True, elapsed_ms(started), needed=False)


async def _test_engine(session: WinrmSession, options: WinrmOptions) -> SessionStep:
    """Test whether the engine runs a command.

    A command that every session configuration allows has no known output.
    """
    if options.configuration is None:
        step = await try_shell(session.start, exit_code=0)
        return replace(step, name="psrp") if options.engine == "psrp" else step
    started, end, error = time.monotonic(), RemoteExit(None), None
    try:
        async for piece in await session.start("Get-Command"):
            end = piece if isinstance(piece, RemoteExit) else end
        if end.code != 0:
            error = f"`Get-Command` ended with {end.code}"
    except RemoteFailure as failure:
        error = failure.message
    return SessionStep("psrp", error is None, elapsed_ms(started), error)


def _options(endpoint: Endpoint) -> WinrmOptions:
    assert endpoint.target.winrm is not None, "every WinRM target has its options"
    return endpoint.target.winrm


async def _test_file(session: WinrmSession) -> SessionStep:
    """Test whether the host serves files."""
    started = time.monotonic()
    try:
        async with session.disk() as disk:
            await disk.look(".")
    except RemoteFailure as failure:
        return SessionStep("file", False, elapsed_ms(started), failure.message, needed=False)
    return SessionStep("file", True, elapsed_ms(started), needed=False)
