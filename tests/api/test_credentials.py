"""/credentials and /api-keys over HTTP: secrets are accepted and never returned."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, problem
from opsjobs.store.transaction import Database
from store.drafts import private_key

CANARY = "canary-7f3a"


def login(name: str = "login", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "password", "username": "deploy", "password": CANARY, **fields}


async def test_a_credential_is_created_read_replaced_and_deleted_without_showing_its_secret(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    async with api_client(database) as ada:
        made = await ada.http.post("/credentials", json=login())
        assert (made.status_code, made.headers["location"]) == (201, "/credentials/1")
        uuid = made.json()["uuid"]
        shown = [
            made,
            await ada.http.get(f"/credentials/{uuid}"),
            await ada.http.get("/credentials?type=password"),
        ]
        changed = await ada.http.put("/credentials/1", json=login("gate", password="canary-2"))
        assert (changed.json()["version"], changed.json()["name"]) == (2, "gate")
        assert all("canary" not in answer.text for answer in [*shown, changed])
        assert (await ada.http.delete("/credentials/1")).status_code == 204
        problem(await ada.http.get("/credentials/1"), 404, "credential_not_found")
    assert "canary" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "telepathy"},
        {"private_key": CANARY},
        {"password": None},
        {"password": [CANARY]},
        {"password": CANARY * 10_000},
        {"username": "-oX"},
        {"username": "a b"},
        {"secret": CANARY},
        {"type": "ssh_key", "password": None, "private_key": CANARY},
        {
            "type": "ssh_key",
            "password": None,
            "private_key": private_key(passphrase=CANARY),
            "passphrase": "no",
        },
        {
            "type": "ssh_certificate",
            "password": None,
            "private_key": private_key(),
            "certificate": "ssh-ed25519 AAAA",
        },
        {"type": "agent"},
    ],
    ids="+".join,
)
async def test_an_invalid_credential_is_422_without_repeating_the_secret(
    database: Database, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/credentials", json=login(**fields))
        assert answer.status_code == 422, answer.text
        assert CANARY not in answer.text
    assert CANARY not in capsys.readouterr().out


async def test_a_credential_in_use_is_409_and_names_its_users(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=login())
        await ada.http.post(
            "/targets", json={"name": "web-1", "host": "10.0.0.5", "credential": "login"}
        )
        assert (
            "web-1"
            in problem(await ada.http.delete("/credentials/1"), 409, "credential_in_use")["detail"]
        )


async def test_a_stored_idempotent_answer_has_no_secret(database: Database) -> None:
    async with api_client(database) as ada:
        for _ in range(2):
            assert (
                await ada.http.post("/credentials", json=login(), headers={"Idempotency-Key": "k"})
            ).status_code == 201
        row = await database.fetch_one(
            "select idempotency_keys::text as everything from idempotency_keys"
        )
        assert row is not None
        assert CANARY not in row["everything"]


async def test_an_api_key_shows_its_token_once_and_is_valid_until_deleted(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        made = await ada.http.post("/api-keys", json={"name": "ci", "role": "viewer"})
        assert (made.status_code, made.headers["location"]) == (201, "/api-keys/2")
        token = made.json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert (await ada.http.get("/jobs", headers=headers)).status_code == 200
        assert (
            token
            not in (await ada.http.get("/api-keys")).text + (await ada.http.get("/api-keys/2")).text
        )
        assert (await ada.http.delete("/api-keys/2")).status_code == 204
        problem(await ada.http.get("/jobs", headers=headers), 401, "token_invalid")


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "emperor"},
        {"name": ""},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"token": "x"},
    ],
    ids="+".join,
)
async def test_an_invalid_api_key_is_422(database: Database, fields: dict[str, Any]) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/api-keys", json={"name": "ci", "role": "viewer", **fields})
        assert answer.status_code == 422
