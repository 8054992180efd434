"""Each failure to connect has its code, and a message with the machine and the next step."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from pathlib import Path

import pytest

from kit import os_accounts
from kit.backing_servers import open_folder
from kit.command_runs import code_of, failure_of, read_to_end, run
from kit.machines import endpoint, endpoint_of, key_credential, small_server
from kit.sshd import Sshd, keygen, sshd
from kit.tcp_proxy import Faults, proxy
from opsjobs.model.addresses import AddressPolicy
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import CancelProof, ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.model.target import HostKeyPolicy
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.ssh.connection import SshOptions
from remote.conftest import pool
from remote.spool_machines import until

QUICK = SshOptions(
    connect_seconds=0.5,
    auth_seconds=0.5,
    open_seconds=0.5,
    keepalive_seconds=0.2,
    keepalive_count=2,
)
# For a machine that answers at first: a slow one must not be treated as unavailable.
LIVELY = SshOptions(
    connect_seconds=60, auth_seconds=60, open_seconds=6, keepalive_seconds=1, keepalive_count=3
)


async def test_a_name_that_does_not_exist_is_dns(server: Sshd) -> None:
    async with pool() as sessions:
        failure = await failure_of(sessions, endpoint_of(server, host="no-such-host.invalid"))
        assert failure.code is ErrorCode.DNS
        assert "no-such-host.invalid" in failure.message


async def test_a_port_where_nobody_listens_is_connection_refused(server: Sshd) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with pool() as sessions:
            where = endpoint_of(server, port=held.getsockname()[1])
            assert await code_of(sessions, where) is ErrorCode.CONNECTION_REFUSED


async def test_a_server_that_says_nothing_is_connect_timeout(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port, Faults(black_hole=True)) as hole,
        pool(options=QUICK) as sessions,
    ):
        started = time.monotonic()
        failure = await failure_of(sessions, endpoint_of(server, port=hole.port))
        assert failure.code is ErrorCode.CONNECT_TIMEOUT
        assert time.monotonic() - started < 20


async def test_a_connect_that_is_never_answered_is_connect_timeout(server: Sshd) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with pool(options=QUICK) as sessions:
            where = endpoint_of(server, port=full.getsockname()[1])
            assert await code_of(sessions, where) is ErrorCode.CONNECT_TIMEOUT


async def test_a_peer_that_resets_at_once_is_connection_lost_with_both_likely_causes(
    server: Sshd,
) -> None:
    async with proxy(server.host, server.port, Faults(refuse=True)) as rude, pool() as sessions:
        where = endpoint_of(server, port=rude.port)
        with pytest.raises(RemoteFailure) as scanned:
            await sessions.scan_host_keys(where)
        for failure in (await failure_of(sessions, where), scanned.value):
            assert failure.code is ErrorCode.CONNECTION_LOST
            for named in (f"web-1 (127.0.0.1:{rude.port})", "MaxStartups", "PerSourcePenalties"):
                assert named in failure.message


@pytest.mark.parametrize("cut_bytes", [10, 200, 1500])
async def test_a_cut_during_the_handshake_is_connection_lost(server: Sshd, cut_bytes: int) -> None:
    async with (
        proxy(server.host, server.port, Faults(cut_after_bytes=cut_bytes)) as rude,
        pool() as sessions,
    ):
        assert (
            await code_of(sessions, endpoint_of(server, port=rude.port))
            is ErrorCode.CONNECTION_LOST
        )


async def test_something_that_is_no_ssh_server_is_told_apart(server: Sshd) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with web, pool() as sessions:
        where = endpoint_of(server, port=web.sockets[0].getsockname()[1])
        assert await code_of(sessions, where) is ErrorCode.CONNECTION_LOST


async def test_a_wrong_key_is_auth_failed(server: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    login = key_credential(server.user, (tmp_path / "other").read_text())
    async with pool() as sessions:
        failure = await failure_of(sessions, endpoint_of(server, credential=login))
        assert failure.code is ErrorCode.AUTH_FAILED
        assert server.user in failure.message
        assert "web-1" in failure.message


SECOND_FACTOR = ("UsePAM yes", "KbdInteractiveAuthentication yes", "PasswordAuthentication yes")


async def test_a_server_that_wants_more_than_a_key_says_that_the_key_was_accepted() -> None:
    os_accounts.needs_root("makes sshd ask PAM")
    with sshd(
        settings=[*SECOND_FACTOR, "AuthenticationMethods publickey,keyboard-interactive"]
    ) as strict:
        async with pool() as sessions:
            failure = await failure_of(sessions, endpoint_of(strict))
        assert failure.code is ErrorCode.AUTH_FAILED
        assert "accepted the credential" in failure.message
        assert "second factor too (keyboard-interactive)" in failure.message
        await until(lambda: "Partial publickey" in strict.log)  # it is logged after the answer
        assert strict.log.count("Partial publickey") == 1


async def test_a_server_that_wants_more_than_a_password_says_that_the_password_was_accepted() -> (
    None
):
    with (
        os_accounts.account(password="correct horse") as user,
        sshd(
            user=user,
            settings=[*SECOND_FACTOR, "AuthenticationMethods password,keyboard-interactive"],
        ) as strict,
    ):
        login = Credential(
            "8", 1, "fleet", CredentialType.PASSWORD, user, password=Secret("correct horse")
        )
        async with pool() as sessions:
            failure = await failure_of(sessions, endpoint_of(strict, credential=login))
        assert "accepted the credential" in failure.message


@pytest.mark.parametrize(
    "methods", ["any", "publickey,keyboard-interactive", "password,keyboard-interactive"]
)
async def test_a_wrong_login_is_not_taken_for_a_missing_second_factor(
    methods: str, tmp_path: Path
) -> None:
    keygen(tmp_path / "other")
    with (
        os_accounts.account(password="correct horse") as user,
        sshd(user=user, settings=[*SECOND_FACTOR, f"AuthenticationMethods {methods}"]) as strict,
    ):
        wrong = [
            key_credential(user, (tmp_path / "other").read_text()),
            Credential("8", 1, "fleet", CredentialType.PASSWORD, user, password=Secret("wrong")),
        ]
        async with pool() as sessions:
            for login in wrong:
                failure = await failure_of(sessions, endpoint_of(strict, credential=login))
                assert failure.code is ErrorCode.AUTH_FAILED
                assert "refused the login" in failure.message


async def test_no_credential_is_credential_missing(server: Sshd) -> None:
    where = dataclasses.replace(endpoint_of(server), credential=None)
    async with pool() as sessions:
        assert await code_of(sessions, where) is ErrorCode.CREDENTIAL_MISSING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a key",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
)
async def test_a_private_key_that_is_none_is_credential_missing(server: Sshd, text: str) -> None:
    async with pool() as sessions:
        failure = await failure_of(
            sessions, endpoint_of(server, credential=key_credential(server.user, text))
        )
        assert failure.code is ErrorCode.CREDENTIAL_MISSING
        assert "fleet-key" in failure.message


async def test_a_credential_without_its_secret_is_credential_missing(server: Sshd) -> None:
    async with pool() as sessions:
        for kind in (
            CredentialType.PASSWORD,
            CredentialType.SSH_KEY,
            CredentialType.SSH_CERTIFICATE,
        ):
            login = Credential("8", 1, "empty", kind, server.user)
            assert (
                await code_of(sessions, endpoint_of(server, credential=login))
                is ErrorCode.CREDENTIAL_MISSING
            )


async def test_a_forbidden_address_is_never_connected_to(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port) as watched,
        pool(allow=AddressPolicy(production=True)) as sessions,
    ):
        failure = await failure_of(
            sessions, endpoint_of(server, host="localhost", port=watched.port)
        )
        assert failure.code is ErrorCode.SAFETY_BLOCKED
        assert watched.connections == 0


async def test_contact_that_breaks_while_a_command_runs_is_lost(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port) as way,
        pool() as sessions,
        sessions.session(endpoint_of(server, port=way.port)) as session,
    ):
        process = await session.start("echo begun; sleep 30")
        pieces = aiter(process)
        assert await anext(pieces) == Output("stdout", b"begun\n")
        way.reset_all()
        with pytest.raises(RemoteFailure) as caught:
            await anext(pieces)
        assert caught.value.code is ErrorCode.LOST
        assert await process.kill(0.1) is CancelProof.UNREACHABLE


async def test_a_machine_that_falls_silent_is_lost_after_the_keepalives(server: Sshd) -> None:
    async with (
        proxy(server.host, server.port) as way,
        pool(options=LIVELY) as sessions,
        sessions.session(endpoint_of(server, port=way.port)) as session,
    ):
        process = await session.start("echo begun; sleep 30")
        pieces = aiter(process)
        await anext(pieces)
        way.faults.black_hole = True
        assert await process.kill(0.1) is CancelProof.UNREACHABLE
        with pytest.raises(RemoteFailure) as caught:
            await anext(pieces)
        assert caught.value.code is ErrorCode.LOST


async def test_a_channel_that_is_never_opened_started_nothing(server: Sshd) -> None:
    patient = dataclasses.replace(LIVELY, keepalive_seconds=15)
    async with proxy(server.host, server.port) as way, pool(options=patient) as sessions:
        where = endpoint_of(server, port=way.port)
        async with sessions.session(where) as session:
            await read_to_end(await session.start("true"))
            way.faults.black_hole = True
            # Not even the channel is opened: nothing can have started.
            with pytest.raises(RemoteFailure) as caught:
                await session.start("true")
            assert caught.value.code is ErrorCode.CONNECTION_LOST


async def test_a_server_that_drops_the_connection_at_the_start_request_makes_it_lost() -> None:
    async with small_server(drop_at_start=True) as small, pool() as sessions:
        async with sessions.session(small.endpoint()) as session:
            with pytest.raises(RemoteFailure) as caught:
                await session.start("true")
        assert caught.value.code is ErrorCode.LOST


async def test_a_dead_connection_is_replaced_without_a_word(server: Sshd) -> None:
    async with proxy(server.host, server.port) as way, pool() as sessions:
        where = endpoint_of(server, port=way.port)
        async with sessions.session(where) as session:
            assert (await read_to_end(await session.start("echo 1")))[0] == b"1\n"
            way.reset_all()
            # Within the same session, before anything has noticed that the connection has broken.
            assert (await read_to_end(await session.start("echo 2")))[0] == b"2\n"
        assert (await run(sessions, where, "echo 3"))[0] == b"3\n"
        assert way.connections == 2


async def test_secrets_are_in_no_message(server: Sshd) -> None:
    login = Credential("9", 1, "pw", CredentialType.PASSWORD, "ada", password=Secret("tr0ub4dor"))
    async with small_server(password="other") as small, pool() as sessions:
        failure = await failure_of(
            sessions, small.endpoint(login, policy=HostKeyPolicy.UNCHECKED, host_keys=())
        )
        assert failure.code is ErrorCode.AUTH_FAILED
        assert "tr0ub4dor" not in repr(failure) + failure.message


async def test_a_trial_names_the_step_that_fails(server: Sshd, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    wrong = key_credential(server.user, (tmp_path / "other").read_text())
    async with pool() as sessions:
        assert [(s.name, s.ok) for s in await sessions.test(endpoint_of(server)) if s.needed] == [
            ("connect", True),
            ("auth", True),
            ("shell", True),
        ]
        refused = await sessions.test(endpoint_of(server, credential=wrong))
        assert [(s.name, s.ok) for s in refused] == [("connect", True), ("auth", False)]
        unknown = await sessions.test(
            endpoint("no-such-host.invalid", 22, wrong, host_keys=server.host_keys)
        )
        assert [(s.name, s.ok) for s in unknown] == [("connect", False)]


async def test_what_was_given_up_before_it_was_sent_is_not_sent_when_the_network_comes_back(
    server: Sshd,
) -> None:
    """A caller that learned that nothing started begins it elsewhere, or again."""
    async with (
        proxy(server.host, server.port) as way,
        pool(options=SshOptions(open_seconds=5.0)) as sessions,
        sessions.session(endpoint_of(server, port=way.port)) as session,
    ):
        with open_folder() as folder:
            folder.chmod(0o777)
            witness = folder / "witness"
            assert (await read_to_end(await session.start(f"echo up >>{witness}")))[
                2
            ] == RemoteExit(0)
            witness.unlink()
            way.faults.stall = True
            with pytest.raises(RemoteFailure) as lost:
                await session.start(f"cat >>{witness}", stdin=b"ran")
            assert lost.value.code is ErrorCode.CONNECTION_LOST
            way.faults.stall = False
            assert (await read_to_end(await session.start("cat", stdin=b"after")))[0] == b"after"
            assert not witness.exists()
            assert way.connections == 1
