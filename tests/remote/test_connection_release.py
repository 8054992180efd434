"""Closed connections are freed at once; none waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import asyncssh
import pytest
import uvloop

from kit.command_runs import code_of, run
from kit.machines import endpoint_of
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import proxy
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.remote.output_buffer import OutputBuffer
from opsjobs.remote.ssh.connection import SshConnection
from opsjobs.remote.ssh.connection_group import PooledConnection
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from opsjobs.remote.ssh.process import Receiver
from remote.conftest import pool

KINDS = (
    asyncssh.SSHClientConnection,
    asyncssh.SSHClientChannel,
    SshConnection,
    Receiver,
    OutputBuffer,
    PooledConnection,
)
SECONDS = 30.0


def living() -> Counter[str]:
    """Return the number of objects of each type that a connection consists of."""
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, KINDS))


@asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """Check that the block leaves no more of these objects, without garbage collection."""
    gc.collect()
    before = living()
    gc.disable()
    try:
        yield
        deadline = asyncio.get_running_loop().time() + SECONDS
        while (left := living() - before) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        assert left == Counter()
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def bastion() -> Iterator[Sshd]:
    with sshd() as running:
        yield running


async def command(server: Sshd, sessions: SshPool) -> None:
    await run(sessions, endpoint_of(server), "echo hi; exit 3")


async def channel_that_is_let_go(server: Sshd, sessions: SshPool) -> None:
    async with sessions.session(endpoint_of(server)) as session:
        process = await session.start("yes")
        await anext(aiter(process))


async def files(server: Sshd, sessions: SshPool) -> None:
    async with sessions.session(endpoint_of(server)) as session, session.disk() as disk:
        await disk.look("/etc")


async def refused_login(server: Sshd, sessions: SshPool) -> None:
    wrong = Credential("1", 1, "login", CredentialType.PASSWORD, server.user, Secret("wrong"))
    assert await code_of(sessions, endpoint_of(server, credential=wrong)) is ErrorCode.AUTH_FAILED


async def foreign_host_key(server: Sshd, sessions: SshPool) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    assert await code_of(sessions, endpoint_of(server, host_keys=(other,))) is ErrorCode.HOST_KEY


async def hang_up_before_the_login(_server: Sshd, sessions: SshPool) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert await code_of(sessions, endpoint_of(_server, port=port)) is ErrorCode.CONNECTION_LOST


async def broken_wire(server: Sshd, sessions: SshPool) -> None:
    async with (
        proxy(server.host, server.port) as way,
        sessions.session(endpoint_of(server, port=way.port)) as session,
    ):
        process = await session.start("sleep 60")
        way.reset_all()
        with pytest.raises(RemoteFailure):
            async for _ in process:
                pass


STORIES = [
    command,
    channel_that_is_let_go,
    files,
    refused_login,
    foreign_host_key,
    hang_up_before_the_login,
    broken_wire,
]


@pytest.mark.parametrize("story", STORIES)
async def test_a_connection_that_is_over_is_freed_at_once(
    server: Sshd, story: Callable[[Sshd, SshPool], Awaitable[None]]
) -> None:
    async with no_leaks(), pool() as sessions:
        await story(server, sessions)


async def test_a_connection_through_a_jump_host_is_freed_at_once(
    server: Sshd, bastion: Sshd
) -> None:
    async with no_leaks(), pool() as sessions:
        await run(
            sessions, endpoint_of(server, jumps=(endpoint_of(bastion, name="bastion"),)), "echo hi"
        )


async def test_an_idle_connection_that_is_closed_is_freed_while_the_pool_lives(
    server: Sshd,
) -> None:
    async with pool(limits=PoolLimits(idle_seconds=0.4)) as sessions, no_leaks():
        await run(sessions, endpoint_of(server), "echo hi")
        while sessions.connections:
            await asyncio.sleep(0.05)


def test_under_uvloop_a_closed_connection_leaves_nothing_to_collect(server: Sshd) -> None:
    """As in a worker: not one object of it is left, of any type."""

    async def garbage() -> int:
        async with pool(limits=PoolLimits(idle_seconds=0.4)) as sessions:
            await command(server, sessions)
            gc.collect()
            gc.disable()
            try:
                while sessions.connections:
                    await asyncio.sleep(0.05)
                await command(server, sessions)
                while sessions.connections:
                    await asyncio.sleep(0.05)
                return gc.collect()
            finally:
                gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(garbage()) <= 10
