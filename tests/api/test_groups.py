"""/target-groups and /targets/import over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import ApiClient, api_client, job, problem
from opsjobs.store.transaction import Database

LOGIN = {"name": "login", "type": "password", "username": "deploy", "password": "canary-pw"}


async def fleet(ada: ApiClient) -> None:
    for name, env in (("web-1", "prod"), ("web-2", "test"), ("db-1", "prod")):
        body = {
            "name": name,
            "host": "10.0.0.1",
            "labels": {"env": env},
            "groups": [name.partition("-")[0]],
        }
        assert (await ada.http.post("/targets", json=body)).status_code == 201


async def test_a_group_is_created_read_replaced_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        draft = {
            "name": "prod",
            "description": "what earns money",
            "selector": "env=prod",
            "groups": ["web"],
            "targets": ["db-1"],
        }
        made = await ada.http.post("/target-groups", json=draft)
        assert (made.status_code, made.headers["location"]) == (
            201,
            f"/target-groups/{made.json()['id']}",
        )
        body = made.json()
        assert (body["selector"], body["groups"], body["direct_targets"]) == (
            "env=prod",
            ["web"],
            1,
        )
        members = (await ada.http.get(f"/target-groups/{body['uuid']}/targets?sort=-name")).json()[
            "items"
        ]
        assert [target["name"] for target in members] == ["web-2", "web-1", "db-1"]
        listed = (await ada.http.get("/target-groups")).json()["items"]
        assert [group["name"] for group in listed] == ["db", "prod", "web"]
        changed = await ada.http.put(
            f"/target-groups/{body['id']}", json={"name": "money", "targets": []}
        )
        assert (
            changed.json()["name"],
            changed.json()["selector"],
            changed.json()["direct_targets"],
        ) == ("money", None, 0)
        assert (await ada.http.delete(f"/target-groups/{body['id']}")).status_code == 204
        problem(await ada.http.get(f"/target-groups/{body['id']}"), 404, "group_not_found")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": "a/b"}, "/name"),
        ({"groups": ["prod"]}, "/groups"),
        ({"targets": ["web-9"]}, "/targets/0"),
        ({"color": 1}, "/color"),
    ],
)
async def test_an_invalid_group_is_422_with_a_pointer(
    database: Database, fields: dict[str, Any], pointer: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/target-groups", json={"name": "prod", **fields})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert (await ada.http.get("/target-groups")).json()["items"] == []


async def test_a_group_in_use_by_a_job_is_not_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        await ada.http.post("/jobs", json=job("restart"))
        web = (await ada.http.get("/target-groups?name=web")).json()["items"][0]
        assert (
            "restart"
            in problem(await ada.http.delete(f"/target-groups/{web['id']}"), 409, "group_in_use")[
                "detail"
            ]
        )
        problem(await ada.http.post("/target-groups", json={"name": "web"}), 409, "name_taken")


async def test_the_old_name_of_a_group_is_not_put_back_into_another(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        made = await ada.http.post("/target-groups", json={"name": "prod", "groups": ["web"]})
        web = (await ada.http.get("/target-groups?name=web")).json()["items"][0]
        path = f"/target-groups/{made.json()['id']}"
        renamed = await ada.http.patch(f"/target-groups/{web['id']}", json={"name": "front"})
        assert renamed.status_code == 200, renamed.text
        problem(await ada.http.put(path, json=made.json()), 422, "read_only")
        assert (await ada.http.get(path)).json()["groups"] == ["front"]


async def test_a_viewer_reads_groups_and_changes_none(database: Database) -> None:
    async with api_client(database) as ada:
        await fleet(ada)
        viewer = await ada.token_of("viewer")
        assert (await ada.http.get("/target-groups", headers=viewer)).status_code == 200
        problem(
            await ada.http.post("/target-groups", json={"name": "x"}, headers=viewer),
            403,
            "forbidden",
        )


async def test_an_import_returns_the_outcome_of_each_target_and_is_replayed(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=LOGIN)
        body = {
            "targets": [
                {"name": "web-1", "host": "10.0.0.5", "credential": "login"},
                {"name": "web-2"},
            ]
        }
        answers = [
            await ada.http.post("/targets/import", json=body, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        told = answers[0].json()
        assert (told["created"], told["refused"]) == (1, 1)
        assert told["items"][1]["error"] == {"code": "invalid", "message": "/host: it is required"}
        skipped = await ada.http.post("/targets/import", json={**body, "existing": "skip"})
        assert [item["outcome"] for item in skipped.json()["items"]] == ["skipped", "refused"]


async def test_an_import_with_a_credential_requires_credentials_use(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        developer = await ada.token_of("developer")
        body = {"targets": [{"name": "web-1", "host": "10.0.0.5"}]}
        problem(
            await ada.http.post("/targets/import", json=body, headers=developer), 403, "forbidden"
        )
        for wrong in (
            {"targets": []},
            {"targets": [{"name": "x"}] * 1001},
            {"targets": [1]},
            {**body, "existing": "drop"},
        ):
            assert (await ada.http.post("/targets/import", json=wrong)).status_code == 422
