"""A kill proves that the whole process group is dead, or reports that this is unknown."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from kit.command_runs import read_to_end, run
from kit.machines import endpoint_of, local_endpoint
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import proxy
from opsjobs.model.execution import CancelProof
from opsjobs.model.program import RunKey, StartOrder
from opsjobs.model.target import Endpoint
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Sessions
from opsjobs.remote.ssh.pool import PoolLimits
from remote.conftest import pool
from remote.spool_machines import until

# A child in the same group that ignores TERM, and a shell that does not.
DEAF_CHILD = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"


async def first_line(process: RemoteProcess) -> bytes:
    line = b""
    async for piece in process:
        assert isinstance(piece, Output)
        line += piece.data
        if line.endswith(b"\n"):
            break
    return line


def alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def kill_a_deaf_child(sessions: Sessions, where: Endpoint) -> None:
    async with sessions.session(where) as session:
        process = await session.start(DEAF_CHILD)
        child = int(await first_line(process))
        assert alive(child)
        assert await process.kill(0.2) is CancelProof.KILLED
        assert not alive(child)


async def test_a_child_that_ignores_term_is_dead_after_the_kill_for_a_user(server: Sshd) -> None:
    async with pool() as sessions:
        await kill_a_deaf_child(sessions, endpoint_of(server))


async def test_a_child_that_ignores_term_is_dead_after_the_kill_for_root(server: Sshd) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: logs in as root")
    server.authorize("root", (server.folder / "login.pub").read_text().strip())
    async with pool() as sessions:
        await kill_a_deaf_child(sessions, endpoint_of(server, user="root"))


async def test_a_child_that_ignores_term_is_dead_after_the_kill_on_this_machine() -> None:
    await kill_a_deaf_child(LocalSessions(), local_endpoint())


async def test_what_is_left_of_the_group_after_the_shell_ended_is_killed_as_well(
    server: Sshd,
) -> None:
    async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
        process = await session.start(
            "sh -c 'trap \"\" TERM; echo $0 $$; sleep 60; sleep 60' $$ & sleep 0.2; exit 0"
        )
        shell, child = map(int, (await first_line(process)).split())
        await until(lambda: not alive(shell))
        # The shell is gone; its child still holds the channel open.
        assert alive(child)
        assert await process.kill(0.2) is CancelProof.KILLED
        assert not alive(child)


async def test_a_kill_while_contact_is_gone_is_unreachable(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port) as way,
        pool() as sessions,
        sessions.session(endpoint_of(server, port=way.port)) as session,
    ):
        process = await session.start("echo $$; sleep 60")
        shell = int(await first_line(process))
        way.reset_all()
        assert await process.kill(0.2) is CancelProof.UNREACHABLE
        assert alive(shell)
        os.kill(shell, 9)


async def test_a_process_of_another_user_that_we_may_not_signal_is_unreachable(
    server: Sshd, becomes_root: Path
) -> None:
    async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
        process = await session.start(
            f"{becomes_root} --reuid 0 sh -c 'echo $$; sleep 20; sleep 20'; true"
        )
        stubborn = int(await first_line(process))
        started = time.monotonic()
        try:
            # The shell dies, which is all that the channel would report; the process that became
            # root lives on.
            assert await process.kill(0.2) is CancelProof.UNREACHABLE
            assert alive(stubborn)
            assert 4 < time.monotonic() - started < 60
        finally:
            os.killpg(os.getpgid(stubborn), 9)


@pytest.fixture
def becomes_root() -> Iterator[Path]:
    """Yield a set-user-id `setpriv`, which acts like sudo."""
    found = shutil.which("setpriv")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root and setpriv: makes a set-user-id program")
    folder = Path("/var/tmp") / f"opsjobs-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    program = folder / "setpriv"
    shutil.copy(found, program)
    program.chmod(0o4755)
    yield program
    shutil.rmtree(folder)


async def test_a_network_device_is_killed_by_signals_of_the_channel(server: Sshd) -> None:
    async with (
        pool() as sessions,
        sessions.session(endpoint_of(server, platform="network")) as session,
    ):
        process = await session.start("trap '' TERM; echo up; while :; do sleep 0.1; done")
        assert await first_line(process) == b"up\n"
        assert await process.kill(0.3) is CancelProof.KILLED
        assert (await read_to_end(process))[2] == RemoteExit(None, "KILL")


async def test_a_command_for_a_network_device_is_sent_as_it_is(server: Sshd) -> None:
    async with pool() as sessions:
        show = "tr '\\0' ' ' </proc/$$/cmdline"
        out, _, _ = await run(sessions, endpoint_of(server, platform="network"), f"{show}; :")
        assert out.decode().strip().endswith(f"-c {show}; :")


async def test_many_kills_at_once_on_one_connection(server: Sshd) -> None:
    async with pool() as sessions:

        async def one() -> CancelProof:
            async with sessions.session(endpoint_of(server)) as session:
                process = await session.start("echo up; sleep 60; sleep 60")
                await first_line(process)
                return await process.kill(2.0)

        assert await asyncio.gather(*(one() for _ in range(16))) == [CancelProof.KILLED] * 16


SHELLS = [
    "/bin/sh",
    "/bin/bash",
    "/usr/bin/rbash",
    "/usr/bin/tcsh",
    "/usr/bin/fish",
    "/usr/bin/zsh",
    "/usr/bin/ksh",
]
HERE = [path for path in SHELLS if Path(path).exists()]


@pytest.fixture(params=HERE)
def shell(request: pytest.FixtureRequest) -> str:
    """Set the account's login shell to each one that this machine has."""
    path: str = request.param
    if os.geteuid() != 0:
        pytest.skip("needs root: changes an account's login shell")
    name = "opsjobs-shell"
    subprocess.run(["useradd", "-m", "-s", path, name], capture_output=True, check=False)
    subprocess.run(["usermod", "-p", "*", "-s", path, name], check=True, capture_output=True)
    return name


async def test_every_login_shell_gives_exact_output_and_can_be_killed(
    server: Sshd, shell: str
) -> None:
    server.authorize(shell, (server.folder / "login.pub").read_text().strip())
    async with pool() as sessions:
        where = endpoint_of(server, user=shell)
        assert await run(sessions, where, "printf 'a\\000b'; exit 3") == (
            b"a\0b",
            b"",
            RemoteExit(3),
        )
        assert await run(sessions, where, "cat", b"in") == (b"in", b"", RemoteExit(0))
        async with sessions.session(where) as session:
            process = await session.start("echo up; sleep 60; sleep 60")
            assert await first_line(process) == b"up\n"
            assert await process.kill(1.0) is CancelProof.KILLED
            left = subprocess.run(
                ["pgrep", "-u", shell, "-r", "D,R,S,T", "sleep"], capture_output=True, check=False
            )
            assert left.stdout == b""


async def test_a_server_with_one_session_a_connection_is_asked_over_another_connection() -> None:
    with sshd(max_sessions=1) as narrow:
        async with pool() as sessions:
            # The channel's own signals would end the shell, and leave the child.
            await kill_a_deaf_child(sessions, endpoint_of(narrow))


async def test_a_durable_run_is_cancelled_on_a_server_with_one_session_a_connection() -> None:
    with sshd(max_sessions=1) as narrow:
        async with pool() as sessions, sessions.session(endpoint_of(narrow)) as session:
            spool = session.durable()
            assert spool is not None
            order = StartOrder(RunKey(uuid4(), "step-1", 1), "echo up; sleep 60 & sleep 60", 60.0)
            process = await spool.begin(order, await spool.identity())
            assert await first_line(process) == b"up\n"
            assert (await spool.cancel(order.key, 1.0)).proof is CancelProof.KILLED


async def test_a_server_that_lets_nobody_in_twice_is_asked_to_signal_the_command() -> None:
    with sshd(max_sessions=1) as narrow:
        async with (
            pool(limits=PoolLimits(connections_per_key=1)) as sessions,
            sessions.session(endpoint_of(narrow)) as session,
        ):
            process = await session.start("echo up; sleep 60; sleep 60")
            assert await first_line(process) == b"up\n"
            assert await process.kill(1.0) is CancelProof.KILLED
