"""Point 4: a name belongs to one identity or machine forever.

A later one of the same name does not inherit anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from kit.token_issuer import pem
from opsjobs.model.errors import Conflict
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.transaction import Database

PASSWORD = "correct horse battery"
SCOPED = [{"role": "developer", "scope": "env=staging"}]
BODIES: dict[str, dict[str, Any]] = {
    "/api-keys": {"name": "ci", "grants": SCOPED},
    "/users": {"name": "ci", "password": PASSWORD, "grants": SCOPED},
    "/services": {"name": "ci", "public_key": pem("ed25519"), "grants": SCOPED},
}


async def made(ada: ApiClient, path: str, **more: Any) -> dict[str, Any]:
    answer = await ada.http.post(path, json={**BODIES[path], **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("path", BODIES)
async def test_a_name_that_somebody_had_is_given_to_nobody_else_unless_an_administrator_says_so(
    database: Database, path: str
) -> None:
    async with api_client(database) as ada:
        first = await made(ada, path)
        assert (await ada.http.delete(f"{path}/{first['id']}")).status_code == 204
        refused = problem(await ada.http.post(path, json=BODIES[path]), 409, "name_reserved")
        assert refused["errors"][0]["pointer"] == "/name"
        assert "reuse_name" in refused["detail"]
        assert [
            item["name"]
            for item in (await ada.http.get(path)).json()["items"]
            if item["name"] == "ci"
        ] == []
        # The same name of another noun is another name, and an unused name is free.
        other = next(p for p in BODIES if p != path)
        await made(ada, other)
        await made(ada, path, name="ci-2", reuse_name=True)
        deputy = {
            "Authorization": f"Bearer {(await made(ada, '/api-keys', name='deputy', grants=ALL_BUT_ONE))['token']}"
        }
        answer = await ada.http.post(
            path, json={**BODIES[path], "reuse_name": True}, headers=deputy
        )
        problem(answer, 403, "more_than_held")
        await made(ada, path, reuse_name=True)
        log = (await ada.http.get("/audit", params={"thing_name": "ci"})).json()["items"]
        newest = next(row for row in log if row["action"].endswith(".created"))
        assert "ci left" in newest["after"]["reuse_name"]


ALL_BUT_ONE = [
    {"permissions": ["system:admin", "jobs:read", "jobs:create", "jobs:update", "jobs:execute"]},
    {"role": "manager"},
]


async def test_what_a_key_left_is_not_read_under_its_name(database: Database) -> None:
    async with api_client(database) as ada:
        first = await made(ada, "/api-keys")
        ci = {"Authorization": f"Bearer {first['token']}"}
        stored = (await ada.http.post("/files?name=secret", content=b"secret", headers=ci)).json()
        assert (await ada.http.get(f"/files/{stored['id']}/content", headers=ci)).text == "secret"
        assert (await ada.http.delete(f"/api-keys/{first['id']}")).status_code == 204
        assert (await ada.http.post("/api-keys", json=BODIES["/api-keys"])).status_code == 409
        # The name of a key that was deleted with its user is not free either.
        ben = await made(ada, "/users", name="ben", grants=[{"role": "admin"}])
        login = (
            await ada.http.post("/auth/login", json={"username": "ben", "password": PASSWORD})
        ).json()
        his = {"Authorization": f"Bearer {login['access_token']}"}
        key = {"name": "of-ben", "role": "viewer"}
        assert (await ada.http.post("/api-keys", json=key, headers=his)).status_code == 201
        await made(ada, "/users", name="eve", grants=[{"role": "admin"}])
        assert (await ada.http.delete(f"/users/{ben['id']}")).status_code == 204
        problem(await ada.http.post("/api-keys", json=key), 409, "name_reserved")


async def test_who_is_deleted_at_the_same_moment_is_seen(database: Database) -> None:
    async with api_client(database) as ada:
        people = ada.services.identities
        await people.create_key("ci", "viewer")
        async with database.transaction() as connection:
            await connection.execute("delete from api_keys where name = 'ci'")
            again = asyncio.create_task(people.create_key("ci", "admin"))
            async with asyncio.timeout(60):
                while not (await waiting(database)):
                    await asyncio.sleep(0.01)
        with pytest.raises(Conflict) as refused:
            await again
        assert refused.value.code == "name_reserved"
        # The installation's own token comes from its settings: it is created again under its name.
        await people.ensure_key("ci", "admin", "a token of the installation itself")


async def waiting(database: Database) -> bool:
    query = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return await database.fetch_one(query) is not None


async def test_names_of_machines_are_forgotten_with_their_time_and_those_of_people_never(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        key = await made(ada, "/api-keys")
        assert (await ada.http.delete(f"/api-keys/{key['id']}")).status_code == 204
        target = (
            await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.1"})
        ).json()
        assert (await ada.http.delete(f"/targets/{target['id']}")).status_code == 204
        retention = Retention(database)
        assert await retention.forget_names(RetentionLimits(0, 0, 3_600, 1, 0)) == 0
        assert await retention.forget_names(RetentionLimits(0, 0, 0, 1, 0)) == 1
        assert await retention.forget_names(RetentionLimits(0, 0, 0, 1, 0)) == 0
        problem(await ada.http.post("/api-keys", json=BODIES["/api-keys"]), 409, "name_reserved")
