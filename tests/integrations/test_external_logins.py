"""Whole runs with external logins: a worker, a real database and sshd, a Vault server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, harness
from kit.machines import endpoint_of, small_server
from kit.sshd import needs_sshd, sshd
from kit.vault_server import VaultKit, vault_kit
from opsjobs.clock import SystemClock
from opsjobs.engine.runs.run_secrets import ExternalSecrets
from opsjobs.integrations.secrets.requests import VaultOptions
from opsjobs.integrations.secrets.vault import VaultServer
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint
from opsjobs.remote.ssh.auth_material import generate_key
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool
from opsjobs.store.transaction import Database

CANARY = "canary-0be7-of-login"


@pytest.fixture(scope="module")
def kit() -> Iterator[VaultKit]:
    with vault_kit() as running:
        yield running


@asynccontextmanager
async def working(on: Harness, kit: VaultKit, where: Endpoint, credential: str) -> Any:
    """Run a worker that reaches every machine there, with this credential of the vault."""
    server = VaultServer(VaultOptions(kit.url, token=Secret(kit.token())))
    there = ExternalSecrets(on.vault, server, SystemClock())
    pool = SshPool(Connector(fetch=there.fetch))

    async def endpoints(target_ids: Sequence[str]) -> dict[str, Endpoint]:
        opened = (await on.vault.open_many([credential]))[credential]
        return {
            i: replace(where, credential=opened, target=replace(where.target, id=i))
            for i in target_ids
        }

    on.targets.endpoints = endpoints  # type: ignore[method-assign]
    try:
        async with on.worker(sessions=pool, fetch=there.fetch):
            yield
    finally:
        await pool.close()
        await server.close()


async def add(on: Harness, **body: Any) -> str:
    return str((await on.vault.create(CredentialDraft.model_validate(body))).id)  # type: ignore[union-attr]


async def test_each_run_logs_in_with_a_certificate_that_names_it(
    database: Database, kit: VaultKit
) -> None:
    needs_sshd()
    authority = generate_key()
    with sshd(host_key_types=("ed25519",)) as running:
        running.authorize(running.user, f"cert-authority {authority.public}")
        async with harness(database) as on:
            kit.put("ca", {"private_key": authority.private.reveal()})
            ca = {
                "name": "fleet-ca",
                "type": "ssh_key",
                "username": "ca",
                "source": {"backend": "vault", "path": "ca"},
            }
            await add(on, **ca)
            source = {"backend": "ssh_ca", "authority": "fleet-ca"}
            fleet = await add(
                on, name="fleet", type="ssh_certificate", username=running.user, source=source
            )
            async with working(on, kit, endpoint_of(running), fleet):
                first, second = await on.run("true"), await on.run("true", on=2)
            runs = [(await database.fetch("select id, execution_id from target_runs order by id"))]
        accepted = re.findall(r"ID opsjobs (execution \d+ run \d+) \(serial", running.log)
    assert (first.status, second.status) == (ExecutionStatus.COMPLETED, ExecutionStatus.COMPLETED)
    assert sorted(accepted) == sorted(
        f"execution {row['execution_id']} run {row['id']}" for row in runs[0]
    )
    rows = await _everything(database)
    assert "PRIVATE KEY" not in rows
    assert "cert-v01" not in rows


async def test_a_password_from_vault_logs_in_and_is_masked_where_a_command_prints_it(
    database: Database, kit: VaultKit
) -> None:
    kit.put("login", {"password": CANARY})
    async with small_server(password=CANARY) as small, harness(database) as on:
        login = await add(
            on,
            name="l",
            type="password",
            username="ada",
            source={"backend": "vault", "path": "login"},
        )
        async with working(on, kit, small.endpoint(), login):
            ended = await on.run(f"printf '%s' canary-0be7-of && echo -login && true {CANARY[:6]}")
        assert ended.status is ExecutionStatus.COMPLETED
        assert small.logins == [f"password ada {CANARY}"]
        rows = await _everything(database)
    assert CANARY not in rows
    assert CANARY.encode().hex() not in rows
    assert "*" * len(CANARY) in rows or ("*" * len(CANARY)).encode().hex() in rows


async def _everything(database: Database) -> str:
    """Return all rows of all tables, as text; bytes in hexadecimal digits."""
    tables = [
        row["name"]
        for row in await database.fetch("select relname as name from pg_stat_user_tables")
    ]
    return str([await database.fetch(f"select t::text from {table} t") for table in tables])
