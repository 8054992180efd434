"""The connections to one host under one login, and the shells that are kept there."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from opsjobs.model.errors import RemoteFailure, Unavailable
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.winrm import ShellOwners, messages
from opsjobs.remote.winrm.connection import Connection, Disconnected, WsmanFault
from opsjobs.remote.winrm.messages import ProtocolError, WsmanMessage
from opsjobs.remote.winrm.programs import HELPER_IDLE_SECONDS, HOST_IDLE_SECONDS, Launch
from opsjobs.telemetry.logs import log

COMMANDS_MAX = 25
"""Concurrent sessions on one host, whatever the slots of the target.

Windows allows 30 shells of one user. The others are for cancels, and for idle shells.
"""
INPUTS_MAX = 3
"""Concurrent writes to standard input: the host holds one until the command reads."""
MORE_CONNECTIONS = 2 * INPUTS_MAX
"""Connections for input, and for signals and cancels, which do not wait for input.

Each running command holds one with its long poll.
"""
KEPT_SHELLS_MAX = 2
SHELL_USERS_MAX = 4
"""Concurrent helpers in one shell, two processes each: old hosts allow 15 in one shell."""
IDLE_SECONDS = 55.0
"""Windows closes an idle connection after about two minutes."""
SHELL_IDLE_SECONDS = 120.0
"""The time after which a kept shell is deleted here."""
QUOTA_PAUSE_SECONDS = 5.0
QUOTA_TRIES_MAX = 12
URGENT_PAUSE_SECONDS = 0.5
PLACE_SECONDS = 60.0
"""The time for which a start waits for a place on the host, or for a shell."""
UNANSWERED_PAUSES = (0.0, 5.0, 30.0)
"""The pauses before a shell whose creation was not answered is deleted: it may come later."""
SHELL_NAME = "opsjobs"
"""Precedes the id of the worker in the names of shells."""
ORPHANS_PAUSE_SECONDS = 60.0
ORPHANS_SECONDS = 10.0
ORPHANS_MAX = 100
"""Limits of the search for the shells of dead workers: how often, how long, how many."""
ENVELOPE_BYTES_MIN = 150 << 10
"""The maximum size of a request before Windows 8 and Server 2012; 500 KiB since."""
ENVELOPE_OVERHEAD_BYTES = 8 << 10
"""The part of a request that is not input."""

SHELL_GONE = 2150858843
ACCESS_DENIED = 5
QUOTAS = frozenset(
    [0x8033803F, *range(0x803381A5, 0x803381A9), 0x803381AB, *range(0x803381E4, 0x803381EA)]
)
"""Limits of a host: its shells, operations and users, of one user or of all."""
FOLDER_INVALID = frozenset({267, 0x8007010B})
"""The faults of a working directory that is not there."""
NOT_FOUND = frozenset({2, 0x80070002})
"""The faults of a program that is not there."""
SCHEMA_INVALID = 0x80338041
"""The fault of a request with something that the host does not know."""
REFUSALS = (
    QUOTAS | FOLDER_INVALID | NOT_FOUND | {ACCESS_DENIED, 0x80070005, SHELL_GONE, SCHEMA_INVALID}
)
"""The faults after which a command certainly has not started, and does not start later."""

_OURS = re.compile(SHELL_NAME + r" ([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})")

ShellKey = tuple[tuple[tuple[str, str], ...], str | None, float]


@dataclass(slots=True)
class Shell:
    """A cmd shell on the host; environment and folder belong to the shell, not to a command."""

    id: str
    key: ShellKey
    idle_since: float = 0.0
    used: bool = False
    resource: str = messages.CMD
    users: int = 1
    """The commands in it that are followed: a cancel may borrow a shell of helpers."""
    is_ending: bool = False
    """True if it is deleted when the last of them has ended."""
    is_left: bool = False
    """True if the host has to delete it, because a program in it continues."""
    is_gone: bool = False
    name: str = SHELL_NAME


_CONTACT = (Disconnected, ProtocolError, RemoteFailure)

Build = Callable[[], tuple[Shell, WsmanMessage]]
"""Returns a shell that is not there yet, and the request that creates it."""


def shell_key(launch: Launch) -> ShellKey:
    """Return the key of a shell: commands with equal keys may use it one after the other."""
    return tuple(sorted(launch.environment.items())), launch.folder, launch.idle_seconds


@dataclass(slots=True)
class WinrmHost:
    """Connections, shells and places for commands of one host and login."""

    name: str
    connect: Callable[[], Awaitable[Connection]]
    places_max: int = COMMANDS_MAX
    """The maximum number of concurrent sessions."""
    honours_ids: bool = False
    """True once the host has started a command under an id that was chosen here."""
    takes_names: bool = True
    """False once the host has refused the name of a shell."""
    owners: ShellOwners | None = None
    users: int = 0
    """The sessions on it."""
    idle_since: float = field(default_factory=time.monotonic)
    _envelope_bytes: int | None = None
    _waiting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a command waits because the host allows no further shell."""
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a shell was deleted here."""
    places: asyncio.Semaphore = field(init=False)
    inputs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(INPUTS_MAX))
    _room: asyncio.Semaphore = field(init=False)
    _idle: list[Connection] = field(default_factory=list)
    _shells: list[Shell] = field(default_factory=list)
    """The kept shells, in which nothing runs."""
    _busy: list[Shell] = field(default_factory=list)
    """The cmd shells in which commands run."""
    _urgent: int = 0
    """The urgent launches that wait for a shell: a start then takes none."""
    _swept_at: float = -math.inf
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False
    """True once it was closed: a connection that is still in use is closed after its request."""
    _tasks: set[asyncio.Task[object]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = asyncio.Semaphore(self.places_max)
        self._room = asyncio.Semaphore(self.places_max + MORE_CONNECTIONS)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection for one request; connect if all are in use.

        Raises RemoteFailure.
        """
        async with self._room:
            connection = self._take_idle() or await self.connect()
            try:
                yield connection
            finally:
                connection.idle_since = time.monotonic()
                if connection.usable and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()

    def adopt(self, connection: Connection) -> None:
        """Take over an open connection."""
        self._idle.append(connection)

    def _take_idle(self) -> Connection | None:
        self.close_idle(time.monotonic() - IDLE_SECONDS)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    async def request(self, message: WsmanMessage, *, once: bool = False) -> ET.Element:
        """Send a request and return the envelope of the response.

        A connection that the host has closed in the meantime, or whose encryption it has forgotten,
        is replaced once. `once`: not if the host may have got the request. Raises WsmanFault,
        Disconnected, RemoteFailure, ValueError.
        """
        try:
            async with self.connection() as connection:
                return await connection.request(message)
        except Disconnected as lost:
            if not (lost.rejected or (lost.stale and not once)):
                raise
        async with self.connection() as connection:
            return await connection.request(message)

    async def input_bytes(self) -> int:
        """Return the size of one write to standard input that fits into the host's envelopes.

        Only an administrator may read their size; for others it is that of the oldest hosts.
        Raises Disconnected, ProtocolError, RemoteFailure.
        """
        if self._envelope_bytes is None:
            found = None
            with contextlib.suppress(WsmanFault):
                found = messages.envelope_bytes_in(await self.request(messages.get_config()))
            self._envelope_bytes = min(found or ENVELOPE_BYTES_MIN, messages.ENVELOPE_BYTES)
        return (self._envelope_bytes - ENVELOPE_OVERHEAD_BYTES) // 4 * 3

    async def take_shell(self, launch: Launch) -> Shell:
        """Return a shell that nothing uses, kept or new; if it is urgent, perhaps a borrowed one.

        Raises RemoteFailure and WsmanFault; nothing of a command has started then.
        """
        key = shell_key(launch)
        for shell in self._shells:
            if (shell.key, shell.name) == (key, self.shell_name):
                self._shells.remove(shell)
                shell.used, shell.users = True, 1
                self._busy.append(shell)
                return shell
        return await self.new_shell(launch)

    async def new_shell(self, launch: Launch) -> Shell:
        """Return a new shell, or for an urgent launch perhaps a borrowed one. Raises as above."""
        key = shell_key(launch)
        if launch.urgent:
            return await self._take_urgent(key)
        made = await self._create(lambda: self._build(key))
        self._busy.append(made)
        return made

    async def _take_urgent(self, key: ShellKey) -> Shell:
        """Create a shell, or borrow one if the host allows no more. Raises as `take_shell`.

        If no shell can be borrowed, the idle shells are deleted. Then it waits, but before all
        starts.
        """
        until = time.monotonic() + PLACE_SECONDS
        self._urgent += 1
        try:
            while True:
                if self._waiting.locked() and (shell := self._borrow()) is not None:
                    return shell
                self._freed.clear()
                made = await self._try_create(lambda: self._build(key))
                if isinstance(made, Shell):
                    self._busy.append(made)
                    return made
                if (shell := self._borrow()) is not None:
                    return shell
                if time.monotonic() > until:
                    raise self._busy_host(made)
                if self._shells:
                    await self._drop_kept_shells()
                elif not await self._delete_orphans():
                    await self._wait_for_freed(URGENT_PAUSE_SECONDS)
        finally:
            self._urgent -= 1

    def _borrow(self) -> Shell | None:
        """Return a shell of helpers for one more of them, the one with the fewest.

        Never that of a direct command: its cancel deletes the shell, and all that runs in it.
        """
        lenders = [
            shell
            for shell in self._busy
            if shell.key[2] == HELPER_IDLE_SECONDS and shell.users < SHELL_USERS_MAX
        ]
        found = min(lenders, key=lambda shell: shell.users, default=None)
        if found is not None:
            found.users += 1
        return found

    async def create_pool(
        self, id_: str, build: Callable[[str, str], WsmanMessage], resource: str
    ) -> Shell:
        """Create a runspace pool with this id, within the quotas. Raises as `take_shell`.

        `build` returns the request for an id and a name.
        """
        key: ShellKey = (), None, HOST_IDLE_SECONDS

        def build_named() -> tuple[Shell, WsmanMessage]:
            shell = Shell(id_, key, resource=resource, name=self.shell_name)
            return shell, build(id_, shell.name)

        return await self._create(build_named)

    def _build(self, key: ShellKey) -> tuple[Shell, WsmanMessage]:
        environment, folder, idle_seconds = key
        shell = Shell(str(uuid4()).upper(), key, name=self.shell_name)
        return shell, messages.create_shell(
            shell.id,
            shell.name,
            environment=dict(environment),
            folder=folder,
            idle_seconds=idle_seconds,
        )

    async def _create(self, build: Build) -> Shell:
        """Create a shell; wait while the host is at one of its quotas.

        Those that wait come first: each further one queues behind them. Raises as `take_shell`.
        """
        if not self._waiting.locked():
            made = await self._try_create(build)
            if isinstance(made, Shell):
                return made
        async with self._waiting:
            return await self._create_when_allowed(build)

    async def _create_when_allowed(self, build: Build) -> Shell:
        refused: WsmanFault | None = None
        for _ in range(QUOTA_TRIES_MAX):
            self._freed.clear()
            await self._drop_kept_shells()
            await self._delete_orphans()
            if not self._urgent:
                made = await self._try_create(build)
                if isinstance(made, Shell):
                    return made
                refused = made
            pause = QUOTA_PAUSE_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  no secret
            await self._wait_for_freed(pause)
        raise self._busy_host(refused)

    @property
    def shell_name(self) -> str:
        """The name of new shells: it holds the worker of this process, if it has one.

        Empty for a host that takes no names.
        """
        if not self.takes_names:
            return ""
        owner = self.owners.identify() if self.owners is not None else None
        return SHELL_NAME if owner is None else f"{SHELL_NAME} {owner}"

    async def _delete_orphans(self) -> int:
        """Delete the shells that dead workers left; return how many. Never raises for errors.

        Done at most once a minute, and in bounded time.
        """
        now, deleted = time.monotonic(), 0
        if self.owners is None or now - self._swept_at < ORPHANS_PAUSE_SECONDS:
            return 0
        self._swept_at = now
        try:
            async with asyncio.timeout(ORPHANS_SECONDS):
                for shell in await self._find_orphans(self.owners):
                    deleted += await self.delete(shell)
        except (TimeoutError, WsmanFault, Unavailable, *_CONTACT) as failure:
            log.info("winrm_orphans_left", target=self.name, reason=str(failure))
        if deleted:
            log.info("winrm_orphans_deleted", target=self.name, shells=deleted)
        return deleted

    async def _find_orphans(self, owners: ShellOwners) -> list[Shell]:
        listed = messages.shells_in(await self.request(messages.list_shells(ORPHANS_MAX)))
        ours: dict[UUID, list[Shell]] = {}
        for id_, name, resource in listed[:ORPHANS_MAX]:
            if (owner := _OURS.fullmatch(name)) is not None:
                shell = Shell(id_, ((), None, 0.0), resource=resource)
                ours.setdefault(UUID(owner[1]), []).append(shell)
        me = owners.identify()
        dead = set(await owners.find_dead([*ours])) - {me} if ours else set()
        return [shell for owner in dead for shell in ours.get(owner, ())]

    async def _wait_for_freed(self, seconds: float) -> None:
        """Wait until a shell was deleted here, or this time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._freed.wait()

    def _busy_host(self, fault: WsmanFault | None) -> RemoteFailure:
        reason = fault or "cancels took each that became free"
        return RemoteFailure(
            ErrorCode.TARGET_BUSY, f"{self.name} allows no further shell: {reason}."
        )

    async def _try_create(self, build: Build) -> Shell | WsmanFault:
        """Create a shell, or return the fault of the quota that does not allow it.

        If the host did not answer as expected, the shell may be there, or come later, and count
        against the quota: it is deleted in the background. Its id was chosen here.
        """
        shell, message = build()
        try:
            shell.id = messages.shell_id_in(await self.request(message))
        except BaseException as failure:
            if isinstance(failure, WsmanFault):
                if failure.code in QUOTAS:
                    return failure
                if failure.code == SCHEMA_INVALID and shell.name:
                    return await self._try_unnamed(build)
            if _may_exist(failure):
                self.later(self._delete_unanswered(shell))
            raise
        return shell

    async def _try_unnamed(self, build: Build) -> Shell | WsmanFault:
        """Create a shell without a name, which Server 2008 R2 may not know.

        If the host refuses that as well, the name was not the reason.
        """
        self.takes_names = False
        try:
            return await self._try_create(build)
        except WsmanFault as fault:
            self.takes_names = fault.code == SCHEMA_INVALID
            raise

    async def _delete_unanswered(self, shell: Shell) -> None:
        for pause in UNANSWERED_PAUSES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            if await self.request_delete(shell) is None or self._closing.is_set():
                break
        self._freed.set()

    def keep(self, shell: Shell) -> None:
        """Keep a shell whose command has ended, for the next one; delete the oldest surplus one.

        None is kept while a command waits because the host allows no further shell.
        """
        self._forget(shell)
        shell.idle_since = time.monotonic()
        self._shells.append(shell)
        while len(self._shells) > (0 if self._waiting.locked() else KEPT_SHELLS_MAX):
            self.later(self.delete(self._shells.pop(0)))

    def release(self, shell: Shell, *, keep: bool) -> None:
        """Give a shell back whose command has ended, or is to end with it.

        It is kept or deleted by the last one who uses it.
        """
        shell.users -= 1
        shell.is_ending = shell.is_ending or not keep
        if shell.users > 0:
            return
        if shell.is_left or shell.is_gone:
            self._forget(shell)
        elif shell.is_ending:
            self.later(self.delete(shell))
        else:
            self.keep(shell)

    def leave(self, shell: Shell) -> None:
        """Leave a shell to the host: the programs in it continue."""
        shell.is_left = True
        self.release(shell, keep=True)

    def _forget(self, shell: Shell) -> None:
        if shell in self._busy:
            self._busy.remove(shell)

    async def delete(self, shell: Shell) -> bool:
        """Delete a shell, and end all of its processes; return True if they are gone.

        Never raises for errors of the host.
        """
        self._forget(shell)
        if shell.is_gone:
            return True
        failure = await self.request_delete(shell)
        shell.is_gone = failure is None or (
            isinstance(failure, WsmanFault) and failure.code == SHELL_GONE
        )
        if not shell.is_gone:
            log.info("winrm_shell_not_deleted", target=self.name, reason=str(failure))
        self._freed.set()
        return shell.is_gone

    async def request_delete(self, shell: Shell) -> Exception | None:
        """Ask the host to delete a shell; return why it did not."""
        try:
            await self.request(messages.delete_shell(shell.id, shell.resource))
        except (WsmanFault, Disconnected, ProtocolError, RemoteFailure) as failure:
            return failure
        return None

    async def _drop_kept_shells(self) -> None:
        shells, self._shells = self._shells, []
        for shell in shells:
            await self.delete(shell)

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Do this in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close_idle(self, before: float) -> None:
        """Close connections that have been idle since `before`."""
        for connection in [*self._idle]:
            if connection.idle_since <= before:
                self._idle.remove(connection)
                connection.close()

    def delete_idle_shells(self, before: float) -> None:
        """Delete shells that have been idle since `before`."""
        for shell in [*self._shells]:
            if shell.idle_since <= before:
                self._shells.remove(shell)
                self.later(self.delete(shell))

    @property
    def empty(self) -> bool:
        """True if nothing uses it, and nothing is open."""
        return self.users == 0 and not (self._idle or self._shells or self._tasks)

    @property
    def connections(self) -> int:
        """The number of idle connections and of those in use."""
        return len(self._idle) + self.places_max + MORE_CONNECTIONS - self._room._value

    @property
    def idle_connections(self) -> int:
        """The number of open connections that no request uses."""
        return len(self._idle)

    async def close(self, seconds: float) -> None:
        """Delete the kept shells, for at most this time, and close every connection."""
        self._closing.set()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._drop_kept_shells()
        except TimeoutError:
            log.info("winrm_shells_left", target=self.name)
        self._closed = True
        for task in [*self._tasks]:
            task.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _may_exist(failure: BaseException) -> bool:
    """Return True if a shell may be there although its creation failed like this."""
    if isinstance(failure, WsmanFault):
        return failure.code not in REFUSALS
    if isinstance(failure, Disconnected):
        return not failure.rejected
    return isinstance(failure, (ProtocolError, asyncio.CancelledError))
