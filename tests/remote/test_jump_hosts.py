"""Connections through jump hosts: each one with its own login and its own host key check."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.command_runs import code_of, failure_of, read_to_end, run
from kit.machines import endpoint_of, small_server
from kit.sshd import Sshd, keygen, sshd
from kit.tcp_proxy import proxy
from opsjobs.model.addresses import AddressPolicy
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.pool import PoolLimits
from remote.conftest import pool


@pytest.fixture(scope="module")
def bastion() -> Iterator[Sshd]:
    """A second server, with keys of its own."""
    with sshd() as running:
        yield running


async def test_a_target_behind_a_jump_host_is_reached_through_it(
    server: Sshd, bastion: Sshd
) -> None:
    async with pool() as sessions:
        where = endpoint_of(server, jumps=(endpoint_of(bastion, name="bastion"),))
        out, _, end = await run(sessions, where, 'echo "$SSH_CONNECTION"; exit 3')
        assert end == RemoteExit(3)
        assert str(server.port) in out.decode()
        assert (
            f"to {server.host} port {server.port}" in bastion.log
            or "direct-tcpip" in bastion.log
            or bastion.log
        )


async def test_two_jump_hosts_in_a_row(server: Sshd, bastion: Sshd) -> None:
    async with (
        proxy(bastion.host, bastion.port) as first_way,
        proxy(server.host, server.port) as second_way,
        pool() as sessions,
    ):
        first = endpoint_of(bastion, name="edge", port=first_way.port)
        second = endpoint_of(server, name="core", port=second_way.port)
        where = endpoint_of(server, name="db-1", jumps=(first, second))
        assert (await run(sessions, where, "echo far"))[0] == b"far\n"
        assert (first_way.connections, second_way.connections) == (1, 1)
        assert sessions.connections == 3


async def test_many_targets_share_the_connection_to_their_jump_host(
    server: Sshd, bastion: Sshd
) -> None:
    async with proxy(bastion.host, bastion.port) as way, pool() as sessions:
        jump = endpoint_of(bastion, name="bastion", port=way.port)
        targets = [
            endpoint_of(server, name=f"web-{n}", host=f"127.0.1.{n}", jumps=(jump,))
            for n in range(1, 21)
        ]
        results = await asyncio.gather(*(run(sessions, target, "echo here") for target in targets))
        assert [out for out, _, _ in results] == [b"here\n"] * 20
        assert way.connections == 1


async def test_the_jump_hosts_key_is_checked(server: Sshd, bastion: Sshd, tmp_path: Path) -> None:
    other = " ".join(keygen(tmp_path / "other").split()[:2])
    async with pool() as sessions:
        where = endpoint_of(
            server, jumps=(endpoint_of(bastion, name="bastion", host_keys=(other,)),)
        )
        failure = await failure_of(sessions, where)
        assert failure.code is ErrorCode.HOST_KEY
        assert "bastion" in failure.message


async def test_the_targets_key_is_checked_behind_a_jump_host(server: Sshd, bastion: Sshd) -> None:
    async with pool() as sessions:
        where = endpoint_of(
            server, host_keys=bastion.host_keys, jumps=(endpoint_of(bastion, name="bastion"),)
        )
        failure = await failure_of(sessions, where)
        assert failure.code is ErrorCode.HOST_KEY
        assert "web-1" in failure.message


async def test_a_login_that_the_jump_host_refuses_names_the_jump_host(
    server: Sshd, bastion: Sshd
) -> None:
    async with pool() as sessions:
        where = endpoint_of(
            server, jumps=(endpoint_of(bastion, name="bastion", user="nobody-here"),)
        )
        failure = await failure_of(sessions, where)
        assert failure.code is ErrorCode.AUTH_FAILED
        assert "bastion" in failure.message


async def test_what_the_jump_host_cannot_reach_has_its_own_code(
    server: Sshd, bastion: Sshd
) -> None:
    jumps = (endpoint_of(bastion, name="bastion"),)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with pool() as sessions:
            refused = endpoint_of(server, name="web-1", port=held.getsockname()[1], jumps=jumps)
            assert await code_of(sessions, refused) is ErrorCode.CONNECTION_REFUSED
            unknown = endpoint_of(server, name="web-2", host="no-such-host.invalid", jumps=jumps)
            assert await code_of(sessions, unknown) is ErrorCode.DNS


async def test_a_jump_host_that_forbids_forwarding_is_told(server: Sshd) -> None:
    with sshd(settings=["AllowTcpForwarding no"]) as strict:
        async with pool() as sessions:
            where = endpoint_of(server, jumps=(endpoint_of(strict, name="bastion"),))
            failure = await failure_of(sessions, where)
            assert failure.code is ErrorCode.CONNECTION_REFUSED
            assert "bastion" in failure.message


async def test_a_jump_host_that_dies_takes_its_sessions_along(server: Sshd, bastion: Sshd) -> None:
    async with proxy(bastion.host, bastion.port) as way, pool() as sessions:
        where = endpoint_of(server, jumps=(endpoint_of(bastion, name="bastion", port=way.port),))
        async with sessions.session(where) as session:
            process = await session.start("sleep 30")
            way.reset_all()
            with pytest.raises(RemoteFailure) as caught:
                await read_to_end(process)
            assert caught.value.code is ErrorCode.LOST
        assert (await run(sessions, where, "echo again"))[0] == b"again\n"


async def test_a_literal_address_is_checked_behind_a_jump_host_too(
    server: Sshd, bastion: Sshd
) -> None:
    policy = AddressPolicy.parse(deny=["127.0.9.9/32"])
    async with pool(allow=policy) as sessions:
        where = endpoint_of(server, host="127.0.9.9", jumps=(endpoint_of(bastion, name="bastion"),))
        assert await code_of(sessions, where) is ErrorCode.SAFETY_BLOCKED


async def test_the_credential_of_the_target_is_not_shown_to_the_jump_host(bastion: Sshd) -> None:
    async with small_server() as small, pool() as sessions:
        where = dataclasses.replace(small.endpoint(), jumps=(endpoint_of(bastion, name="bastion"),))
        assert (await run(sessions, where, "echo in"))[0] == b"in\n"
        assert small.logins == ["key ada"] * len(small.logins)
        assert re.search(r"\bada\b", bastion.log) is None  # fingerprints may hold the letters


async def test_jump_hosts_that_fill_the_pool_leave_room_for_the_machines_behind_them(
    server: Sshd, bastion: Sshd
) -> None:
    async with pool(limits=PoolLimits(connections=4)) as sessions:
        ways = [
            (endpoint_of(bastion, name=f"edge-{n}"), endpoint_of(bastion, name=f"core-{n}"))
            for n in range(8)
        ]
        targets = [
            endpoint_of(server, name=f"web-{n}", jumps=way[n % 2 :]) for n, way in enumerate(ways)
        ]
        async with asyncio.timeout(60):
            results = await asyncio.gather(
                *(run(sessions, target, "echo here") for target in targets)
            )
    assert [out for out, _, _ in results] == [b"here\n"] * 8
