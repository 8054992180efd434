"""Routes of targets with a Target Service.

What the service keeps is changed there, everything else here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.kit import ApiClient, api_client, job, problem
from kit.platform_services import V3, PlatformServices, platform_services
from opsjobs.settings import load
from opsjobs.store.transaction import Database
from store.drafts import host_key


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[tuple[ApiClient, PlatformServices]]:
    with platform_services(V3) as platform:
        platform.add_target("42", "web-1", "192.0.2.1", 22, tags=["env=prod", "web"])
        wanted = load({"TARGET_SERVICE_URL": platform.url("target"), "OPSJOBS_TARGET_CACHE": "0s"})
        async with api_client(database, platform=wanted.platform) as on:
            yield on, platform
            await on.services.integrations.close()


async def test_targets_are_read_through_and_named_by_the_ids_of_the_service(
    database: Database,
) -> None:
    async with connected(database) as (on, platform):
        (item,) = (await on.http.get("/targets", params={"selector": "env=prod"})).json()["items"]
        assert (item["id"], item["external_id"], item["name"]) == ("42", "42", "web-1")
        platform.add_target("43", "web-2", "192.0.2.2", 22)
        assert (await on.http.get("/targets/43")).json()["name"] == "web-2"
        problem(await on.http.get("/targets/44"), 404, "target_not_found")
        # Lists and objects are shown from the mirror while the service is down.
        platform.faults["target"] = "500"
        assert (await on.http.get("/targets/43")).json()["name"] == "web-2"
        made = await on.http.post("/jobs", json=job(targets={"ids": ["43"]}))
        refused = await on.http.post(f"/jobs/{made.json()['id']}/execute", json={})
        assert (
            "The Target Service does not answer" in problem(refused, 503, "unavailable")["detail"]
        )


async def test_what_the_service_keeps_is_changed_there_and_the_rest_here(
    database: Database,
) -> None:
    async with connected(database) as (on, _):
        await on.http.get("/targets")
        new = {"name": "web-9", "host": "192.0.2.9"}
        for refused in (
            await on.http.post("/targets", json=new),
            await on.http.post("/targets/import", json={"targets": [new]}),
            await on.http.patch("/targets/42", json={"host": "192.0.2.9"}),
            await on.http.patch("/targets/42", json={"labels": {"env": "test"}}),
            await on.http.delete("/targets/42"),
            await on.http.post("/target-groups", json={"name": "db", "targets": ["42"]}),
        ):
            told = problem(refused, 409, "targets_are_remote")
            assert "Targets are kept by the Target Service at 127.0.0.1:" in told["detail"]
        key = host_key()
        changed = await on.http.patch("/targets/42", json={"host_keys": [key], "slots": 2})
        assert (changed.json()["host_keys"], changed.json()["slots"]) == ([key], 2)
        made = await on.http.post("/target-groups", json={"name": "prod", "selector": "env=prod"})
        assert made.status_code == 201
