"""SSH sessions over shared connections: assign channel slots, open and close connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, replace

from opsjobs.clock import Clock, SystemClock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.masking import NOTHING
from opsjobs.model.target import Endpoint
from opsjobs.remote.circuit_breaker import Breaker
from opsjobs.remote.session import (
    HostKey,
    Session,
    SessionStep,
)
from opsjobs.remote.ssh.connect import Connector, run_steps
from opsjobs.remote.ssh.connection_group import ChannelSlot, ConnectionGroup, PooledConnection
from opsjobs.remote.ssh.error_mapping import login_mask
from opsjobs.remote.ssh.pooled_session import PooledSession

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of the pool, per machine and in total."""

    connections: int = 1000
    """Open connections of this worker; the longest idle ones are closed to make room."""
    connections_per_key: int = 8
    channels_per_connection: int = 8
    """sshd's MaxSessions is 10 by default; two are left for the queries of a kill."""
    tunnels_per_connection: int = 128
    """Tunnels are not sessions: MaxSessions does not count them."""
    handshakes_per_host: int = 4
    """Concurrent handshakes to one host and port; sshd drops some from 10 on (MaxStartups)."""
    handshakes_a_second: float = 20.0
    """Handshakes to one host and port; 0 = no limit. After a pause, a burst of as many."""
    idle_seconds: float = 60.0


class SshPool:
    """The Sessions of transport `ssh`."""

    def __init__(
        self,
        connector: Connector,
        limits: PoolLimits | None = None,
        clock: Clock | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self._connector = connector
        self._limits = limits or PoolLimits()
        self._clock = clock or SystemClock()
        self._breaker = breaker or Breaker(clock=self._clock)
        self._rate = Rate(self._limits.handshakes_a_second, self._clock)
        self._groups: dict[Key, ConnectionGroup] = {}
        self._insisting: Counter[Key] = Counter()
        self._gates: dict[Key, _Gate] = {}
        self._room = _Room(self._limits.connections, self._close_longest_idle)
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False
        self.handshakes = 0
        """The number of logins in progress."""
        self.handshakes_waiting = 0
        """The number of logins that wait for the limits of their host."""

    @property
    def idle_connections(self) -> int:
        """The number of open connections that no session uses. Callable from any thread."""
        return sum(len(group.idle_connections()) for group in list(self._groups.values()))

    @property
    def connections(self) -> int:
        """The number of open connections, and of those being made."""
        return self._room.taken

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Yield a session; connect if no connection has room. Raises RemoteFailure."""
        session = PooledSession(await self._take(endpoint, behind=0))
        try:
            yield session
        finally:
            await session.close()

    async def test(self, endpoint: Endpoint) -> list[SessionStep]:
        """Open a new connection, ignoring the circuit; time connect, auth, shell, sudo and sftp.

        Ends with the first failed step that sessions need. The outcome of the login closes or opens
        its circuit.
        """
        async with self._take_jump_slot(endpoint) as jump:
            if isinstance(jump, RemoteFailure):
                return [SessionStep("connect", ok=False, ms=0.0, error=jump.message)]
            async with self._gate(endpoint):
                steps, failure = await run_steps(
                    self._connector, endpoint, jump.pooled.connection if jump else None
                )
        await self._breaker.report(endpoint, failure)
        mask = login_mask(endpoint) if any(step.error for step in steps) else NOTHING
        return [replace(step, error=step.error and mask.text(step.error)) for step in steps]

    async def scan_host_keys(self, endpoint: Endpoint) -> list[HostKey]:
        """Return the host keys that the host currently shows. Raises RemoteFailure."""
        async with self._take_jump_slot(endpoint) as jump:
            if isinstance(jump, RemoteFailure):
                raise jump
            async with self._gate(endpoint):
                return await self._connector.scan(
                    endpoint.target, jump.pooled.connection if jump else None
                )

    async def close(self) -> None:
        """Close every connection and fail all waiters."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for group in [*self._groups.values()]:
            await group.close()
        await self._breaker.close()

    async def _take(self, endpoint: Endpoint, *, behind: int) -> ChannelSlot:
        """Return a channel slot; `behind` is the number of further hops reached through it.

        0 means that commands run on it.
        """
        if self._closed:
            raise RemoteFailure(
                ErrorCode.CONNECTION_LOST, "This worker is stopping: nothing new is started."
            )
        key = (*_key(endpoint), behind)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = self._create_group(endpoint, key, behind=behind)
        self._insisting[key] += endpoint.insist
        try:
            return await group.take()
        finally:
            self._insisting[key] -= endpoint.insist

    def _create_group(self, endpoint: Endpoint, key: Key, *, behind: int) -> ConnectionGroup:
        limits = self._limits
        if self._sweeper is None:
            # It outlives the run that opens the first connection, and has none of its log keys.
            self._sweeper = asyncio.create_task(self._sweep(), context=Context())
        return ConnectionGroup(
            lambda: self._connect(replace(endpoint, insist=self._insisting[key] > 0), behind),
            slots=limits.tunnels_per_connection if behind else limits.channels_per_connection,
            connections=limits.connections_per_key,
            monotonic=self._clock.monotonic,
            now=self._clock.now,
            on_idle=self._room.wake,
        )

    async def _connect(self, endpoint: Endpoint, behind: int) -> PooledConnection:
        """Open one more connection, through its jump host if it has one.

        Waits for room in the pool and for the host's handshake limits.
        """
        async with self._breaker.attempt(endpoint, insist=endpoint.insist) as permit:
            try:
                jump = (
                    await self._take(_last_jump(endpoint), behind=behind + 1)
                    if endpoint.jumps
                    else None
                )
            except RemoteFailure:
                permit.spare()
                raise
            try:
                pooled = await self._connect_with_room(endpoint, jump, behind)
            except BaseException:
                if jump is not None:
                    jump.release()
                raise
        pooled.connection.on_lost(lambda: self._on_connection_lost(pooled, jump))
        return pooled

    async def _connect_with_room(
        self, endpoint: Endpoint, jump: ChannelSlot | None, behind: int
    ) -> PooledConnection:
        await self._room.enter(behind)
        try:
            async with self._gate(endpoint):
                return PooledConnection(
                    await self._connector.connect(
                        endpoint, jump.pooled.connection if jump is not None else None
                    )
                )
        except BaseException:
            self._room.leave()
            raise

    def _on_connection_lost(self, pooled: PooledConnection, jump: ChannelSlot | None) -> None:
        self._room.leave()
        if jump is not None:
            jump.release()
        on_lost, pooled.on_lost = pooled.on_lost, None
        if on_lost is not None:
            on_lost()

    @asynccontextmanager
    async def _take_jump_slot(
        self, endpoint: Endpoint
    ) -> AsyncIterator[ChannelSlot | RemoteFailure | None]:
        if not endpoint.jumps:
            yield None
            return
        try:
            slot = await self._take(_last_jump(endpoint), behind=1)
        except RemoteFailure as failure:
            yield failure
            return
        try:
            yield slot
        finally:
            slot.release()

    @asynccontextmanager
    async def _gate(self, endpoint: Endpoint) -> AsyncIterator[None]:
        """Limit the concurrent handshakes to one host and port, and their rate."""
        target = endpoint.target
        key = (
            target.host,
            target.port,
            *(part for jump in endpoint.jumps for part in (jump.target.host, jump.target.port)),
        )
        gate = self._gates.setdefault(
            key, _Gate(asyncio.Semaphore(self._limits.handshakes_per_host))
        )
        gate.users += 1
        try:
            async with self._counted_turn(gate, key):
                yield
        finally:
            gate.users -= 1
            if gate.users == 0:
                del self._gates[key]

    @asynccontextmanager
    async def _counted_turn(self, gate: _Gate, key: Hashable) -> AsyncIterator[None]:
        self.handshakes_waiting += 1
        waiting = True
        try:
            async with gate.semaphore:
                await self._rate.wait(key)
                self.handshakes_waiting -= 1
                waiting = False
                self.handshakes += 1
                try:
                    yield
                finally:
                    self.handshakes -= 1
        finally:
            self.handshakes_waiting -= waiting

    async def _sweep(self) -> None:
        """Close connections that have been idle for too long; drop unused groups and limits."""
        while True:
            await self._clock.sleep(self._limits.idle_seconds / 4)
            now = self._clock.monotonic()
            for key, group in [*self._groups.items()]:
                group.close_idle(now - self._limits.idle_seconds)
                if group.empty:
                    del self._groups[key]
                    self._insisting.pop(key, None)
            self._rate.forget()

    def _close_longest_idle(self) -> bool:
        idle = [pooled for group in self._groups.values() for pooled in group.idle_connections()]
        if not idle:
            return False
        min(idle, key=lambda pooled: pooled.idle_since).connection.close()
        return True


@dataclass(slots=True)
class _Gate:
    semaphore: asyncio.Semaphore
    users: int = 0


class Rate:
    """Rate limit: `a_second` connects to each host, with a burst of as many after a pause.

    The burst is at least one; 0 means no limit.
    """

    def __init__(self, a_second: float, clock: Clock) -> None:
        self._a_second = a_second
        self._burst = max(a_second, 1.0)
        self._clock = clock
        # When the bucket of a host will be full again: until then it lacks the remaining seconds
        # times the rate.
        self._full_at: dict[Hashable, float] = {}

    async def wait(self, host: Hashable) -> None:
        """Wait for a token, first come, first served."""
        if self._a_second <= 0:
            return
        seconds = self.take(host)
        if seconds > 0:
            await self._clock.sleep(seconds)

    def take(self, host: Hashable) -> float:
        """Take a token; return the seconds until it is valid."""
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(host, now), now) + 1.0 / self._a_second
        self._full_at[host] = full_at
        return max(0.0, full_at - now - self._burst / self._a_second)

    def forget(self) -> None:
        """Drop the buckets that are full, as new hosts start with full ones."""
        now = self._clock.monotonic()
        self._full_at = {host: at for host, at in self._full_at.items() if at > now}


class _Room:
    """Counts connections, and waits for one to close when the limit is reached.

    Connections of jump hosts are kept while the hops behind them wait for room. So each hop further
    away from the machine leaves a tenth of the room to those nearer to it: there is always room for
    connections on which commands run, and those end.
    """

    def __init__(self, limit: int, make_room: Callable[[], bool]) -> None:
        self._limit = limit
        self._reserve = max(1, limit // 10)
        self._make_room = make_room
        self._changed = asyncio.Event()
        self.taken = 0

    async def enter(self, behind: int) -> None:
        """Wait for room for a connection with `behind` further hops."""
        limit = max(1, self._limit - behind * self._reserve)
        while self.taken >= limit:
            self._changed.clear()
            if not self._make_room() or self.taken >= limit:
                await self._changed.wait()
        self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        self._changed.set()

    def wake(self) -> None:
        """Notify that a connection became idle: it may be closed for another one."""
        self._changed.set()


def _last_jump(endpoint: Endpoint) -> Endpoint:
    """Return the jump host next to the target, with its own jumps (listed nearest first)."""
    return replace(
        endpoint.jumps[-1],
        jumps=endpoint.jumps[:-1],
        insist=endpoint.insist,
        purpose=endpoint.purpose,
    )


def _key(endpoint: Endpoint) -> Key:
    """Return the key of a group: sessions with equal keys share connections.

    It consists of the machine and its host keys, the login, and the jump hosts. A caller that may
    not use a credential (`fault`) does not share the connections of those that may. If a login is
    made for one purpose, which is named in a certificate, each purpose has its own connections.
    """
    target, credential = endpoint.target, endpoint.credential
    login = (
        (credential.id, credential.version, credential.username, credential.fault)
        if credential is not None
        else None
    )
    purpose = endpoint.purpose if credential is not None and credential.made_anew else ""
    machine = (
        target.id,
        target.host,
        target.port,
        target.platform,
        target.host_key_policy,
        tuple(target.host_keys),
    )
    return (machine, login, purpose, tuple(_key(jump) for jump in endpoint.jumps))
