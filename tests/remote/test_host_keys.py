"""Host keys: pinned, changed, accepted at first connect, signed by a CA, or unchecked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.command_runs import code_of, failure_of, run
from kit.machines import endpoint_of
from kit.sshd import Sshd, keygen, sshd
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import HostKeyPolicy
from opsjobs.remote.session import RemoteExit
from remote.conftest import pool

OK = (b"", b"", RemoteExit(0))


@pytest.fixture(scope="module")
def rsa_only_server() -> Iterator[Sshd]:
    """Run a server with an RSA host key only."""
    with sshd(host_key_types=("rsa",)) as running:
        yield running


def another_key(folder: Path, kind: str = "ed25519") -> str:
    return " ".join(keygen(folder / kind, kind).split()[:2])


async def test_nothing_pinned_connects_to_nothing_and_says_what_to_type(server: Sshd) -> None:
    async with pool() as sessions:
        failure = await failure_of(
            sessions, endpoint_of(server, host="no-such-host.invalid", host_keys=())
        )
        assert failure.code is ErrorCode.HOST_KEY
        assert "opsjobs targets trust web-1" in failure.message


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_any_one_pinned_key_of_a_server_with_several_is_enough(
    server: Sshd, index: int
) -> None:
    async with pool() as sessions:
        where = endpoint_of(server, host_keys=(server.host_keys[index] + " a comment",))
        assert await run(sessions, where, "true") == OK


async def test_a_changed_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    async with pool() as sessions:
        failure = await failure_of(
            sessions, endpoint_of(server, host_keys=(another_key(tmp_path),))
        )
        assert failure.code is ErrorCode.HOST_KEY
        assert "opsjobs targets trust web-1" in failure.message


async def test_one_good_key_among_the_pinned_ones_is_enough(server: Sshd, tmp_path: Path) -> None:
    keys = (another_key(tmp_path), server.host_keys[0])
    async with pool() as sessions:
        assert await run(sessions, endpoint_of(server, host_keys=keys), "true") == OK


async def test_a_key_of_another_kind_than_the_pinned_one_is_a_host_key_failure(
    rsa_only_server: Sshd, tmp_path: Path
) -> None:
    async with pool() as sessions:
        for _ in range(5):
            failure = await failure_of(
                sessions, endpoint_of(rsa_only_server, host_keys=(another_key(tmp_path),))
            )
            assert failure.code is ErrorCode.HOST_KEY
            (tmp_path / "ed25519").unlink()


async def test_accept_new_accepts_once_and_remembers(server: Sshd) -> None:
    remembered: list[tuple[str, str]] = []

    async def remember(target_id: str, key: str) -> None:
        remembered.append((target_id, key))

    async with pool(remember=remember) as sessions:
        where = endpoint_of(server, host_keys=(), policy=HostKeyPolicy.ACCEPT_NEW)
        assert await run(sessions, where, "true") == OK
        assert await run(sessions, where, "true") == OK
    assert [target_id for target_id, _ in remembered] == ["id-web-1"]
    assert remembered[0][1] in server.host_keys


async def test_accept_new_with_a_stored_key_is_as_strict_as_pinned(
    server: Sshd, tmp_path: Path
) -> None:
    remembered: list[str] = []

    async def remember(target_id: str, key: str) -> None:
        remembered.append(key)

    async with pool(remember=remember) as sessions:
        where = endpoint_of(
            server, host_keys=(another_key(tmp_path),), policy=HostKeyPolicy.ACCEPT_NEW
        )
        assert await code_of(sessions, where) is ErrorCode.HOST_KEY
    assert remembered == []


async def test_a_key_is_not_remembered_after_a_refused_login(server: Sshd) -> None:
    remembered: list[str] = []

    async def remember(target_id: str, key: str) -> None:
        remembered.append(key)

    async with pool(remember=remember) as sessions:
        where = endpoint_of(
            server, user="nobody-here", host_keys=(), policy=HostKeyPolicy.ACCEPT_NEW
        )
        assert await code_of(sessions, where) is ErrorCode.AUTH_FAILED
    assert remembered == []


async def test_a_memory_that_fails_makes_the_session_fail(server: Sshd) -> None:
    async def remember(target_id: str, key: str) -> None:
        raise LookupError("the inventory is away")

    async with pool(remember=remember) as sessions:
        where = endpoint_of(server, host_keys=(), policy=HostKeyPolicy.ACCEPT_NEW)
        with pytest.raises(LookupError):
            await run(sessions, where, "true")


async def test_unchecked_takes_any_key(server: Sshd, rsa_only_server: Sshd, tmp_path: Path) -> None:
    async with pool() as sessions:
        for one, name in ((server, "web-1"), (rsa_only_server, "web-2")):
            where = endpoint_of(
                one, name=name, host_keys=("not even a key",), policy=HostKeyPolicy.UNCHECKED
            )
            assert await run(sessions, where, "true") == OK


async def test_a_pinned_line_that_is_no_key_is_told(server: Sshd) -> None:
    async with pool() as sessions:
        assert (
            await code_of(sessions, endpoint_of(server, host_keys=("ssh-ed25519 nonsense",)))
            is ErrorCode.HOST_KEY
        )


async def test_a_scan_shows_every_key_without_a_login(server: Sshd) -> None:
    async with pool() as sessions:
        found = await sessions.scan_host_keys(endpoint_of(server, host_keys=(), user="nobody-here"))
    assert sorted(key.key for key in found) == sorted(server.host_keys)
    assert all(key.fingerprint.startswith("SHA256:") for key in found)


async def test_a_pool_keeps_machines_apart_whose_pinned_keys_differ(
    server: Sshd, tmp_path: Path
) -> None:
    async with pool() as sessions:
        assert await run(sessions, endpoint_of(server), "true") == OK
        strict = endpoint_of(server, host_keys=(another_key(tmp_path),))
        assert await code_of(sessions, strict) is ErrorCode.HOST_KEY
