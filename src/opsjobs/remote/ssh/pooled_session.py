"""A session on a shared connection: it may move to another one until something has started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from opsjobs.model.capabilities import Capabilities
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.remote.disk import Disk
from opsjobs.remote.process_group import Census, GroupSignal
from opsjobs.remote.session import Durable, LoggedIn, Output, RemoteExit, RemoteProcess
from opsjobs.remote.spool.direct import PLAIN_SHELLS, directly, one_line
from opsjobs.remote.spool.durable import Spool
from opsjobs.remote.ssh.connection import ChannelRefused, SshConnection
from opsjobs.remote.ssh.connection_group import ChannelSlot
from opsjobs.remote.ssh.process import LineBuilder, SshProcess

T = TypeVar("T")

MOVES = 2
"""The maximum number of times that a session changes its connection."""

REFUSED_PAUSE_SECONDS = 0.05

ELSEWHERE_SECONDS = 5.0
"""The time a cancel waits for another connection before it uses the server's own signal."""


class PooledSession:
    """A session on a channel slot; it may change connections as long as nothing has started."""

    def __init__(self, place: ChannelSlot) -> None:
        self._place = place
        self._started: list[RemoteProcess] = []
        self._identified: SshProcess | None = None

    @property
    def logged_in(self) -> LoggedIn | None:
        """When its present connection was logged in."""
        return self._place.line.connection.logged_in

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the machine over SSH."""
        return self._place.line.connection.capabilities

    async def start(
        self, command: str | Program, *, stdin: bytes = b"", marked: bool | None = None
    ) -> RemoteProcess:
        """Start a command line in the login shell, or a program.

        If this connection turns out to be dead or full before anything started, another one is
        used. Raises RemoteFailure(CONNECTION_LOST or LOST).
        """
        if not isinstance(command, Program):
            return await self._start(command, stdin, marked=marked)
        login = self._place.line.login
        if (line := one_line(command, plain=login.plain)) is None:
            return await directly(self._start, command)
        process = self._identified = await _start_on(self._place, line, b"", marked=None)
        return self._noted(process)

    async def _start(self, line: str, stdin: bytes, *, marked: bool | None = None) -> RemoteProcess:
        try:
            return self._noted(await _start_on(self._place, line, stdin, marked=marked))
        except ChannelRefused:
            # For servers with one channel per connection: what already runs over this one keeps it.
            place = await self._place.beside()
        return self._noted(await _beside(place, line, stdin, marked=marked))

    def durable(self) -> Durable | None:
        """Return the durable runs on this machine, or None without that capability."""
        if not self.capabilities.durable:
            return None
        name = self._place.line.connection.target.name
        return Spool(name, self._place.line.login, self._ask, self._start_beside, self._talk)

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[Disk]:
        """Yield the machine's files, over this session's slot. Raises RemoteFailure."""
        async with AsyncExitStack() as stack:
            yield await _moving(
                self._place, lambda connection: stack.enter_async_context(connection.disk())
            )

    async def _ask(self, line: str, stdin: bytes) -> RemoteProcess:
        return await self._start(line, stdin, marked=False)

    async def _talk(self, line: str, stdin: bytes) -> RemoteProcess:
        return self._noted(await _start_on(self._place, line, stdin, marked=False, hold=True))

    async def _start_beside(self, line: str, stdin: bytes) -> RemoteProcess:
        """Start a command line on its own slot, which is released when the process is closed.

        Its standard input stays open until then.
        """
        return self._noted(
            await _beside(await self._place.another(), line, stdin, marked=False, hold=True)
        )

    def _noted(self, process: RemoteProcess) -> RemoteProcess:
        self._started.append(process)
        return process

    async def close(self) -> None:
        """Release what was started, and the slot."""
        if self._identified is not None:
            self._place.line.login.plain = self._identified.shell in PLAIN_SHELLS
        for process in self._started:
            await process.close()
        self._place.leave()


async def _start_on(
    place: ChannelSlot,
    command: str | LineBuilder,
    stdin: bytes,
    *,
    marked: bool | None,
    hold: bool = False,
) -> SshProcess:
    """Start a command line on this slot's connection, or on another one (`_moving`)."""
    process = await _moving(
        place, lambda connection: connection.start(command, stdin=stdin, marked=marked, hold=hold)
    )
    process.ask_elsewhere = partial(_ask_elsewhere, place)
    return process


async def _ask_elsewhere(place: ChannelSlot, question: GroupSignal) -> Census | None:
    """Ask over another connection to the same machine; return None if there is none in time."""
    try:
        async with asyncio.timeout(ELSEWHERE_SECONDS):
            other = await place.beside()
    except (TimeoutError, RemoteFailure):
        return None
    try:
        return await other.line.connection.ask(question)
    finally:
        other.leave()


async def _moving(place: ChannelSlot, begin: Callable[[SshConnection], Awaitable[T]]) -> T:
    """Begin something on this slot's connection, or on another one.

    Another one is used if this one turns out to be dead or full before anything began.
    """
    for _ in range(MOVES):
        try:
            return await begin(place.line.connection)
        except RemoteFailure as failure:
            if failure.code is not ErrorCode.CONNECTION_LOST:
                raise
            if isinstance(failure, ChannelRefused) and not place.shrink():
                # This session is the only user: the machine may not have noticed yet that our last
                # channel is over.
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)
                continue
            if not isinstance(failure, ChannelRefused) and place.line.connection.alive:
                raise
        await place.move()
    return await begin(place.line.connection)


async def _beside(
    place: ChannelSlot, line: str, stdin: bytes, *, marked: bool | None, hold: bool = False
) -> RemoteProcess:
    """Start a command line on a slot that is released once its process is closed."""
    try:
        return _Beside(await _start_on(place, line, stdin, marked=marked, hold=hold), place)
    except BaseException:
        place.leave()
        raise


class _Beside:
    """A process on its own slot."""

    def __init__(self, process: SshProcess, place: ChannelSlot) -> None:
        self._process = process
        self._place = place

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        return aiter(self._process)

    async def kill(self, grace_seconds: float) -> CancelProof:
        return await self._process.kill(grace_seconds)

    def say(self, data: bytes, *, end: bool) -> None:
        self._process.say(data, end=end)

    async def close(self) -> None:
        await self._process.close()
        self._place.leave()
