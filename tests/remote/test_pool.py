"""Connections are shared, limited, closed when idle, and never leaked if a caller is cancelled."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kit.command_runs import code_of, failure_of, read_to_end, run
from kit.machines import endpoint_of, key_credential, small_server
from kit.sshd import Sshd, keygen, sshd
from kit.tcp_proxy import Faults, proxy
from opsjobs.clock import TurnedClock
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import PoolLimits, SshPool
from remote.conftest import pool

SECONDS = 60.0


class WatchedClock(TurnedClock):
    """A turned clock that counts the tasks that sleep by it."""

    sleeping = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeping += 1
        try:
            await super().sleep(seconds)
        finally:
            self.sleeping -= 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition in this loop."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def test_sessions_one_after_the_other_share_a_connection(server: Sshd) -> None:
    async with proxy(server.host, server.port) as way, pool() as sessions:
        for _ in range(5):
            assert (await run(sessions, endpoint_of(server, port=way.port), "true"))[
                2
            ] == RemoteExit(0)
        assert way.connections == 1


async def test_a_session_knows_when_its_connection_was_logged_in_to(server: Sshd) -> None:
    async with pool() as sessions:
        before, where = time.monotonic(), endpoint_of(server)
        async with sessions.session(where) as first, sessions.session(where) as second:
            found = first.login_times
            assert found is not None
            assert before < found.began <= found.ended <= time.monotonic()
            assert second.login_times == found


async def test_the_ninth_session_opens_a_second_connection(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port) as way,
        pool() as sessions,
        AsyncExitStack() as stack,
    ):
        where = endpoint_of(server, port=way.port)
        for count in range(1, 18):
            session = await stack.enter_async_context(sessions.session(where))
            assert (await read_to_end(await session.start("true")))[2] == RemoteExit(0)
            assert way.connections == -(-count // 8)


async def test_waiting_sessions_share_the_connects_that_they_need(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port, Faults(delay_seconds=0.02)) as way,
        pool() as sessions,
    ):
        where = endpoint_of(server, port=way.port)
        await asyncio.gather(*(run(sessions, where, "sleep 0.3") for _ in range(20)))
        assert way.connections == 3


async def test_beyond_the_connections_of_one_machine_sessions_wait_their_turn(server: Sshd) -> None:
    limits = PoolLimits(connections_per_key=2, channels_per_connection=2)
    async with proxy(server.host, server.port) as way, pool(limits=limits) as sessions:
        where = endpoint_of(server, port=way.port)
        results = await asyncio.gather(
            *(run(sessions, where, f"echo {n}; sleep 0.05") for n in range(12))
        )
        assert [out for out, _, _ in results] == [b"%d\n" % n for n in range(12)]
        assert way.connections == 2


async def test_at_most_four_handshakes_at_a_time_to_one_host_and_port(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port, Faults(delay_seconds=0.03)) as way,
        pool() as sessions,
    ):
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, way.handshaking)
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        targets = [endpoint_of(server, port=way.port, name=f"web-{n}") for n in range(12)]
        await asyncio.gather(*(run(sessions, target, "true") for target in targets))
        watching.cancel()
        assert way.connections == 12
        assert 2 <= peak <= 4


async def test_sixty_sessions_to_a_server_with_default_limits_all_succeed() -> None:
    with sshd(max_startups="10:30:100", max_sessions=10) as strict:
        async with pool() as sessions:
            targets = [endpoint_of(strict, name=f"web-{n}") for n in range(20)]
            results = await asyncio.gather(
                *(run(sessions, target, "exit 3") for target in targets for _ in range(3))
            )
            assert {end for _, _, end in results} == {RemoteExit(3)}


async def test_a_server_that_allows_fewer_sessions_is_believed() -> None:
    with sshd(max_sessions=3) as narrow:
        async with pool() as sessions:
            results = await asyncio.gather(
                *(run(sessions, endpoint_of(narrow), f"sleep 0.2; echo {n}") for n in range(8))
            )
            assert [out for out, _, _ in results] == [b"%d\n" % n for n in range(8)]


async def test_idle_connections_are_closed_after_a_minute(server: Sshd) -> None:
    clock = WatchedClock()
    async with pool(clock=clock) as sessions:
        await run(sessions, endpoint_of(server), "true")
        await until(lambda: clock.sleeping > 0)
        clock.turn(59)
        await asyncio.sleep(0.05)
        assert sessions.connections == 1
        await until(lambda: clock.sleeping > 0)
        clock.turn(16)
        await until(lambda: sessions.connections == 0)


async def test_a_connection_in_use_is_not_idle(server: Sshd) -> None:
    clock = WatchedClock()
    async with pool(clock=clock) as sessions, sessions.session(endpoint_of(server)) as session:
        for _ in range(3):
            await until(lambda: clock.sleeping > 0)
            clock.turn(61)
            await asyncio.sleep(0.02)
        assert (await read_to_end(await session.start("echo here")))[0] == b"here\n"
        assert sessions.connections == 1


async def test_the_longest_idle_connection_makes_room_for_a_new_one(server: Sshd) -> None:
    limits = PoolLimits(connections=3)
    async with pool(limits=limits) as sessions:
        targets = [endpoint_of(server, name=f"web-{n}") for n in range(6)]
        for target in targets:
            assert (await run(sessions, target, "true"))[2] == RemoteExit(0)
            assert sessions.connections <= 3


async def test_without_an_idle_connection_one_waits_for_room(server: Sshd) -> None:
    async with pool(limits=PoolLimits(connections=1)) as sessions:
        async with sessions.session(endpoint_of(server, name="web-1")):
            waiting = asyncio.create_task(
                run(sessions, endpoint_of(server, name="web-2"), "echo in")
            )
            await asyncio.sleep(0.1)
            assert not waiting.done()
        assert (await waiting)[0] == b"in\n"


async def test_dead_connections_are_dropped(server: Sshd) -> None:
    async with proxy(server.host, server.port) as way, pool() as sessions:
        where = endpoint_of(server, port=way.port)
        await run(sessions, where, "true")
        way.reset_all()
        await until(lambda: sessions.connections == 0)
        assert (await run(sessions, where, "echo back"))[0] == b"back\n"


async def test_who_gives_up_does_not_take_the_connect_of_the_others_along(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port, Faults(delay_seconds=0.05)) as way,
        pool() as sessions,
    ):
        where = endpoint_of(server, port=way.port)
        first = asyncio.create_task(run(sessions, where, "true"))
        others = [asyncio.create_task(run(sessions, where, "true")) for _ in range(3)]
        await until(lambda: way.connections == 1)
        first.cancel()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert [result[2] for result in results[1:] if not isinstance(result, BaseException)] == [
            RemoteExit(0)
        ] * 3
        assert way.connections == 1


async def test_cancelled_sessions_leak_no_places(server: Sshd) -> None:
    limits = PoolLimits(connections_per_key=1, channels_per_connection=3)
    async with pool(limits=limits) as sessions:
        where = endpoint_of(server)
        for round_number in range(40):
            tasks = [asyncio.create_task(run(sessions, where, "sleep 0.01")) for _ in range(6)]
            await asyncio.sleep(0.001 * (round_number % 12))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # No place was lost: three commands that wait for each other can all run.
        meet = [f"echo {n}; sleep 0.3" for n in range(3)]
        async with asyncio.timeout(60):
            results = await asyncio.gather(*(run(sessions, where, command) for command in meet))
        assert [out for out, _, _ in results] == [b"0\n", b"1\n", b"2\n"]


async def test_a_refused_login_is_not_retried(server: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    wrong = key_credential(server.user, (tmp_path / "other").read_text())
    clock = TurnedClock()
    async with proxy(server.host, server.port) as way, pool(clock=clock) as sessions:
        where = endpoint_of(server, port=way.port, credential=wrong)
        codes = await asyncio.gather(*(code_of(sessions, where) for _ in range(30)))
        assert set(codes) == {ErrorCode.AUTH_FAILED}
        later = await failure_of(sessions, where)
        assert (later.code, later.because) == (ErrorCode.CIRCUIT_OPEN, ErrorCode.AUTH_FAILED)
        assert "refused the login" in later.message
        assert way.connections == 1
        # another version of the credential is another login
        better = endpoint_of(
            server, port=way.port, credential=dataclasses.replace(wrong, version=2)
        )
        assert await code_of(sessions, better) is ErrorCode.AUTH_FAILED
        assert way.connections == 2
        assert await code_of(sessions, better) is ErrorCode.CIRCUIT_OPEN
        clock.turn(901)
        assert await code_of(sessions, better) is ErrorCode.AUTH_FAILED
        assert way.connections == 3


async def test_a_failed_connect_is_told_to_all_who_waited_and_tried_again_later(
    server: Sshd,
) -> None:
    async with proxy(server.host, server.port, Faults(refuse=True)) as way, pool() as sessions:
        where = endpoint_of(server, port=way.port)
        codes = await asyncio.gather(*(code_of(sessions, where) for _ in range(20)))
        assert set(codes) == {ErrorCode.CONNECTION_LOST}
        assert way.connections == 1
        way.faults.refuse = False
        assert (await run(sessions, where, "true"))[2] == RemoteExit(0)


async def test_a_new_version_of_a_credential_gets_a_connection_of_its_own(server: Sshd) -> None:
    async with proxy(server.host, server.port) as way, pool() as sessions:
        for version in (1, 1, 2):
            login = key_credential(server.user, server.private_key, version=version)
            await run(sessions, endpoint_of(server, port=way.port, credential=login), "true")
        assert way.connections == 2


async def test_a_closed_pool_fails_who_waits_and_takes_nobody_in(server: Sshd) -> None:
    async with proxy(server.host, server.port, Faults(black_hole=True)) as way:
        sessions = SshPool(Connector())
        waiting = asyncio.create_task(code_of(sessions, endpoint_of(server, port=way.port)))
        await until(lambda: way.connections == 1)
        await sessions.close()
        assert await waiting is ErrorCode.CONNECTION_LOST
        assert await code_of(sessions, endpoint_of(server)) is ErrorCode.CONNECTION_LOST


async def test_closing_the_pool_leaves_no_file_descriptor_behind(server: Sshd) -> None:
    async with pool() as warm:
        await run(warm, endpoint_of(server), "true")
    before = open_files()
    async with pool() as sessions:
        await asyncio.gather(
            *(run(sessions, endpoint_of(server, name=f"web-{n}"), "true") for n in range(10))
        )
    await until(lambda: open_files() <= before)


async def test_a_command_is_not_started_again_when_contact_breaks_after_the_request() -> None:
    async with small_server(drop_at_start=True) as small, pool() as sessions:
        with pytest.raises(RemoteFailure) as caught:
            await run(sessions, small.endpoint(), "true")
        assert caught.value.code is ErrorCode.LOST
        assert small.connections == 1


async def test_an_empty_command_and_one_with_nul_are_refused(server: Sshd) -> None:
    async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
        for command in ("", "echo a\0b"):
            with pytest.raises(ValueError, match="NUL"):
                await session.start(command)
