"""/targets over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import api_client, problem, stored
from opsjobs.remote.session import HostKey
from opsjobs.store.transaction import Database
from store.drafts import host_key

LOGIN = {"name": "login", "type": "password", "username": "deploy", "password": "canary-pw"}


def web(name: str = "web-1", **fields: Any) -> dict[str, Any]:
    return {"name": name, "host": "10.0.0.5", **fields}


async def test_a_target_is_created_read_replaced_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=LOGIN)
        key = host_key()
        made = await ada.http.post(
            "/targets",
            json=web(labels={"env": "prod"}, groups=["web"], credential="login", host_keys=[key]),
        )
        assert (made.status_code, made.headers["location"]) == (201, "/targets/1")
        body = made.json()
        assert (body["id"], body["credential"], body["host_keys"], body["port"]) == (
            "1",
            "login",
            [key],
            22,
        )
        read = (await ada.http.get(f"/targets/{body['uuid']}")).json()
        assert stored(read) == {**body, "health": read["health"]}
        assert read["health"]["status"] == "unknown"
        own = {"id", "uuid", "version", "created_at", "updated_at"}
        same = await ada.http.put(
            "/targets/1", json={k: v for k, v in body.items() if k not in own}
        )
        assert same.json() == stored(read)
        assert body["durable"] == "auto"
        changed = await ada.http.put(
            "/targets/1", json=web(host="db.example.org", durable="required")
        )
        assert (
            changed.json()["version"],
            changed.json()["credential"],
            changed.json()["durable"],
        ) == (2, None, "required")
        assert (await ada.http.delete("/targets/1")).status_code == 204
        problem(await ada.http.get("/targets/1"), 404, "target_not_found")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"host": "-oProxyCommand=x"}, "/host"),
        ({"host": "a b"}, "/host"),
        ({"host": ""}, "/host"),
        ({"host": "x" * 300}, "/host"),
        ({"port": 0}, "/port"),
        ({"port": 65_536}, "/port"),
        ({"name": "a,b"}, "/name"),
        ({"transport": "telnet"}, "/transport"),
        ({"zone": "../../etc/passwd"}, "/zone"),
        ({"slots": 0}, "/slots"),
        ({"slots": 10**30}, "/slots"),
        ({"labels": {"env": 1}}, "/labels/env"),
        ({"labels": {"-env": "x"}}, "/labels/-env"),
        ({"credential": "nobody"}, "/credential"),
        ({"jump": "nobody"}, "/jump"),
        ({"host_keys": ["junk"]}, "/host_keys/0"),
        ({"durable": "perhaps"}, "/durable"),
    ],
)
async def test_an_invalid_target_field_is_422_with_a_pointer(
    database: Database, fields: dict[str, Any], pointer: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/targets", json=web(**fields))
        assert answer.status_code == 422
        assert pointer in [error["pointer"] for error in answer.json()["errors"]]


async def test_a_connection_test_returns_each_step_and_uses_the_credential(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=LOGIN)
        await ada.http.post("/targets", json=web(credential="login"))
        answer = await ada.http.post("/targets/1/test")
        assert answer.json() == {
            "ok": True,
            "steps": [{"name": "connect", "ok": True, "ms": 1.2, "error": None}],
        }
        assert ada.services.sessions.asked[0].credential.password.reveal() == "canary-pw"
        ada.services.sessions.refused = True
        refused = (await ada.http.post("/targets/1/test")).json()
        assert (refused["ok"], refused["steps"][0]["error"]) == (False, "refused")
        problem(await ada.http.post("/targets/9/test"), 404, "target_not_found")


async def test_a_host_key_scan_shows_keys_and_trusts_none(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json=web())
        ada.services.sessions.keys = [HostKey(host_key(), "SHA256:abc")]
        keys = (await ada.http.post("/targets/1/scan-host-keys")).json()["host_keys"]
        assert [key["fingerprint"] for key in keys] == ["SHA256:abc"]
        assert (await ada.http.get("/targets/1")).json()["host_keys"] == []
        ada.services.sessions.refused = True
        problem(await ada.http.post("/targets/1/scan-host-keys"), 424, "connection_refused")


async def test_targets_are_filtered_by_selector_group_and_name(database: Database) -> None:
    async with api_client(database) as ada:
        for n, env in ((1, "prod"), (2, "test"), (3, "prod")):
            await ada.http.post(
                "/targets", json=web(f"web-{n}", labels={"env": env}, groups=["web"])
            )
        found = (
            await ada.http.get("/targets", params={"selector": "env=prod", "sort": "-name"})
        ).json()["items"]
        assert [t["name"] for t in found] == ["web-3", "web-1"]
        assert len((await ada.http.get("/targets?groups=web")).json()["items"]) == 3
        assert [t["id"] for t in (await ada.http.get("/targets?name=web-2")).json()["items"]] == [
            "2"
        ]
        problem(
            await ada.http.get("/targets", params={"selector": "env=,,"}), 422, "invalid_selector"
        )


async def test_naming_a_credential_requires_credentials_use(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=LOGIN)
        manager, developer = await ada.token_of("manager"), await ada.token_of("developer")
        assert (
            await ada.http.post("/targets", json=web(credential="login"), headers=manager)
        ).status_code == 201
        problem(
            await ada.http.post("/targets", json=web("web-2"), headers=developer), 403, "forbidden"
        )


async def test_a_jump_host_in_use_is_409_and_names_its_users(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json=web("gate"))
        await ada.http.post("/targets", json=web("web-1", jump="gate"))
        assert (
            "web-1" in problem(await ada.http.delete("/targets/1"), 409, "target_in_use")["detail"]
        )


async def test_a_repeated_target_post_is_replayed_by_idempotency_key(database: Database) -> None:
    async with api_client(database) as ada:
        answers = [
            await ada.http.post("/targets", json=web(), headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        assert [answer.status_code for answer in answers] == [201, 201]
