"""Fixtures for the tests of remote: one real sshd, and pools that are closed at the end."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from kit.sshd import Sshd, sshd
from opsjobs.clock import Clock
from opsjobs.remote.ssh.connect import Connector, allow_any, forget_host_key
from opsjobs.remote.ssh.connection import SshOptions
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from remote.spool_machines import PROGRAMS

Pools = Callable[..., AbstractAsyncContextManager[SshPool]]


@pytest.fixture(scope="session")
def server() -> Iterator[Sshd]:
    """One real sshd for all of these tests; it accepts any address of 127.0.0.0/8."""
    with sshd(addresses=("0.0.0.0",)) as running:
        yield running


@pytest.fixture(params=[*PROGRAMS])
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell that may be the `sh` of a target."""
    name: str = request.param
    if shutil.which(PROGRAMS[name]) is None:
        pytest.skip(f"needs {name}: install it")
    return name


@asynccontextmanager
async def pool(
    *,
    options: SshOptions | None = None,
    limits: PoolLimits | None = None,
    clock: Clock | None = None,
    allow: Callable[[str], None] = allow_any,
    remember: Callable[[str, str], Awaitable[None]] = forget_host_key,
) -> AsyncIterator[SshPool]:
    """Yield a pool and close it after the block."""
    made = SshPool(Connector(options, allow=allow, remember=remember), limits, clock)
    try:
        yield made
    finally:
        await made.close()
