"""Point 13: host keys are pinned or certified; a change blocks and raises an alarm.

A revoked one is refused.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.command_runs import failure_of, run
from kit.machines import endpoint_of
from kit.sshd import Sshd, keygen, needs_sshd, sshd
from opsjobs.model.execution import ErrorCode
from opsjobs.model.retry import NEVER
from opsjobs.model.target import Endpoint, HostKeyPolicy, Target, TargetDraft
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool
from opsjobs.store.envelope import new_key
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault

OK = (b"", b"", RemoteExit(0))


@dataclass
class Certified:
    """A server whose host key was signed, the CA that signed it, and the key."""

    server: Sshd
    authority: str
    key: str


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    needs_sshd()
    folder = tmp_path_factory.mktemp("host-ca")
    authority, key = keygen(folder / "authority"), keygen(folder / "host")
    sign = [
        "ssh-keygen",
        "-q",
        "-s",
        str(folder / "authority"),
        "-I",
        "web-1",
        "-h",
        "-n",
        "127.0.0.1",
        str(folder / "host.pub"),
    ]
    subprocess.run(sign, check=True, capture_output=True)
    settings = [f"HostKey {folder}/host", f"HostCertificate {folder}/host-cert.pub"]
    with sshd(addresses=("0.0.0.0",), host_key_types=("ecdsa",), settings=settings) as running:
        yield Certified(running, authority, " ".join(key.split()[:2]))


Alarms = list[tuple[str, str]]


@asynccontextmanager
async def pool_with_alarms() -> AsyncIterator[tuple[SshPool, Alarms]]:
    """A pool, and the alarms that it raises."""
    alarms: Alarms = []

    def hear(target: Target, words: str) -> None:
        alarms.append((target.name, words))

    pool = SshPool(Connector(alarm=hear))
    try:
        yield pool, alarms
    finally:
        await pool.close()


async def test_a_pinned_key_is_good_and_a_changed_one_blocks_and_is_told(
    certified: Certified, tmp_path: Path
) -> None:
    server, other = certified.server, " ".join(keygen(tmp_path / "other").split()[:2])
    async with pool_with_alarms() as (pool, alarms):
        assert await run(pool, endpoint_of(server), "true") == OK
        assert alarms == []
        failure = await failure_of(pool, endpoint_of(server, host_keys=(other,), name="web-2"))
    assert failure.code is ErrorCode.HOST_KEY
    assert "opsjobs targets trust web-2" in failure.message
    assert alarms == [("web-2", failure.message)]


def test_what_a_changed_key_has_ended_is_never_tried_again() -> None:
    assert ErrorCode.HOST_KEY in NEVER


async def test_a_certificate_of_the_ca_is_good_for_its_names_alone(
    certified: Certified,
) -> None:
    def where(host: str) -> Endpoint:
        return endpoint_of(
            certified.server, host=host, host_keys=(certified.authority,), policy=HostKeyPolicy.CA
        )

    async with pool_with_alarms() as (pool, alarms):
        assert await run(pool, where("127.0.0.1"), "true") == OK
        failure = await failure_of(pool, where("127.0.0.2"))
    assert failure.code is ErrorCode.HOST_KEY
    assert "signed for 127.0.0.2" in failure.message
    assert len(alarms) == 1


async def test_another_ca_and_a_key_without_a_certificate_are_refused(
    certified: Certified, tmp_path: Path
) -> None:
    async with pool_with_alarms() as (pool, _):
        # The server's own key is not a CA: under this policy, it is not enough to know it.
        for trusted in (keygen(tmp_path / "another"), certified.key):
            where = endpoint_of(
                certified.server, host_keys=(trusted,), policy=HostKeyPolicy.CA, name="web-3"
            )
            assert (await failure_of(pool, where)).code is ErrorCode.HOST_KEY
        nothing = await failure_of(
            pool, endpoint_of(certified.server, host_keys=(), policy=HostKeyPolicy.CA)
        )
    assert "put its public key" in nothing.message


@pytest.mark.parametrize(
    "policy", [HostKeyPolicy.PINNED, HostKeyPolicy.ACCEPT_NEW, HostKeyPolicy.UNCHECKED]
)
async def test_a_revoked_key_is_good_under_no_policy(
    certified: Certified, policy: HostKeyPolicy
) -> None:
    keys = (certified.key, *certified.server.host_keys)
    revoked = [f"@revoked {key}" for key in keys]
    pinned = keys if policy is HostKeyPolicy.PINNED else ()
    async with pool_with_alarms() as (pool, _):
        failure = await failure_of(
            pool, endpoint_of(certified.server, host_keys=(*pinned, *revoked), policy=policy)
        )
    assert failure.code is ErrorCode.HOST_KEY
    assert "revoked" in failure.message


@pytest.mark.parametrize("whose", ["key", "authority"])
async def test_neither_a_revoked_key_nor_a_revoked_ca_is_good_by_its_certificate(
    certified: Certified, whose: str
) -> None:
    bad = certified.key if whose == "key" else " ".join(certified.authority.split()[:2])
    keys = (certified.authority, f"@revoked {bad}")
    async with pool_with_alarms() as (pool, _):
        failure = await failure_of(
            pool, endpoint_of(certified.server, host_keys=keys, policy=HostKeyPolicy.CA)
        )
    assert "revoked" in failure.message


async def test_unchecked_is_an_explicit_word_that_is_on_record(database: Database) -> None:
    inventory = TargetInventory(database, Vault(database, [new_key()]))
    assert (
        TargetDraft.model_validate({"name": "web-1", "host": "10.0.0.5"}).host_key_policy
        is HostKeyPolicy.PINNED
    )
    await inventory.create(TargetDraft.model_validate({"name": "web-1", "host": "10.0.0.5"}))
    await inventory.replace(
        "1",
        TargetDraft.model_validate(
            {"name": "web-1", "host": "10.0.0.5", "host_key_policy": "unchecked"}
        ),
    )
    rows = await database.fetch(
        "select action, before, after from audit_log where thing = 'target' order by id"
    )
    told = [
        (
            row["action"],
            (row["before"] or {}).get("host_key_policy"),
            row["after"].get("host_key_policy"),
        )
        for row in rows
    ]
    assert told == [("target.created", None, "pinned"), ("target.updated", "pinned", "unchecked")]
