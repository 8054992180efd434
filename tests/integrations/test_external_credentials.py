"""Credentials with external secrets: created, shown, tested, used, and never stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.command_runs import run
from kit.machines import small_server
from kit.vault_server import VaultKit, vault_kit
from opsjobs.clock import SystemClock
from opsjobs.composition import build
from opsjobs.engine.run_credentials import fetch_become_password, resolve_become
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.integrations.secrets.requests import VaultOptions
from opsjobs.integrations.secrets.vault import VaultServer
from opsjobs.model.action_base import FrozenBecome
from opsjobs.model.credential import Credential, CredentialType, VaultSource
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.secret import Secret
from opsjobs.remote.session import RemoteExit
from opsjobs.settings import SettingsError, load
from opsjobs.store.envelope import new_key
from opsjobs.store.transaction import Database
from store.drafts import private_key, target

CANARY = "canary-51d0"
KEY = {"backend": "vault", "path": "web/key", "fields": {"private_key": "key"}}


@pytest.fixture(scope="module")
def kit() -> Iterator[VaultKit]:
    with vault_kit() as running:
        yield running


def login(name: str = "web-key", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "ssh_key", "username": "deploy", "source": KEY, **fields}


async def tried(ada: ApiClient, kit: VaultKit, ref: str) -> dict[str, Any]:
    """Return the result of `test` with this Vault."""
    server = VaultServer(VaultOptions(kit.url, token=Secret(kit.token())))
    ada.services.external_secrets = ExternalSecrets(ada.services.vault, server, SystemClock())
    try:
        answer = await ada.http.post(f"/credentials/{ref}/test")
    finally:
        await server.close()
    assert answer.status_code == 200, answer.text
    assert "PRIVATE KEY" not in answer.text
    assert CANARY not in answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_it_is_shown_with_its_source_and_tried_without_being_shown(
    database: Database, kit: VaultKit
) -> None:
    async with api_client(database) as ada:
        made = (await ada.http.post("/credentials", json=login())).json()
        assert made["source"]["path"] == "web/key"
        missing = await tried(ada, kit, "1")
        assert (missing["ok"], [s["name"] for s in missing["steps"]]) == (False, ["open", "fetch"])
        assert "there is nothing" in missing["steps"][-1]["error"]
        kit.put("web/key", {"other": CANARY})
        assert (
            "has no field 'key' (it has other)"
            in (await tried(ada, kit, "1"))["steps"][-1]["error"]
        )
        kit.put("web/key", {"key": CANARY})
        bad = await tried(ada, kit, "1")
        assert (bad["ok"], bad["steps"][-1]["name"]) == (False, "use")
        kit.put("web/key", {"key": private_key()})
        good = await tried(ada, kit, "1")
        assert good["ok"]
        assert good["public_key"].startswith("ssh-ed25519 ")
        rows = await database.fetch(
            "select action from audit_log where action = 'credential.tested'"
        )
        assert len(rows) == 4
        stored = await database.fetch_one("select credentials::text as everything from credentials")
        assert stored is not None
        assert "PRIVATE" not in stored["everything"]


async def test_without_a_vault_it_says_what_to_set(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=login())
        told = (await ada.http.post("/credentials/1/test")).json()
        assert "OPSJOBS_VAULT_URL" in told["steps"][-1]["error"]


async def test_what_is_sealed_counts_and_not_what_the_row_shows(
    database: Database, kit: VaultKit
) -> None:
    kit.put("root/key", {"key": private_key()})
    kit.put("sealed/key", {"key": private_key()})
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=login(source={**KEY, "path": "sealed/key"}))
        await database.fetch(
            "update credentials set source = jsonb_set(source, '{path}', '\"root/key\"') returning id"
        )
        assert (await tried(ada, kit, "1"))["ok"]
        assert kit.count("secret/data/root/key") == 0


UNFIT: list[dict[str, Any]] = [
    {"private_key": private_key()},
    {"password": CANARY},
    {"type": "password"},
    {"type": "agent"},
    {"type": "kerberos", "principal": "deploy@CORP.EXAMPLE", "username": None},
    {"username": None},
    {"source": {**KEY, "path": "../sys/raw"}},
    {"source": {**KEY, "mount": "a?b"}},
    {"source": {**KEY, "token": CANARY}},
    {"source": {**KEY, "fields": {"private_key": "key", "password": "p"}}},
    {"source": {"backend": "nowhere"}},
    {"source": {"backend": "ssh_ca", "authority": "ca"}},
    {"type": "ssh_certificate", "source": {"backend": "ssh_ca", "authority": "nobody"}},
    {"type": "ssh_certificate", "source": {"backend": "ssh_ca", "authority": "plain"}},
    {
        "type": "ssh_certificate",
        "source": {"backend": "ssh_ca", "authority": "plain", "validity": "2d"},
    },
    {
        "type": "ssh_certificate",
        "source": {"backend": "ssh_ca", "authority": "plain", "principals": ["-oX"]},
    },
    {"type": "ssh_certificate", "source": {"backend": "vault_ssh", "role": "../x"}},
]


async def test_a_source_that_cannot_work_is_422(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post(
            "/credentials",
            json={"name": "plain", "type": "password", "username": "d", "password": "p"},
        )
        for fields in UNFIT:
            answer = await ada.http.post("/credentials", json=login(**fields))
            assert answer.status_code == 422, (fields, answer.text)
            assert CANARY not in answer.text


async def test_the_key_of_a_ca_stays_while_somebody_needs_it(
    database: Database, kit: VaultKit
) -> None:
    async with api_client(database) as ada:
        key = {
            "name": "fleet-ca",
            "type": "ssh_key",
            "username": "ca",
            "private_key": private_key(),
        }
        await ada.http.post("/credentials", json=key)
        source = {"backend": "ssh_ca", "authority": "fleet-ca", "validity": "2m"}
        await ada.http.post(
            "/credentials", json=login("fleet", type="ssh_certificate", source=source)
        )
        assert (
            "fleet"
            in problem(await ada.http.delete("/credentials/1"), 409, "credential_in_use")["detail"]
        )
        problem(
            await ada.http.put("/credentials/1", json={**key, "name": "other"}),
            409,
            "credential_in_use",
        )
        assert (
            await ada.http.put("/credentials/1", json={**key, "private_key": private_key()})
        ).status_code == 200
        told = await tried(ada, kit, "2")
        assert told["ok"]
        assert told["certificate"]["principals"] == ["deploy"]
        problem(
            await ada.http.post("/credentials/2/rotate", json={"private_key": private_key()}),
            422,
            "nothing_to_rotate",
        )
        assert (await ada.http.delete("/credentials/2")).status_code == 204
        assert (await ada.http.delete("/credentials/1")).status_code == 204


async def test_from_the_settings_to_a_machine(
    database_url: str, kit: VaultKit, tmp_path: Path
) -> None:
    """Return the services of a process.

    They have an AppRole from a file, a password that only Vault has, and a login with it.
    """
    role_id, secret_id = kit.approle()
    (tmp_path / "secret-id").write_text(secret_id + "\n")
    kit.put("web/login", {"word": CANARY})
    settings = load(
        {
            "DATABASE_URL": database_url,
            "ENCRYPTION_KEYS": new_key().reveal(),
            "OPSJOBS_VAULT_URL": kit.url,
            "OPSJOBS_VAULT_ROLE_ID": role_id,
            "OPSJOBS_VAULT_SECRET_ID_FILE": str(tmp_path / "secret-id"),
        }
    )
    services = build(settings)
    await services.open()
    try:
        async with small_server(password=CANARY) as small:
            body = login(
                "web-login",
                type="password",
                username="ada",
                source={**KEY, "path": "web/login", "fields": {"password": "word"}},
            )
            await services.vault.create(CredentialDraft.model_validate(body))
            machine = target(
                "web-1",
                host="127.0.0.1",
                port=small.port,
                credential="web-login",
                host_keys=[small.host_line],
            )
            made = await services.inventory.create(machine)
            where = (await services.inventory.endpoints(["1"]))["1"]
            assert where.credential is not None
            assert where.credential.password is None
            assert await run(services.sessions, where, "true") == (b"", b"", RemoteExit(0))
            assert small.logins == [f"password ada {CANARY}"]
            assert CANARY not in repr(where) + repr(made)
    finally:
        await services.close()
    assert kit.asked[-1] == ("POST", "auth/token/revoke-self")


async def test_the_password_to_become_somebody_is_got_when_it_is_needed(kit: VaultKit) -> None:
    kit.put("sudo", {"password": CANARY})
    source = VaultSource.model_validate({"backend": "vault", "path": "sudo"})
    credential = Credential("5", 1, "sudo", CredentialType.PASSWORD, "root", source=source)
    wish = FrozenBecome(user="root", method="sudo", credential="sudo", credential_id="5")
    server = VaultServer(VaultOptions(kit.url, token=Secret(kit.token())))
    there = ExternalSecrets(_Nobody(), server, SystemClock())
    try:
        opened = await fetch_become_password(
            wish, {"5": credential}, there.fetch, "execution 1 run 1"
        )
        become = resolve_become(wish, opened)
        assert become is not None
        assert become.password == Secret(CANARY)
        gone = replace(credential, source=source.model_copy(update={"path": "gone"}))
        opened = await fetch_become_password(wish, {"5": gone}, there.fetch, "execution 1 run 1")
        with pytest.raises(RemoteFailure, match="there is nothing"):
            resolve_become(wish, opened)
    finally:
        await server.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://vault.example.org:8200",
        "ftp://vault",
        "https://user@vault",
        "https://vault/v1",
        "https://vault?x",
        "vault:8200",
        "http://10.0.0.1",
    ],
)
def test_a_token_never_crosses_a_network_in_the_clear(url: str) -> None:
    with pytest.raises(SettingsError, match="OPSJOBS_VAULT_URL"):
        load({"OPSJOBS_VAULT_URL": url})


class _Nobody:
    async def open_named(self, name: str) -> Credential | None:
        return None
