"""The grounds on which the one suite of sessions is played: fake, local, asyncssh's own server, real OpenSSH."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from kit.machines import endpoint_of, local_endpoint, small_server
from kit.sshd import Sshd, sshd
from opsjobs.model.target import Endpoint
from opsjobs.remote.fake import Deed, FakeSessions
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.pool import SshPool
from opsjobs.remote.session import Sessions
from opsjobs.remote.ssh.connect import Connector


@dataclass(frozen=True, slots=True)
class Ground:
    """Sessions, and a machine to open them to; `script` tells a fake machine what a real one would do by itself."""

    sessions: Sessions
    endpoint: Endpoint
    fake: FakeSessions | None = None

    def script(self, command: str, deeds: Sequence[Deed], *, ignores_term: bool = False) -> str:
        """Name a command, and what it does; returns the command."""
        if self.fake is not None:
            machine = self.fake.machine(self.endpoint.target.name)
            machine.reply(deeds, to=command)
            machine.ignores_term = ignores_term
        return command


class Opening(Protocol):
    """Opens a ground inside a test's loop."""

    def __call__(self) -> AbstractAsyncContextManager[Ground]: ...


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """One real sshd for the module."""
    with sshd() as running:
        yield running


@pytest.fixture(params=["fake", "local", "asyncssh", "openssh"])
def ground(request: pytest.FixtureRequest) -> Opening:
    """Each ground in turn."""
    kind: str = request.param
    real = request.getfixturevalue("server") if kind == "openssh" else None

    @asynccontextmanager
    async def open_ground() -> AsyncIterator[Ground]:
        if kind == "fake":
            fake = FakeSessions()
            yield Ground(fake, local_endpoint("web-1"), fake)
            await fake.close()
        elif kind == "local":
            yield Ground(LocalSessions(), local_endpoint())
        elif kind == "asyncssh":
            async with small_server() as small, _pool() as pool:
                yield Ground(pool, small.endpoint())
        else:
            assert real is not None
            async with _pool() as pool:
                yield Ground(pool, endpoint_of(real))

    return open_ground


@asynccontextmanager
async def _pool() -> AsyncIterator[SshPool]:
    pool = SshPool(Connector())
    try:
        yield pool
    finally:
        await pool.close()
