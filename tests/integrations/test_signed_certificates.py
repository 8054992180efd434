"""Certificates that are signed just in time, by our CA and by Vault, with a real sshd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import ssh

from kit.command_runs import failure_of, read_to_end, run
from kit.machines import endpoint_of
from kit.sshd import Sshd, needs_sshd, sshd
from kit.vault_server import SshRole, VaultKit, vault_kit
from opsjobs.clock import Clock, SystemClock, TurnedClock
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.integrations.secrets.requests import VaultOptions
from opsjobs.integrations.secrets.vault import VaultServer
from opsjobs.model.credential import (
    Credential,
    CredentialType,
    SshCaSource,
    VaultSource,
    VaultSshSource,
)
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.auth_material import FreshKey, Unusable, generate_key, parse_terms, sign
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool

OK = (b"", b"", RemoteExit(0))


@dataclass
class Trusting:
    """Run a server that trusts a CA of ours and Vault's."""

    server: Sshd
    authority: FreshKey
    kit: VaultKit

    def key_ids(self) -> list[str]:
        """Return the certificates that it has accepted, in order."""
        lines = [line for line in self.server.log.splitlines() if "Accepted publickey" in line]
        return [line.partition(" ID ")[2].partition(" (serial")[0] for line in lines]


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    needs_sshd()
    authority, trusted = generate_key(), tmp_path_factory.mktemp("ca") / "trusted"
    with vault_kit() as kit:
        trusted.write_text(f"{authority.public}\n{kit.authority_line}\n")
        kit.ssh_roles["fleet"] = SshRole(default_extensions=("permit-pty",))
        with sshd(
            host_key_types=("ed25519",), settings=[f"TrustedUserCAKeys {trusted}"]
        ) as running:
            yield Trusting(running, authority, kit)


class OneAuthority:
    """Return a vault that holds one key."""

    def __init__(self, authority: FreshKey) -> None:
        self._authority = authority

    async def open_named(self, name: str) -> Credential | None:
        if name != "fleet-ca":
            return None
        return Credential(
            "9", 1, "fleet-ca", CredentialType.SSH_KEY, "ca", private_key=self._authority.private
        )


@asynccontextmanager
async def external_secrets(
    trusting: Trusting, clock: Clock | None = None
) -> AsyncIterator[ExternalSecrets]:
    server = VaultServer(VaultOptions(trusting.kit.url, token=Secret(trusting.kit.token())))
    try:
        yield ExternalSecrets(OneAuthority(trusting.authority), server, clock or SystemClock())
    finally:
        await server.close()


def ours(**more: Any) -> SshCaSource:
    return SshCaSource.model_validate({"backend": "ssh_ca", "authority": "fleet-ca", **more})


def vaults(**more: Any) -> VaultSshSource:
    return VaultSshSource.model_validate({"backend": "vault_ssh", "role": "fleet", **more})


def signed(trusting: Trusting, source: SshCaSource | VaultSshSource) -> Endpoint:
    credential = Credential(
        "7", 1, "fleet", CredentialType.SSH_CERTIFICATE, trusting.server.user, source=source
    )
    return endpoint_of(trusting.server, credential=credential)


@asynccontextmanager
async def pool(
    trusting: Trusting, *, signing: Clock | None = None, clock: Clock | None = None
) -> AsyncIterator[SshPool]:
    async with external_secrets(trusting, signing) as there:
        made = SshPool(Connector(fetch=there.fetch), clock=clock)
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize("source", [ours(), vaults()], ids=["ours", "vault"])
async def test_a_certificate_is_signed_for_the_run_and_lets_it_in(
    trusting: Trusting, source: SshCaSource | VaultSshSource
) -> None:
    before = len(trusting.key_ids())
    async with pool(trusting) as sessions:
        for purpose in ("execution 7 run 9", "execution 7 run 9", "execution 8 run 10"):
            assert await run(sessions, signed(trusting, source).for_(purpose), "true") == OK
    # The connections of one run share a certificate; another run has its own, with its own name in
    # it.
    assert trusting.key_ids()[before:] == [
        "opsjobs execution 7 run 9",
        "opsjobs execution 8 run 10",
    ]


@pytest.mark.parametrize(
    "source",
    [ours(principals=["somebody"]), vaults(principals=["somebody"])],
    ids=["ours", "vault"],
)
async def test_a_certificate_for_somebody_else_is_refused_and_says_what_it_is(
    trusting: Trusting, source: SshCaSource | VaultSshSource
) -> None:
    async with pool(trusting) as sessions:
        failure = await failure_of(sessions, signed(trusting, source))
    assert failure.code is ErrorCode.AUTH_FAILED
    assert "is for somebody and good until" in failure.message
    assert "TrustedUserCAKeys" in failure.message


async def test_one_that_is_not_good_yet_is_refused_by_the_machine(trusting: Trusting) -> None:
    ahead = TurnedClock(datetime.now(UTC) + timedelta(hours=1))
    async with pool(trusting, signing=ahead) as sessions:
        failure = await failure_of(sessions, signed(trusting, ours()))
    assert failure.code is ErrorCode.AUTH_FAILED
    assert "its clock" in failure.message


async def test_one_that_has_lapsed_is_not_even_shown(trusting: Trusting) -> None:
    before = trusting.server.log.count("Connection from")
    async with pool(trusting, signing=TurnedClock()) as sessions:
        failure = await failure_of(sessions, signed(trusting, ours()))
    assert failure.code is ErrorCode.CREDENTIAL_MISSING
    assert "was valid until 2026-01-01 00:05Z" in failure.message
    assert trusting.server.log.count("Connection from") == before


async def test_a_live_session_stays_when_its_certificate_lapses_and_a_new_one_has_a_new_certificate(
    trusting: Trusting,
) -> None:
    clock, before = TurnedClock(datetime.now(UTC)), len(trusting.key_ids())
    where = signed(trusting, ours(validity="30s")).for_("execution 1 run 1")
    async with pool(trusting, clock=clock, signing=clock) as sessions:
        async with sessions.session(where) as live:
            clock.turn(15)
            assert await run(sessions, where, "true") == OK
            assert len(trusting.key_ids()) - before == 1
            clock.turn(16)
            assert await run(sessions, where, "true") == OK
            assert len(trusting.key_ids()) - before == 2
            assert await read_to_end(await live.start("true")) == OK
            assert sessions.connections == 2
        # No session uses the expired one any more, and none will.
        async with asyncio.timeout(60):
            while sessions.connections > 1:
                await asyncio.sleep(0.01)


async def test_where_a_clock_jumps_each_session_is_one_connection_and_no_more(
    trusting: Trusting,
) -> None:
    clock = TurnedClock(datetime.now(UTC) + timedelta(hours=1))
    async with pool(trusting, clock=clock) as sessions:
        for _ in range(2):
            assert await run(sessions, signed(trusting, ours()), "true") == OK
        assert sessions.connections <= 2


async def test_a_certificate_allows_commands_and_nothing_else(trusting: Trusting) -> None:
    async with external_secrets(trusting) as there:
        one = await there.fetch(
            _credential(trusting, ours(source_addresses=["127.0.0.0/8"])), "execution 1 run 2"
        )
        two = await there.fetch(_credential(trusting, ours()), "execution 1 run 2")
        jump = await there.fetch(_credential(trusting, ours(port_forwarding=True)), "")
    first, second = _read(one), _read(two)
    assert (first.extensions, second.extensions) == ({}, {})
    assert first.critical_options == {b"source-address": b"127.0.0.0/8"}
    assert first.valid_before - first.valid_after <= 300 + 60 + 1
    # Each has a key and a number of its own.
    assert one.private_key != two.private_key
    assert first.serial != second.serial
    assert [*_read(jump).extensions] == [b"permit-port-forwarding"]


@pytest.mark.parametrize("forwarding", [True, False])
async def test_a_jump_host_lets_through_who_may_forward(
    trusting: Trusting, forwarding: bool
) -> None:
    behind = signed(trusting, ours())
    jump = endpoint_of(
        trusting.server,
        credential=_credential(trusting, ours(port_forwarding=forwarding)),
        name="gate",
    )
    where = replace(
        behind, target=replace(behind.target, id="id-web-9", name="web-9"), jumps=(jump,)
    ).for_("execution 3 run 4")
    async with pool(trusting) as sessions:
        if forwarding:
            assert await run(sessions, where, "true") == OK
            assert trusting.key_ids()[-2:] == ["opsjobs execution 3 run 4"] * 2
        else:
            failure = await failure_of(sessions, where)
            assert failure.code is ErrorCode.CONNECTION_REFUSED
            assert "`port_forwarding` of its certificate" in failure.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": ours(authority="gone")}, "there is no credential gone"),
        ({"source": vaults(role="nobody")}, "unknown role"),
        (
            {"source": VaultSource.model_validate({"backend": "vault", "path": "web/key"})},
            "there is nothing",
        ),
    ],
)
async def test_what_cannot_be_had_says_where_to_look(
    trusting: Trusting, change: dict[str, Any], said: str
) -> None:
    async with pool(trusting) as sessions:
        where = signed(trusting, ours())
        assert where.credential is not None
        failure = await failure_of(
            sessions, replace(where, credential=replace(where.credential, **change))
        )
    assert failure.code is ErrorCode.CREDENTIAL_MISSING
    assert "The secrets of the credential fleet cannot be fetched" in failure.message
    assert said in failure.message


async def test_a_vault_that_signs_something_else_is_not_believed(
    trusting: Trusting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def another(*_: Any, **__: Any) -> str:
        return sign(
            trusting.authority.private,
            None,
            generate_key().public,
            principals=["root"],
            key_id="x",
            now=datetime.now(UTC),
            seconds=60,
        )

    monkeypatch.setattr(VaultServer, "sign", another)
    async with pool(trusting) as sessions:
        failure = await failure_of(sessions, signed(trusting, vaults()))
    assert "has signed something else than was requested" in failure.message


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519 AAAA", generate_key().public], ids=["nothing", "cut", "a key"]
)
def test_what_is_no_certificate_is_told(text: str) -> None:
    with pytest.raises(Unusable):
        parse_terms(text)


def _credential(trusting: Trusting, source: SshCaSource) -> Credential:
    return Credential(
        "7", 1, "fleet", CredentialType.SSH_CERTIFICATE, trusting.server.user, source=source
    )


def _read(credential: Credential) -> ssh.SSHCertificate:
    found = ssh.load_ssh_public_identity((credential.certificate or "").encode())
    assert isinstance(found, ssh.SSHCertificate)
    return found
