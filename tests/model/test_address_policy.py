"""Addresses that are never connected to."""

from __future__ import annotations

import pytest

from kit.machines import local_endpoint
from opsjobs.model.addresses import AddressPolicy
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.local import LocalSessions

METADATA = [
    "169.254.169.254",
    "169.254.0.1",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"]


def allows(policy: AddressPolicy, address: str) -> bool:
    try:
        policy(address)
    except RemoteFailure as failure:
        return failure.code is not ErrorCode.SAFETY_BLOCKED
    return True


@pytest.mark.parametrize("address", METADATA)
def test_metadata_addresses_are_refused_everywhere(address: str) -> None:
    assert not allows(AddressPolicy(), address)
    assert not allows(AddressPolicy(production=True), address)


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_refused_in_production_only(address: str) -> None:
    assert allows(AddressPolicy(), address)
    assert not allows(AddressPolicy(production=True), address)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.7", "2001:db8::1", "172.16.3.4"])
def test_ordinary_addresses_are_allowed(address: str) -> None:
    assert allows(AddressPolicy(production=True), address)


def test_allow_lists_exceptions() -> None:
    policy = AddressPolicy.parse(allow=["127.0.0.0/8", "169.254.10.0/24", "::1"], production=True)
    assert allows(policy, "127.0.0.1")
    assert allows(policy, "::1")
    assert allows(policy, "169.254.10.7")
    assert not allows(policy, "169.254.169.254")


def test_allow_takes_nothing_away() -> None:
    assert allows(AddressPolicy.parse(allow=["127.0.0.0/8"]), "10.0.0.1")


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"])
def test_deny_wins_over_allow_in_every_spelling(address: str) -> None:
    assert not allows(
        AddressPolicy.parse(allow=["10.0.0.0/8", "::/0"], deny=["10.1.0.0/16"]), address
    )


def test_a_network_that_is_none_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="99"):
        AddressPolicy.parse(deny=["10.0.0.0/99"])


async def test_this_machine_is_no_target_where_loopback_is_none() -> None:
    production = LocalSessions(AddressPolicy(production=True))
    with pytest.raises(RemoteFailure) as refused:
        async with production.session(local_endpoint()):
            pass
    assert refused.value.code is ErrorCode.SAFETY_BLOCKED
    assert not (await production.test(local_endpoint()))[0].ok
