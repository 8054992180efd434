"""Point 28: each way to trust other host keys of a machine leaves an audit row that names it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from api.kit import ApiClient, api_client
from opsjobs.cli.audit import changed
from opsjobs.store.host_keys import change_of
from opsjobs.store.transaction import Database


def key(number: int) -> str:
    kind = b"ssh-ed25519"
    blob = len(kind).to_bytes(4, "big") + kind + (32).to_bytes(4, "big") + bytes([number]) * 32
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


FIRST, SECOND = key(1), key(2)


async def rows(on: ApiClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await on.http.get("/audit?thing=target&sort=id")).json()["items"]
    return items


@pytest.mark.parametrize("door", ["PUT", "PATCH", "import"])
async def test_each_change_of_host_keys_has_an_action_of_its_own(
    database: Database, door: str
) -> None:
    async with api_client(database) as ada:
        assert (
            await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.1"})
        ).status_code == 201

        async def set_keys(*keys: str) -> None:
            body = {"name": "web-1", "host": "10.0.0.1", "host_keys": list(keys)}
            match door:
                case "PUT":
                    answer = await ada.http.put("/targets/1", json=body)
                case "PATCH":
                    answer = await ada.http.patch("/targets/1", json={"host_keys": list(keys)})
                case _:
                    answer = await ada.http.post("/targets/import", json={"targets": [body]})
            assert answer.is_success, answer.text

        await set_keys(FIRST)
        await set_keys(SECOND)
        await set_keys(SECOND)
        await set_keys(f"@revoked {FIRST}", SECOND)
        await set_keys()
        seen = [row for row in await rows(ada) if "host_keys" in row["action"]]
    assert [row["action"].removeprefix("target.host_keys_") for row in seen] == [
        "trusted",
        "replaced",
        "revoked",
        "removed",
    ]
    assert {row["thing_name"] for row in seen} == {"web-1"}
    first, second = (row["after"]["host_keys"] for row in seen[:2])
    assert seen[1]["before"]["host_keys"] == first
    assert first[0].startswith("ssh-ed25519 SHA256:")
    assert first != second
    assert seen[3]["after"] == {"host_keys": []}


@pytest.mark.parametrize("many", [False, True])
async def test_a_machine_that_is_added_with_host_keys_trusts_them(
    database: Database, many: bool
) -> None:
    async with api_client(database) as ada:
        bodies = [
            {"name": f"web-{n}", "host": f"10.0.0.{n}", "host_keys": [FIRST] if n == 1 else []}
            for n in (1, 2)
        ]
        if many:
            await ada.http.post("/targets/import", json={"targets": bodies})
        else:
            for body in bodies:
                await ada.http.post("/targets", json=body)
        seen = [
            (row["action"], row["thing_name"])
            for row in await rows(ada)
            if "host_keys" in row["action"]
        ]
    assert seen == [("target.host_keys_trusted", "web-1")]


def test_the_table_of_the_audit_log_names_the_fields_that_have_changed() -> None:
    assert (
        changed({"host_keys": ["a"], "version": 1}, {"host_keys": ["b"], "version": 2})
        == "host_keys"
    )
    assert changed({"port": 22}, {"port": 2222, "zone": "x"}) == "port, zone"
    assert changed(None, {"port": 22}) is None
    assert changed({"port": 22}, {"bytes": 20_000, "sha256": "0"}) is None
    assert change_of(["a"], ["a"]) is None
