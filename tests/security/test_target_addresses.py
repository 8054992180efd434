"""Point 17: link-local, metadata and (in production) loopback addresses are no targets.

This holds in any spelling, and through jump hosts.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from kit.command_runs import failure_of, run
from kit.machines import small_server
from opsjobs.model.addresses import AddressPolicy
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.dial import check_literal, dial
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool

METADATA = [
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.169.254.",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:1:1::5601:5601",
    "fe80::1",
    "fe80::1%lo",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
]
LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "localhost",
    "a.localhost.",
]
ORDINARY = ["10.0.0.5", "192.0.2.7", "2001:db8::1", "203.0.113.9"]


def refused(policy: AddressPolicy, host: str) -> bool:
    """Return whether this host is refused through a jump host, which resolves its name."""
    try:
        check_literal(host, policy)
    except RemoteFailure as failure:
        return failure.code is ErrorCode.SAFETY_BLOCKED
    return False


async def dialled(policy: AddressPolicy, host: str) -> ErrorCode | None:
    """Return the result of connecting to this host directly, at a port where nothing listens."""
    try:
        connected = await dial(host, 1, policy, asyncio.get_running_loop().time() + 60)
    except RemoteFailure as failure:
        return failure.code
    connected.close()
    return None


@pytest.mark.parametrize("production", [False, True])
async def test_metadata_addresses_are_refused_in_every_spelling(production: bool) -> None:
    policy = AddressPolicy(production=production)
    assert [host for host in METADATA if not refused(policy, host)] == []
    codes = {host: await dialled(policy, host) for host in METADATA}
    # DNS: this machine's resolver does not accept the spelling; in both cases no connection was
    # tried.
    assert {
        host: code
        for host, code in codes.items()
        if code not in (ErrorCode.SAFETY_BLOCKED, ErrorCode.DNS)
    } == {}
    assert [*codes.values()].count(ErrorCode.SAFETY_BLOCKED) >= len(METADATA) - 2


async def test_loopback_is_refused_in_production_alone() -> None:
    assert [host for host in LOOPBACK if not refused(AddressPolicy(production=True), host)] == []
    assert [host for host in LOOPBACK if refused(AddressPolicy(), host)] == []
    assert await dialled(AddressPolicy(production=True), "127.1") is ErrorCode.SAFETY_BLOCKED
    assert await dialled(AddressPolicy(), "127.1") is ErrorCode.CONNECTION_REFUSED


def test_exceptions_are_listed_and_a_deny_wins() -> None:
    listed = AddressPolicy.parse(
        allow=["169.254.10.0/24", "127.0.0.0/8"], deny=["169.254.10.9/32"], production=True
    )
    assert not refused(listed, "169.254.10.7")
    assert not refused(listed, "127.0.0.1")
    assert refused(listed, "169.254.10.9")
    assert refused(listed, "169.254.169.254")
    assert [host for host in ORDINARY if refused(listed, host)] == []


async def test_what_was_resolved_is_what_is_checked_and_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The owner of a name first answers with a valid address, then with a forbidden one.

    The name is resolved once.
    """
    loop, answers = asyncio.get_running_loop(), ["127.0.0.1", "169.254.169.254"]
    asked: list[Any] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    async with small_server() as small:
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        pool = SshPool(Connector(allow=AddressPolicy()))
        try:
            good = small.endpoint(name="web-1")
            from_name = type(good)(
                type(good.target)(**_changed(good.target, "rebinding.example.org")), good.credential
            )
            assert await run(pool, from_name, "true") == (b"", b"", RemoteExit(0))
            assert asked == ["rebinding.example.org"]
        finally:
            await pool.close()
        pool = SshPool(Connector(allow=AddressPolicy()))
        try:
            failure = await failure_of(pool, from_name)
        finally:
            await pool.close()
        assert failure.code is ErrorCode.SAFETY_BLOCKED
        assert small.connections == 1


def _changed(target: Any, host: str) -> dict[str, Any]:
    return {name: getattr(target, name) for name in target.__dataclass_fields__} | {"host": host}
