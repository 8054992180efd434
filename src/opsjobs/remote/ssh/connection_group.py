"""The connections to one machine under one login, and their channel slots."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.spool.channel import SpoolLogin
from opsjobs.remote.ssh.connection import SshConnection


class PooledConnection:
    """A connection with its number of slots, and the number of those in use."""

    def __init__(self, connection: SshConnection) -> None:
        self.connection = connection
        self.slots = 0
        self.used = 0
        self.was_used = False
        self.idle_since = 0.0
        self.on_lost: Callable[[], None] | None = None
        self.spool_login = SpoolLogin()

    @property
    def has_free_slot(self) -> bool:
        """Return True if the connection has a free slot."""
        return self.used < self.slots and self.connection.alive

    def take(self) -> None:
        """Take one slot."""
        self.used += 1
        self.was_used = True


class ChannelSlot:
    """One slot on a connection of a group; release it once."""

    def __init__(self, group: ConnectionGroup, pooled: PooledConnection) -> None:
        self._group = group
        self.pooled = pooled
        self._released = False

    def release(self) -> None:
        """Release the slot."""
        if not self._released:
            self._released = True
            self._group.release(self.pooled)

    async def another(self) -> ChannelSlot:
        """Return one more slot of the same group. Raises RemoteFailure."""
        return await self._group.take()

    def shrink(self) -> bool:
        """Lower the connection's limit below its use, as the machine refused this channel.

        Returns False if no other channel uses the connection.
        """
        if self.pooled.used <= 1:
            return False
        self._group.limit(self.pooled, self.pooled.used - 1)
        return True

    async def on_another_connection(self) -> ChannelSlot:
        """Return one more slot on another connection, as this one refused a channel.

        Raises RemoteFailure.
        """
        self._group.limit(self.pooled, self.pooled.used)
        return await self._group.take()

    async def move(self) -> None:
        """Change to a slot on another or a new connection.

        Raises RemoteFailure; the slot is then released.
        """
        self.release()
        self.pooled = (await self._group.take()).pooled
        self._released = False


class ConnectionGroup:
    """Hands out slots; connects on demand, sharing each connection among all its waiters.

    Connections are made in tasks of the group itself, so that a waiter that is cancelled does not
    cancel the connection of the others. The first connection is made alone: a rejected login must
    not be tried several times at once.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[PooledConnection]],
        *,
        slots: int,
        connections: int,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
        on_idle: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._slots = slots
        self._limit = connections
        self._monotonic = monotonic
        self._now = now
        self._on_idle = on_idle
        self._connections: list[PooledConnection] = []
        self._waiters: deque[asyncio.Future[PooledConnection]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        """Return True if no connection is open or being made, and no caller waits for one."""
        return not (self._connections or self._connecting or self._waiters)

    async def take(self) -> ChannelSlot:
        """Return a slot as soon as there is one, first come, first served.

        Raises the RemoteFailure of the connect.
        """
        pooled = self._find_free() if not self._waiters else None
        if pooled is not None:
            pooled.take()
            return ChannelSlot(self, pooled)
        waiter: asyncio.Future[PooledConnection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        try:
            return ChannelSlot(self, await waiter)
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise
        finally:
            del waiter  # its exception refers to this frame

    def _give_up(self, waiter: asyncio.Future[PooledConnection]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())

    def release(self, pooled: PooledConnection) -> None:
        """Release a slot of the connection."""
        pooled.used -= 1
        if pooled.used == 0:
            pooled.idle_since = self._monotonic()
            if self._has_expired(pooled):
                pooled.connection.close()
        self._serve()
        if pooled.used == 0:
            self._on_idle()

    def limit(self, pooled: PooledConnection, slots: int) -> None:
        """Lower the connection's limit to this many slots (at least one), as it refused one more.

        New connections get no more slots than that.
        """
        pooled.slots = max(1, slots)
        self._slots = min(self._slots, pooled.slots)

    def _find_free(self) -> PooledConnection | None:
        # Prefer the fullest connection with room, so that the others become idle and are closed.
        free = (
            pooled
            for pooled in self._connections
            if pooled.has_free_slot and not self._has_expired(pooled)
        )
        return max(free, key=lambda pooled: pooled.used, default=None)

    def _has_expired(self, pooled: PooledConnection) -> bool:
        """Return True if the connection's credential has expired: it gets no new users.

        Present users stay. Only a connection that has been used counts: after a clock step, each
        new connection would otherwise be replaced at once by the next one.
        """
        expires_at = pooled.connection.expires_at
        return pooled.was_used and expires_at is not None and expires_at <= self._now()

    def _serve(self) -> None:
        while self._waiters and (pooled := self._find_free()) is not None:
            waiter = self._waiters.popleft()
            if not waiter.done():
                pooled.take()
                waiter.set_result(pooled)
        if self._waiters:
            self._grow()

    def _grow(self) -> None:
        """Start as many connects as the waiters need, within the limit.

        Only one at a time until one has succeeded.
        """
        open_connections = sum(not self._has_expired(pooled) for pooled in self._connections)
        wanted = -(-len(self._waiters) // self._slots)
        allowed = self._limit - open_connections if open_connections else 1
        for _ in range(min(wanted, allowed) - len(self._connecting)):
            task = asyncio.create_task(self._connect_one())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_one(self) -> None:
        try:
            pooled = await self._connect()
        except Exception as failure:  # noqa: BLE001  each waiter gets the failure, of any kind
            self._on_connect_done()
            self._fail(failure)
            return
        self._on_connect_done()
        pooled.slots = self._slots
        pooled.idle_since = self._monotonic()
        pooled.on_lost = lambda: self._drop(pooled)
        if not pooled.connection.alive:
            message = "The machine closed the connection right after the login."
            self._fail(RemoteFailure(ErrorCode.CONNECTION_LOST, message))
            return
        self._connections.append(pooled)
        self._serve()

    def _on_connect_done(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connecting.discard(task)

    def _fail(self, failure: Exception) -> None:
        """Fail the waiters intended for this connection, or all if there is no other connection."""
        count = self._slots if self._connections or self._connecting else len(self._waiters)
        for waiter in [self._waiters.popleft() for _ in range(min(count, len(self._waiters)))]:
            if not waiter.done():
                waiter.set_exception(_copy(failure))
        if self._waiters:
            self._grow()

    def _drop(self, pooled: PooledConnection) -> None:
        if pooled in self._connections:
            self._connections.remove(pooled)
        self._serve()

    def idle_connections(self) -> list[PooledConnection]:
        """Return the connections without users."""
        return [
            pooled for pooled in self._connections if pooled.used == 0 and pooled.connection.alive
        ]

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since `before`."""
        for pooled in self.idle_connections():
            if pooled.idle_since <= before or self._has_expired(pooled):
                pooled.connection.close()

    async def close(self) -> None:
        """Close every connection, cancel connects and fail all waiters."""
        for task in [*self._connecting]:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(
                    RemoteFailure(ErrorCode.CONNECTION_LOST, "This worker is stopping.")
                )
        connections = [*self._connections]
        for pooled in connections:
            pooled.connection.close()
        await asyncio.gather(*(pooled.connection.wait_closed() for pooled in connections))


def _copy(failure: Exception) -> Exception:
    """Return a separate exception for each waiter: a shared one would collect all tracebacks."""
    if not isinstance(failure, RemoteFailure):
        return failure
    return RemoteFailure(failure.code, failure.message, because=failure.because)
