"""A session on a shared connection; it may change connections until something has started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.program import Program
from opsjobs.model.target import Capabilities
from opsjobs.remote.disk import Disk
from opsjobs.remote.process_group import Census, GroupSignal
from opsjobs.remote.session import Durable, LoginTimes, Output, RemoteExit, RemoteProcess
from opsjobs.remote.spool.direct import PLAIN_SHELLS, build_one_line, start_directly
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
    """A session on a channel slot; it may change connections until something has started."""

    def __init__(self, slot: ChannelSlot) -> None:
        self._slot = slot
        self._started: list[RemoteProcess] = []
        self._identified: SshProcess | None = None

    @property
    def login_times(self) -> LoginTimes | None:
        """The login times of its current connection."""
        return self._slot.pooled.connection.login_times

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the machine over SSH."""
        return self._slot.pooled.connection.capabilities

    async def start(
        self, command: str | Program, *, stdin: bytes = b"", marked: bool | None = None
    ) -> RemoteProcess:
        """Start a command line in the login shell, or a program.

        If this connection is found to be dead or full before anything started, another one is
        used. Raises RemoteFailure(CONNECTION_LOST or LOST).
        """
        if not isinstance(command, Program):
            return await self._start(command, stdin, marked=marked)
        login = self._slot.pooled.spool_login
        if (line := build_one_line(command, plain=login.plain)) is None:
            return await start_directly(self._start, command)
        process = self._identified = await _start_on(self._slot, line, b"", marked=None)
        return self._track(process)

    async def _start(self, line: str, stdin: bytes, *, marked: bool | None = None) -> RemoteProcess:
        try:
            return self._track(await _start_on(self._slot, line, stdin, marked=marked))
        except ChannelRefused:
            # For servers with one channel per connection: a running command keeps this connection.
            slot = await self._slot.on_another_connection()
        return self._track(await _start_on_own_slot(slot, line, stdin, marked=marked))

    def durable(self) -> Durable | None:
        """Return the durable runs on this machine, or None without that capability."""
        if not self.capabilities.durable:
            return None
        name = self._slot.pooled.connection.target.name
        return Spool(name, self._slot.pooled.spool_login, self._ask, self._start_beside, self._talk)

    @asynccontextmanager
    async def disk(self) -> AsyncIterator[Disk]:
        """Yield the machine's files, over this session's slot. Raises RemoteFailure."""
        async with AsyncExitStack() as stack:
            yield await _begin_or_move(
                self._slot, lambda connection: stack.enter_async_context(connection.disk())
            )

    async def _ask(self, line: str, stdin: bytes) -> RemoteProcess:
        return await self._start(line, stdin, marked=False)

    async def _talk(self, line: str, stdin: bytes) -> RemoteProcess:
        return self._track(await _start_on(self._slot, line, stdin, marked=False, hold=True))

    async def _start_beside(self, line: str, stdin: bytes) -> RemoteProcess:
        """Start a command line on its own slot, which is released when the process is closed.

        Its standard input stays open until then.
        """
        return self._track(
            await _start_on_own_slot(
                await self._slot.another(), line, stdin, marked=False, hold=True
            )
        )

    def _track(self, process: RemoteProcess) -> RemoteProcess:
        self._started.append(process)
        return process

    async def close(self) -> None:
        """Release the started processes, and the slot."""
        if self._identified is not None:
            self._slot.pooled.spool_login.plain = self._identified.shell in PLAIN_SHELLS
        for process in self._started:
            await process.close()
        self._slot.release()


async def _start_on(
    slot: ChannelSlot,
    command: str | LineBuilder,
    stdin: bytes,
    *,
    marked: bool | None,
    hold: bool = False,
) -> SshProcess:
    """Start a command line on this slot's connection, or on another one (`_begin_or_move`)."""
    process = await _begin_or_move(
        slot, lambda connection: connection.start(command, stdin=stdin, marked=marked, hold=hold)
    )
    process.ask_elsewhere = partial(_ask_elsewhere, slot)
    return process


async def _ask_elsewhere(slot: ChannelSlot, question: GroupSignal) -> Census | None:
    """Query over another connection to the same machine; return None if none is free in time."""
    try:
        async with asyncio.timeout(ELSEWHERE_SECONDS):
            other = await slot.on_another_connection()
    except (TimeoutError, RemoteFailure):
        return None
    try:
        return await other.pooled.connection.ask(question)
    finally:
        other.release()


async def _begin_or_move(slot: ChannelSlot, begin: Callable[[SshConnection], Awaitable[T]]) -> T:
    """Start an operation on this slot's connection, or on another one.

    Another one is used if this one is found to be dead or full before anything started.
    """
    for _ in range(MOVES):
        try:
            return await begin(slot.pooled.connection)
        except RemoteFailure as failure:
            if failure.code is not ErrorCode.CONNECTION_LOST:
                raise
            if isinstance(failure, ChannelRefused) and not slot.shrink():
                # This session is the only user: the machine may not have registered yet that the
                # last channel has ended.
                await asyncio.sleep(REFUSED_PAUSE_SECONDS)
                continue
            if not isinstance(failure, ChannelRefused) and slot.pooled.connection.alive:
                raise
        await slot.move()
    return await begin(slot.pooled.connection)


async def _start_on_own_slot(
    slot: ChannelSlot, line: str, stdin: bytes, *, marked: bool | None, hold: bool = False
) -> RemoteProcess:
    """Start a command line on a slot that is released once its process is closed."""
    try:
        return _ProcessOnOwnSlot(await _start_on(slot, line, stdin, marked=marked, hold=hold), slot)
    except BaseException:
        slot.release()
        raise


class _ProcessOnOwnSlot:
    """A process on its own slot."""

    def __init__(self, process: SshProcess, slot: ChannelSlot) -> None:
        self._process = process
        self._slot = slot

    def __aiter__(self) -> AsyncIterator[Output | RemoteExit]:
        return aiter(self._process)

    async def kill(self, grace_seconds: float) -> CancelProof:
        return await self._process.kill(grace_seconds)

    def write_stdin(self, data: bytes, *, end: bool) -> None:
        self._process.write_stdin(data, end=end)

    async def close(self) -> None:
        await self._process.close()
        self._slot.release()
