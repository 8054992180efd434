"""The connections to one machine under one login, and their channel slots."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.spool.durable import SpoolLogin
from opsjobs.remote.ssh.connection import SshConnection


class PooledConnection:
    """A connection with its number of slots, and how many of them are taken."""

    def __init__(self, connection: SshConnection) -> None:
        self.connection = connection
        self.places = 0
        self.used = 0
        self.taken = False
        self.idle_since = 0.0
        self.lost: Callable[[], None] | None = None
        self.login = SpoolLogin()

    @property
    def free(self) -> bool:
        """Return True if the connection has a free slot."""
        return self.used < self.places and self.connection.alive

    def take(self) -> None:
        """Take one slot."""
        self.used += 1
        self.taken = True


class ChannelSlot:
    """One slot on a connection of a group; release it once."""

    def __init__(self, route: ConnectionGroup, line: PooledConnection) -> None:
        self._route = route
        self.line = line
        self._left = False

    def leave(self) -> None:
        """Release the slot."""
        if not self._left:
            self._left = True
            self._route.release(self.line)

    async def another(self) -> ChannelSlot:
        """Return one more slot of the same group. Raises RemoteFailure."""
        return await self._route.take()

    def shrink(self) -> bool:
        """Lower the connection's limit below its use, as the machine refused this channel.

        Returns False if no other channel uses the connection.
        """
        if self.line.used <= 1:
            return False
        self._route.limit(self.line, self.line.used - 1)
        return True

    async def beside(self) -> ChannelSlot:
        """Return one more slot on another connection: the machine refused a channel on this one.

        Raises RemoteFailure.
        """
        self._route.limit(self.line, self.line.used)
        return await self._route.take()

    async def move(self) -> None:
        """Change to a slot on another or a new connection.

        Raises RemoteFailure; the slot is released then.
        """
        self.leave()
        self.line = (await self._route.take()).line
        self._left = False


class ConnectionGroup:
    """Hand out slots; connect on demand, with each connection shared by all who wait for one.

    Connections are made in tasks of the group itself, so that a waiter that gives up does not
    cancel the connection of the others. The first connection is made alone: a refused login must
    not be tried several times at once.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[PooledConnection]],
        *,
        places: int,
        lines: int,
        now: Callable[[], float],
        today: Callable[[], datetime],
        idle: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._places = places
        self._limit = lines
        self._now = now
        self._today = today
        self._idle = idle
        self._lines: list[PooledConnection] = []
        self._waiters: deque[asyncio.Future[PooledConnection]] = deque()
        self._making: set[asyncio.Task[None]] = set()

    @property
    def empty(self) -> bool:
        """Return True if no connection is open or being made, and no caller waits for one."""
        return not (self._lines or self._making or self._waiters)

    async def take(self) -> ChannelSlot:
        """Return a slot as soon as there is one, first come, first served.

        Raises the RemoteFailure of the connect.
        """
        line = self._free_line() if not self._waiters else None
        if line is not None:
            line.take()
            return ChannelSlot(self, line)
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

    def release(self, line: PooledConnection) -> None:
        """Free a slot of the connection."""
        line.used -= 1
        if line.used == 0:
            line.idle_since = self._now()
            if self._lapsed(line):
                line.connection.close()
        self._serve()
        if line.used == 0:
            self._idle()

    def limit(self, line: PooledConnection, places: int) -> None:
        """Lower the connection to this many slots (at least one): the machine refused one more.

        New connections get no more slots than that.
        """
        line.places = max(1, places)
        self._places = min(self._places, line.places)

    def _free_line(self) -> PooledConnection | None:
        # Prefer the fullest connection with room, so that the others become idle and are closed.
        free = (line for line in self._lines if line.free and not self._lapsed(line))
        return max(free, key=lambda line: line.used, default=None)

    def _lapsed(self, line: PooledConnection) -> bool:
        """Return True if the connection's credential has expired: users stay, none is added.

        Only a connection that has been used counts: if a clock jumps, each new connection would
        otherwise be replaced at once by the next one.
        """
        good_until = line.connection.good_until
        return line.taken and good_until is not None and good_until <= self._today()

    def _serve(self) -> None:
        while self._waiters and (line := self._free_line()) is not None:
            waiter = self._waiters.popleft()
            if not waiter.done():
                line.take()
                waiter.set_result(line)
        if self._waiters:
            self._grow()

    def _grow(self) -> None:
        """Start as many connects as the waiters need, within the limit.

        Only one at a time as long as none has succeeded.
        """
        open_lines = sum(not self._lapsed(line) for line in self._lines)
        wanted = -(-len(self._waiters) // self._places)
        allowed = self._limit - open_lines if open_lines else 1
        for _ in range(min(wanted, allowed) - len(self._making)):
            task = asyncio.create_task(self._make())
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    async def _make(self) -> None:
        try:
            line = await self._connect()
        except Exception as failure:  # noqa: BLE001  each waiter gets the failure, whatever it was
            self._on_connect_done()
            self._fail(failure)
            return
        self._on_connect_done()
        line.places = self._places
        line.idle_since = self._now()
        line.lost = lambda: self._drop(line)
        if not line.connection.alive:
            message = "The machine closed the connection right after the login."
            self._fail(RemoteFailure(ErrorCode.CONNECTION_LOST, message))
            return
        self._lines.append(line)
        self._serve()

    def _on_connect_done(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._making.discard(task)

    def _fail(self, failure: Exception) -> None:
        """Fail the waiters that this connection was meant for, or all if there is no other one."""
        count = self._places if self._lines or self._making else len(self._waiters)
        for waiter in [self._waiters.popleft() for _ in range(min(count, len(self._waiters)))]:
            if not waiter.done():
                waiter.set_exception(_copy(failure))
        if self._waiters:
            self._grow()

    def _drop(self, line: PooledConnection) -> None:
        if line in self._lines:
            self._lines.remove(line)
        self._serve()

    def idle_lines(self) -> list[PooledConnection]:
        """Return the connections without users."""
        return [line for line in self._lines if line.used == 0 and line.connection.alive]

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since `before`."""
        for line in self.idle_lines():
            if line.idle_since <= before or self._lapsed(line):
                line.connection.close()

    async def close(self) -> None:
        """Close every connection, cancel connects and fail all waiters."""
        for task in [*self._making]:
            task.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(
                    RemoteFailure(ErrorCode.CONNECTION_LOST, "This worker is stopping.")
                )
        lines = [*self._lines]
        for line in lines:
            line.connection.close()
        await asyncio.gather(*(line.connection.wait_closed() for line in lines))


def _copy(failure: Exception) -> Exception:
    """Return a separate exception for each waiter: a shared one would collect all tracebacks."""
    if not isinstance(failure, RemoteFailure):
        return failure
    return RemoteFailure(failure.code, failure.message, because=failure.because)
