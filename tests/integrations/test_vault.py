"""Vault over HTTP: log in, keep the login, read a secret, and the message of every refusal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from kit.certificates import self_signed
from kit.vault_server import Role, SshRole, VaultKit, vault_kit
from opsjobs.clock import TurnedClock
from opsjobs.integrations.secrets.requests import ANSWER_BYTES_MAX, SecretUnavailable, VaultOptions
from opsjobs.integrations.secrets.vault import VaultServer
from opsjobs.model.credential import VaultSource, VaultSshSource
from opsjobs.model.secret import Secret

KEY = VaultSource.model_validate({"backend": "vault", "path": "web/key"})
CANARY = "canary-9c1e"


@pytest.fixture(scope="module")
def _running() -> Iterator[VaultKit]:
    with vault_kit() as kit:
        yield kit


@pytest.fixture
def kit(_running: VaultKit) -> VaultKit:
    """Yield the one server, reset to its initial state."""
    fresh = VaultKit()
    for name in (
        "roles",
        "tokens",
        "kept",
        "policies",
        "ssh_roles",
        "faults",
        "asked",
        "headers",
        "_turned",
    ):
        setattr(_running, name, getattr(fresh, name))
    return _running


class Both:
    """A server and our clock, which advance together."""

    def __init__(self, kit: VaultKit, clock: TurnedClock) -> None:
        self.kit, self.clock = kit, clock

    def turn(self, seconds: float) -> None:
        self.kit.turn(seconds)
        self.clock.turn(seconds)


@asynccontextmanager
async def by_role(
    kit: VaultKit, role: Role | None = None, **more: Any
) -> AsyncIterator[tuple[VaultServer, Both]]:
    role_id, secret_id = kit.approle(role)
    options = VaultOptions(
        **{"url": kit.url, "role_id": Secret(role_id), "secret_id": Secret(secret_id), **more}
    )
    async with opened(options, kit) as both:
        yield both


@asynccontextmanager
async def opened(options: VaultOptions, kit: VaultKit) -> AsyncIterator[tuple[VaultServer, Both]]:
    clock = TurnedClock()
    vault = VaultServer(options, clock)
    try:
        yield vault, Both(kit, clock)
    finally:
        await vault.close()


async def failure_text(vault: VaultServer, source: VaultSource = KEY) -> str:
    with pytest.raises(SecretUnavailable) as failure:
        await vault.read(source)
    assert CANARY not in str(failure.value)
    return str(failure.value)


async def test_an_approle_logs_in_once_and_reads_the_newest_version(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "old"})
    kit.put("web/key", {"key": CANARY, "count": 7})
    async with by_role(kit) as (vault, _):
        found = await vault.read(KEY)
        assert (found.version, found.fields) == (2, {"key": Secret(CANARY)})
        assert CANARY not in repr(found)
        await vault.read(
            VaultSource.model_validate({"backend": "vault", "path": "web/key", "version": 1})
        )
        assert kit.count("auth/approle/login") == 1
        assert all(h.get("x-vault-request") == "true" for h in kit.headers)
    assert kit.asked[-1] == ("POST", "auth/token/revoke-self")
    assert kit.tokens == {}


async def test_a_secret_is_asked_for_once_by_many_and_again_after_a_minute(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "first"})
    async with by_role(kit) as (vault, both):
        found = await asyncio.gather(*(vault.read(KEY) for _ in range(50)))
        assert {f.fields["key"].reveal() for f in found} == {"first"}
        assert kit.count("secret/data/web/key") == 1
        kit.put("web/key", {"key": "second"})
        both.turn(59)
        assert (await vault.read(KEY)).fields["key"].reveal() == "first"
        both.turn(2)
        await asyncio.sleep(0)
        assert len(vault._memory) == 0  # it expires before the next request
        assert (await vault.read(KEY)).fields["key"].reveal() == "second"


async def test_a_reader_who_gives_up_does_not_take_the_others_along(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    async with by_role(kit) as (vault, _):
        first, second = asyncio.create_task(vault.read(KEY)), asyncio.create_task(vault.read(KEY))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).version == 1


async def test_the_memory_is_bounded(kit: VaultKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsjobs.integrations.secrets.vault.KEPT_MAX", 2)
    async with by_role(kit) as (vault, _):
        for number in range(4):
            kit.put(f"web/{number}", {"key": "k"})
            await vault.read(
                VaultSource.model_validate({"backend": "vault", "path": f"web/{number}"})
            )
        assert len(vault._memory) == 2


async def test_a_token_is_renewed_before_it_ends_and_got_anew_near_its_greatest_age(
    kit: VaultKit,
) -> None:
    kit.put("web/key", {"key": "k"})
    async with by_role(kit, Role(None, ttl=300, max_ttl=700), keep_seconds=0) as (vault, both):
        await vault.read(KEY)
        for _ in range(4):
            both.turn(210)
            await vault.read(KEY)
        assert kit.count("auth/token/renew-self") >= 2
        assert kit.count("auth/approle/login") == 2


async def test_a_token_that_has_ended_is_got_anew(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    async with by_role(kit, Role(None, ttl=300), keep_seconds=0) as (vault, both):
        await vault.read(KEY)
        both.turn(301)
        await vault.read(KEY)
        assert kit.count("auth/approle/login") == 2
        assert kit.count("auth/token/renew-self") == 0


async def test_a_token_that_was_revoked_is_got_anew_once(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    async with by_role(kit, keep_seconds=0) as (vault, both):
        await vault.read(KEY)
        kit.tokens.clear()
        both.turn(10)
        assert (await vault.read(KEY)).version == 1
        assert kit.count("auth/approle/login") == 2


async def test_what_the_policy_forbids_is_asked_for_twice_at_most_and_told(kit: VaultKit) -> None:
    kit.policies["opsjobs"] = ()
    async with by_role(kit) as (vault, both):
        assert "policy needs `read` on secret/data/web/key" in await failure_text(vault)
        both.turn(60)
        await failure_text(vault)
        assert (
            kit.count("auth/approle/login") == 2
        )  # an old token may have been the reason; a fresh one is not
        assert kit.count("secret/data/web/key") == 3


async def test_a_refused_approle_is_told_without_its_ids(kit: VaultKit) -> None:
    options = VaultOptions(kit.url, role_id=Secret(CANARY), secret_id=Secret(CANARY))
    async with opened(options, kit) as (vault, _):
        assert "OPSJOBS_VAULT_SECRET_ID" in await failure_text(vault)
        assert kit.count("auth/approle/login") == 1  # a refusal is not tried again


async def test_a_token_of_the_settings_is_kept_alive_and_not_revoked(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    value = kit.token(ttl=300)
    async with opened(VaultOptions(kit.url, token=Secret(value)), kit) as (vault, both):
        for _ in range(5):
            assert await vault.renew() == {"tokens": 1}
            both.turn(210)
        assert (await vault.read(KEY)).version == 1
        both.turn(400)
        assert "OPSJOBS_VAULT_TOKEN" in await failure_text(
            vault, VaultSource.model_validate({"backend": "vault", "path": "else"})
        )
    assert value in kit.tokens


async def test_a_token_without_an_end_is_not_renewed(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    async with opened(VaultOptions(kit.url, token=Secret(kit.token())), kit) as (vault, both):
        await vault.read(KEY)
        both.turn(10_000_000)
        await vault.read(KEY)
        assert kit.count("auth/token/renew-self") == 0


async def test_a_namespace_is_a_header_below_ours(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"}, namespace="ops/team-a")
    options = VaultOptions(kit.url, token=Secret(kit.token(namespace="ops")), namespace="ops")
    async with opened(options, kit) as (vault, _):
        source = VaultSource.model_validate(
            {"backend": "vault", "path": "web/key", "namespace": "team-a"}
        )
        assert (await vault.read(source)).version == 1
        assert "there is nothing" in await failure_text(vault)
        assert "namespace" in await failure_text(vault)


@pytest.mark.parametrize(
    ("way", "said"), [("delete", "version 2 was deleted"), ("destroy", "version 2 was destroyed")]
)
async def test_a_version_that_is_gone_is_told_apart_from_nothing(
    kit: VaultKit, way: str, said: str
) -> None:
    kit.put("web/key", {"key": "k"})
    kit.put("web/key", {"key": "k"})
    getattr(kit, way)("web/key")
    async with by_role(kit) as (vault, _):
        assert said in await failure_text(vault)
        assert "there is nothing" in await failure_text(
            vault, VaultSource.model_validate({"backend": "vault", "path": "web"})
        )


@pytest.mark.parametrize("statuses", [[503], [500, 502], [429, 412]])
async def test_what_passes_by_is_tried_again(kit: VaultKit, statuses: list[int]) -> None:
    kit.put("web/key", {"key": "k"})
    kit.faults.statuses = statuses
    kit.faults.retry_after = "0"
    async with by_role(kit) as (vault, _):
        assert (await vault.read(KEY)).version == 1


async def test_what_does_not_pass_by_is_tried_three_times(kit: VaultKit) -> None:
    kit.faults.statuses = [500] * 9
    kit.faults.retry_after = "0"
    async with by_role(kit) as (vault, _):
        assert "it answers 500" in await failure_text(vault)
        assert kit.count("auth/approle/login") == 3
        kit.faults.statuses = []


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"sealed": True}, "it is sealed"),
        (
            {"standby": "http://other.example.org:8200"},
            "a standby that sends us on to other.example.org",
        ),
        ({"standby": "http://["}, "a standby that sends us on to another node"),
        ({"raw": b"<html>welcome</html>"}, "not its JSON"),
        ({"raw": b"[1]"}, "not its JSON"),
        ({"raw": b"{}"}, "has no token"),
        ({"raw": b" " * (ANSWER_BYTES_MAX + 1)}, "more than"),
    ],
    ids=["sealed", "standby", "nowhere", "html", "list", "empty", "large"],
)
async def test_a_server_that_is_none_is_told_at_once(
    kit: VaultKit, faults: dict[str, Any], said: str
) -> None:
    async with by_role(kit) as (vault, _):
        for name, value in faults.items():
            setattr(kit.faults, name, value)
        assert said in await failure_text(vault)
        assert len(kit.asked) == 1


async def test_another_engine_than_kv_2_is_told(kit: VaultKit) -> None:
    kit.put("web/key", {"key": "k"})
    async with opened(VaultOptions(kit.url, token=Secret(kit.token())), kit) as (vault, _):
        await vault.renew()
        kit.faults.raw = b'{"data": {"key": "of version 1"}}'
        assert "KV engine of version 2" in await failure_text(vault)


async def test_nobody_there_and_silence_are_told_apart(kit: VaultKit) -> None:
    async with opened(VaultOptions("http://127.0.0.1:1", token=Secret(CANARY)), kit) as (vault, _):
        assert "no answer" in await failure_text(vault)
    kit.faults.silent = threading.Event()
    async with opened(VaultOptions(kit.url, token=Secret(CANARY), timeout_seconds=0.05), kit) as (
        vault,
        _,
    ):
        assert "did not answer within 0.05 s" in await failure_text(vault)
    kit.faults.silent.set()


async def test_what_the_server_repeats_of_ours_is_starred(kit: VaultKit) -> None:
    kit.faults.echo = True
    async with opened(VaultOptions(kit.url, token=Secret(CANARY)), kit) as (vault, _):
        await failure_text(vault)
    async with by_role(kit, role_id=Secret(CANARY), secret_id=Secret(CANARY)) as (vault, _):
        await failure_text(vault)
    token = kit.token()
    kit.faults.echo = False
    async with opened(VaultOptions(kit.url, token=Secret(token)), kit) as (vault, _):
        await vault.renew()
        kit.faults.echo = True
        words = await failure_text(vault)
        assert "bad request: ***" in words
        assert token not in words


async def test_only_a_certificate_that_we_trust_is_spoken_to(tmp_path: Path) -> None:
    chain, key = self_signed(tmp_path)
    with vault_kit((chain, key)) as kit:
        kit.put("web/key", {"key": "k"})
        value = Secret(kit.token())
        async with opened(VaultOptions(kit.url, token=value, ca_file=chain), kit) as (vault, _):
            assert (await vault.read(KEY)).version == 1
        asked = len(kit.asked)
        async with opened(VaultOptions(kit.url, token=value), kit) as (vault, _):
            assert "OPSJOBS_VAULT_CA_FILE" in await failure_text(vault)
        assert len(kit.asked) == asked


# --- the SSH engine


def sign(**more: Any) -> VaultSshSource:
    return VaultSshSource.model_validate({"backend": "vault_ssh", "role": "fleet", **more})


PUBLIC = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


async def test_the_ssh_engine_signs_for_the_principals_and_time_that_are_asked_for(
    kit: VaultKit,
) -> None:
    kit.ssh_roles["fleet"] = SshRole()
    async with by_role(kit) as (vault, _):
        line = await vault.sign(
            sign(validity="2m"), PUBLIC, principals=["deploy", "web"], key_id="execution 7 run 9"
        )
    certificate = asyncssh.import_certificate(line)
    assert isinstance(certificate, asyncssh.SSHCertificate)
    assert certificate.principals == ["deploy", "web"]


@pytest.mark.parametrize(
    ("role", "source", "said"),
    [
        (SshRole(allow_user_key_ids=False), {}, "allow_user_key_ids"),
        (SshRole(allowed_users="ben"), {}, "deploy is not a valid value"),
        (SshRole(max_ttl=60), {}, "ttl is larger"),
        (None, {}, "unknown role"),
        (SshRole(), {"mount": "elsewhere"}, "policy needs `update` on elsewhere/sign/fleet"),
    ],
)
async def test_a_refused_signature_says_what_to_compare(
    kit: VaultKit, role: SshRole | None, source: dict[str, Any], said: str
) -> None:
    if role is not None:
        kit.ssh_roles["fleet"] = role
    async with by_role(kit) as (vault, _):
        with pytest.raises(SecretUnavailable) as failure:
            await vault.sign(sign(**source), PUBLIC, principals=["deploy"], key_id="run 9")
        assert said in str(failure.value)


@pytest.mark.parametrize(
    "path",
    [
        "../sys/raw",
        "a//b",
        "a/./b",
        "a/..",
        "a\nb",
        "a?list=true",
        "a#b",
        "%2e%2e/x",
        "",
        "a/b.",
        " a/b ",
    ],
)
def test_a_path_names_one_secret_and_nothing_else(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        VaultSource.model_validate({"backend": "vault", "path": path})
