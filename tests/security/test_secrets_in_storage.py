"""Point 10, storage: no table and no wake-up ever holds a secret or a digest to guess it from.

This holds after any request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from api.kit import ApiClient, api_client
from kit.secret_canaries import Canary
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from security.credential_samples import login

PASSWORD, ROTATED, TOKEN = Canary("password"), Canary("rotated"), Canary("parameter")
JOB = {
    "name": "deploy",
    "parameters": [{"name": "token", "type": "string", "required": True, "secret": True}],
    "targets": {"ids": ["web-1"]},
    "actions": [{"type": "command", "command": "id", "become": {"credential": "login"}}],
}


async def send_secrets(ada: ApiClient) -> list[bytes]:
    """Send every request with a secret, each with an Idempotency-Key; return these bodies."""
    sent: list[bytes] = []

    async def post(path: str, body: dict[str, Any], status: int) -> None:
        content = json.dumps(body).encode()
        headers = {"Idempotency-Key": f"k{len(sent)}", "Content-Type": "application/json"}
        answer = await ada.http.post(path, content=content, headers=headers)
        assert answer.status_code == status, answer.text
        sent.append(content)

    await post("/credentials", login("password", name="login", password=PASSWORD.text), 201)
    await post("/credentials/1/rotate", {"password": ROTATED.text}, 200)
    # Refused ones, too: nothing of them is stored, and there is no event.
    await post("/credentials/1/rotate", {"password": PASSWORD.text, "version": 1}, 412)
    await post("/credentials", login("password", name="login", password=PASSWORD.text), 409)
    await post("/credentials", login("ssh_key", private_key=PASSWORD.text), 422)
    await ada.http.post(
        "/targets", json={"name": "web-1", "host": "10.0.0.5", "credential": "login"}
    )
    await ada.http.post("/jobs", json=JOB)
    await post("/jobs/1/execute", {"parameters": {"token": TOKEN.text}}, 202)
    await post(
        "/jobs/1/execute",
        {"parameters": {"token": TOKEN.text}, "targets": {"ids": ["nowhere"]}},
        422,
    )
    await post("/jobs/1/preview", {"parameters": {"token": TOKEN.text}}, 200)
    return sent


async def dumped(database: Database) -> str:
    """Return every row of every table."""
    tables = [
        row["name"]
        for row in await database.fetch(
            "select relname as name from pg_stat_user_tables order by 1"
        )
    ]
    return "\n".join(
        [
            row["t"]
            for table in tables
            for row in await database.fetch(f"select t::text as t from {table} t")
        ]
    )


async def test_no_table_holds_a_secret_or_a_digest_of_one(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    open_many = Vault.open_many

    async def counted(vault: Vault, ids: Any) -> Any:
        opened.append(ids)
        return await open_many(vault, ids)

    monkeypatch.setattr(Vault, "open_many", counted)
    async with api_client(database) as ada:
        sent = await send_secrets(ada)
        everything = (await dumped(database)).encode() + capsys.readouterr().out.encode()
        for canary in (PASSWORD, ROTATED, TOKEN):
            for spelling in canary.spellings:
                assert spelling not in everything, canary.name
            # bytea is shown in hex; a secret could be guessed from a plain digest of it, or of a
            # body with it
            for text in (canary.text.encode(), *sent):
                assert hashlib.sha256(text).hexdigest().encode() not in everything
        for body in sent:
            assert base64.b64encode(body) not in everything
        assert opened == [], "a launch opens nothing: the worker does, just before the session"
        # It is there all the same, for the holder of the key.
        assert (await open_many(ada.services.vault, ["1"]))["1"].password.reveal() == ROTATED.text
        spec = (await ada.services.ledger.load_specs([1]))[1]
        assert (
            ada.services.vault.open_parameters(spec.execution_uuid, spec.parameters)[
                "token"
            ].reveal()
            == TOKEN.text
        )


async def test_what_is_told_of_a_credential_and_an_execution_shows_no_secret(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await send_secrets(ada)
        paths = (
            "/credentials",
            "/credentials/1",
            "/credentials/1/usage",
            "/executions/1",
            "/executions",
            "/jobs/1",
            "/audit",
            "/keys",
        )
        told = "".join([(await ada.http.get(path)).text for path in paths])
        assert not any(canary.text in told for canary in (PASSWORD, ROTATED, TOKEN))
        assert '"token":"***"' in told.replace(" ", "")
