"""The machines of the contract suites: fake, local, asyncssh's server, OpenSSH, WinRM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest

from kit.backing_servers import open_folder
from kit.fake_remote import Deed, FakeSessions, Gate
from kit.machines import endpoint_of, local_endpoint, small_server
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import proxy
from kit.windows_hosts import windows_host
from opsjobs.model.target import Endpoint
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import RemoteExit, RemoteProcess, Sessions
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool

NEVER = 3600.0


async def collect(process: RemoteProcess) -> tuple[bytes, bytes, RemoteExit]:
    """Return both streams and the exit. Check that there is one exit, and that it is last."""
    out, err, ends = bytearray(), bytearray(), []
    async for piece in process:
        assert not ends, "nothing may follow the Exit"
        if isinstance(piece, RemoteExit):
            ends.append(piece)
        else:
            assert 0 < len(piece.data) <= 65_536
            (out if piece.stream == "stdout" else err).extend(piece.data)
    assert len(ends) == 1
    return bytes(out), bytes(err), ends[0]


@dataclass(frozen=True, slots=True)
class Latch:
    """Holds a command back until the test opens it.

    A real command waits for a file; the script of a fake machine waits for a gate.
    """

    path: Path
    gate: Gate = field(default_factory=lambda: Gate(asyncio.Event()))

    @property
    def wait(self) -> str:
        """The shell command that waits for it."""
        return f"until [ -e '{self.path}' ]; do sleep 0.02; done"

    def open(self) -> None:
        """Let the command continue."""
        self.path.touch()
        self.gate.event.set()


@dataclass(frozen=True, slots=True)
class Backend:
    """An implementation of `Sessions`, and a machine to open them to.

    `script` sets the behaviour of a fake machine.
    """

    sessions: Sessions
    endpoint: Endpoint
    folder: Path
    """A folder that commands may write to; not used on a fake backend."""
    fake: FakeSessions | None = None
    break_contact: Callable[[], None] | None = None
    """Breaks every connection to the machine, which keeps running; None without connections."""

    def script(self, command: str, deeds: Sequence[Deed], *, ignores_term: bool = False) -> str:
        """Set what a fake machine does for a command; return the command."""
        if self.fake is not None:
            machine = self.fake.machine(self.endpoint.target.name)
            machine.reply(deeds, to=command)
            machine.ignores_term = ignores_term
        return command


class OpenBackend(Protocol):
    """Opens a backend in the event loop of a test."""

    def __call__(self) -> AbstractAsyncContextManager[Backend]: ...


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """Start one real sshd for the module."""
    with sshd() as running:
        yield running


POSIX_BACKENDS = ["fake", "local", "asyncssh", "openssh"]
EVERY_BACKEND = [*POSIX_BACKENDS, "winrm"]


@pytest.fixture(params=POSIX_BACKENDS)
def open_backend(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of each POSIX backend in turn."""
    return backend_opener(request)


def backend_opener(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of the backend that this fixture's parameter names."""
    kind: str = request.param
    real = request.getfixturevalue("server") if kind == "openssh" else None

    @asynccontextmanager
    async def open_here() -> AsyncIterator[Backend]:
        with open_folder() as folder:
            folder.chmod(0o777)  # the accounts of targets write here, too
            if kind == "fake":
                fake = FakeSessions()
                yield Backend(fake, local_endpoint("web-1"), folder, fake, lambda: _blink(fake))
                await fake.close()
            elif kind == "local":
                yield Backend(LocalSessions(), local_endpoint(), folder)
            elif kind == "winrm":
                async with windows_host() as host:
                    pool = WinrmPool(WinrmConnector())
                    try:
                        yield Backend(
                            pool, host.endpoint(), folder, None, host.server.close_connections
                        )
                    finally:
                        await pool.close()
            elif kind == "asyncssh":
                async with (
                    small_server() as small,
                    _over_a_network(small.endpoint(), folder) as far,
                ):
                    yield far
            else:
                assert real is not None
                async with _over_a_network(endpoint_of(real), folder) as far:
                    yield far

    return open_here


@asynccontextmanager
async def _over_a_network(endpoint: Endpoint, folder: Path) -> AsyncIterator[Backend]:
    """The machine behind a proxy that can break connections."""
    async with proxy(endpoint.target.host, endpoint.target.port) as between:
        near = replace(
            endpoint, target=replace(endpoint.target, host=between.host, port=between.port)
        )
        pool = SshPool(Connector())
        try:
            yield Backend(pool, near, folder, None, between.reset_all)
        finally:
            await pool.close()


def _blink(fake: FakeSessions) -> None:
    for machine in fake.machines.values():
        machine.cut()
        machine.mend()
