"""Accounts with a home and a shell of their own, and durable runs in them.

For the tests of the spool.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from kit.backing_servers import open_folder
from kit.command_runs import read_to_end
from kit.machines import local_endpoint
from opsjobs.model.program import RunKey, SpoolIdentity, StartOrder
from opsjobs.model.target import Endpoint
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import (
    Output,
    RemoteExit,
    RemoteProcess,
    Session,
    Sessions,
    SpoolChanged,
)
from opsjobs.remote.spool.channel import SpoolLogin, Start
from opsjobs.remote.spool.durable import Spool

HOUR = 3600.0
NEEDED = ("cat", "chmod", "date", "dd", "grep", "id", "ln", "mkdir", "mv", "rm", "sleep", "wc")
"""The needs of a durable run, besides a POSIX shell and a kernel that has an id for each boot."""
PROGRAMS = {"dash": "dash", "bash": "bash", "busybox": "busybox"}
_OURS = ("env",)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Account:
    """A home, and the programs that are found there; `sh` is the tested shell."""

    home: Path
    programs: Path
    path: str
    login_shell: str = "/bin/sh"

    @property
    def runs(self) -> Path:
        """The folder with the files of durable runs."""
        return self.home / ".opsjobs" / "runs"

    def dressed(self, start: Start) -> Start:
        """Return this way to start lines, but as this account: its environment and login shell."""

        async def started(line: str, stdin: bytes) -> RemoteProcess:
            return await start(self.line(line), stdin)

        return started

    def line(self, line: str) -> str:
        """Return a command line as this account's login shell gets it."""
        env = shutil.which("env")
        variables = f"HOME={shlex.quote(str(self.home))} PATH={self.path} SHELL={self.login_shell}"
        return f"exec {env} -i {variables} {self.programs}/sh -c {shlex.quote(line)}"

    def without(self, *programs: str) -> Account:
        """Return the account with a path that only has the needs of durable runs, except these."""
        for program in (*NEEDED, "setsid", "tail", "ps", "od", "seq"):
            link = self.programs / program
            found = shutil.which(program)
            if not link.is_symlink() and found is not None:
                link.symlink_to(found)
        for program in programs:
            (self.programs / program).unlink(missing_ok=True)
        return Account(self.home, self.programs, str(self.programs), self.login_shell)


@contextmanager
def account(shell: str, *, owner: str | None = None, home: Path | None = None) -> Iterator[Account]:
    """Create an account until the block ends; `owner`:

    the user that logs in, if it is another one.
    """
    with open_folder() as folder:
        folder.chmod(0o755)
        place, programs = home or folder / "home of it's own", folder / "bin"
        place.mkdir(exist_ok=True)
        programs.mkdir()
        if owner is not None and os.geteuid() == 0:
            shutil.chown(place, owner)
        found = shutil.which(PROGRAMS[shell])
        assert found is not None
        (programs / "sh").symlink_to(found)
        if shell == "busybox":
            for program in (*NEEDED, "setsid", "tail", "ps", "head", "seq", "od", "yes"):
                (programs / program).symlink_to(found)
        yield Account(place, programs, f"{programs}:/usr/local/bin:/usr/bin:/bin")


@dataclass
class Machine:
    """Durable runs of one account over one session."""

    account: Account
    spool: Spool
    bare: tuple[Start, Start]
    """The session's ways to start lines, without the account."""
    identity: SpoolIdentity = field(default_factory=lambda: SpoolIdentity("", ""))
    orders: list[StartOrder] = field(default_factory=list)
    followed: list[RemoteProcess] = field(default_factory=list)

    @classmethod
    def over(cls, session: Session, account: Account) -> Machine:
        """Return the account with a Spool of its own."""
        found = session.durable()
        assert isinstance(found, Spool)
        spool = Spool(
            "web-1", SpoolLogin(), account.dressed(found._start), account.dressed(found._beside)
        )
        return cls(account, spool, (found._start, found._beside))

    async def learn(self) -> SpoolIdentity:
        """Return the identity that a begin without one reports."""
        with pytest.raises(SpoolChanged) as met:
            await self.spool.begin(self.order("exit 99"), None)
        self.orders.pop()
        self.identity = met.value.seen
        return self.identity

    def order(self, command: str, **more: object) -> StartOrder:
        """Return a new run."""
        order = StartOrder(
            RunKey(uuid4(), "step-1", 1), command, **{"timeout_seconds": HOUR, **more}
        )  # type: ignore[arg-type]
        self.orders.append(order)
        return order

    async def begin(self, order: StartOrder | str) -> RemoteProcess:
        """Begin it."""
        return self._noted(
            await self.spool.begin(
                self.order(order) if isinstance(order, str) else order, self.identity
            )
        )

    async def attach(self, order: StartOrder, offsets: tuple[int, int] = (0, 0)) -> RemoteProcess:
        """Attach to it."""
        return self._noted(await self.spool.attach(order, self.identity, offsets))

    def _noted(self, process: RemoteProcess) -> RemoteProcess:
        self.followed.append(process)
        return process

    async def done(self, order: StartOrder | str) -> tuple[bytes, bytes, RemoteExit]:
        """Begin it, and follow it to its end."""
        return await read_to_end(await self.begin(order))

    async def again(self, order: StartOrder) -> tuple[bytes, bytes, RemoteExit]:
        """Read all of it once more, with an attach."""
        return await read_to_end(await self.attach(order))

    def file(self, order: StartOrder, letter: str) -> Path:
        """Return one of a run's files."""
        return self.account.runs / f"{order.key}.{letter}"

    def keeper(self, order: StartOrder) -> int:
        """Return the id of the process that waits for the run's end."""
        return int(self.file(order, "x").read_text().splitlines()[2].split()[2].partition(".")[0])

    async def tidy_up(self) -> None:
        """End what is left; no process of ours may remain after that."""
        for order in self.orders:
            await self.spool.cancel(order.key, 0.0)
        for process in self.followed:
            await process.close()
        for order in self.orders:
            await nothing_left_of(order.key)


@asynccontextmanager
async def machine(
    shell: str = "dash", *, account_: Account | None = None
) -> AsyncIterator[Machine]:
    """Yield this machine as an account with such a shell.

    Its identity and its shell are known, as after a first run. With bash, short commands are
    started the ordinary way; with the others, they are awaited.
    """
    with account(shell) as made:
        async with open_machine(LocalSessions(), local_endpoint(), account_ or made) as web:
            web.spool._login.plain, web.spool._login.awaits = True, shell != "bash"
            yield web


@asynccontextmanager
async def open_machine(
    sessions: Sessions, endpoint: Endpoint, account: Account
) -> AsyncIterator[Machine]:
    """Yield an account on a machine of these sessions, with a known identity.

    Nothing of it is left at the end.
    """
    async with sessions.session(endpoint) as session:
        web = Machine.over(session, account)
        await web.learn()
        try:
            yield web
        finally:
            await web.tidy_up()


async def first(process: RemoteProcess, size: int = 1) -> bytes:
    """Return the first bytes of stdout, at least `size`; reading can continue."""
    said = b""
    async for piece in process:
        assert isinstance(piece, Output), piece
        said += piece.data if piece.stream == "stdout" else b""
        if len(said) >= size:
            return said
    raise AssertionError("it ended before that")


async def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.01)


async def within(seconds: float, happening: Awaitable[T]) -> T:
    """Return the result, in time."""
    return await asyncio.wait_for(happening, seconds)


async def nothing_left_of(key: RunKey, seconds: float = 60.0) -> None:
    """Return once no process of this run is left; fail with their names if that takes longer."""
    deadline = time.monotonic() + seconds
    while left := ours(key):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.01)


def processes() -> dict[int, bytes]:
    """Return every live process, with its arguments."""
    return {
        pid: said
        for folder in Path("/proc").glob("[0-9]*")
        if alive(pid := int(folder.name)) and (said := _read(pid, "cmdline"))
    }


def ours(key: RunKey) -> dict[int, bytes]:
    """Return the processes of this run.

    Those of opsjobs are found by their arguments, those of the command by their mark.
    """
    name = str(key).encode()
    return {
        pid: said
        for pid, said in processes().items()
        if name in said or b"OPSJOBS_RUN=" + name in _read(pid, "environ")
    }


def marked(key: RunKey) -> list[int]:
    """Return the processes of the command."""
    mark = f"OPSJOBS_RUN={key}".encode()
    return [pid for pid in processes() if mark in _read(pid, "environ").split(b"\0")]


def alive(pid: int) -> bool:
    """Return True if the process is alive, not a zombie."""
    state = _read(pid, "stat").rpartition(b") ")[2][:1]
    return state not in (b"", b"Z", b"X")


def kill(pids: Sequence[int]) -> None:
    """Kill them like kill -9."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
