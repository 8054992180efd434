"""Point 4: within a scope, names of machines and jobs that others use cannot be taken.

Others use a name if they list or run it, or if it was theirs.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.kit import problem
from opsjobs.store.transaction import Database
from security.test_reused_names import waiting
from security.two_scopes import STAGING, ScopedApp, principal_with, scoped_app

PROD = "prod"
UPTIME = {"key": "look", "type": "command", "command": "uptime"}
GATE = {"waves": [1, "100%"], "gate": {"check": {**UPTIME, "targets": {"ids": ["gated"]}}}}


def machine(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "host": "203.0.113.66", "labels": {"env": STAGING}, **more}


async def refused_everywhere(app: ScopedApp, ben: dict[str, str], own: str, name: str) -> None:
    """Try to take a name by creating, by importing and by renaming."""
    told = problem(
        await app.http.post("/targets", json=machine(name), headers=ben), 403, "name_reserved"
    )
    assert told["errors"][0]["pointer"] == "/name"
    answer = (
        await app.http.post("/targets/import", json={"targets": [machine(name)]}, headers=ben)
    ).json()
    assert answer["items"][0]["error"]["code"] == "name_reserved", answer
    problem(
        await app.http.put(f"/targets/{own}", json=machine(name), headers=ben),
        403,
        "name_reserved",
    )


async def test_a_machine_is_not_made_under_a_name_that_others_list_or_that_was_theirs(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("manager", "env=staging")))
        eve = app.admit(principal_with("eve", ("manager", "")))
        own = await app.target("stg-1", STAGING)
        db = await app.target("db-1", PROD)
        await app.job("backup", PROD, "db-1")
        assert (await app.http.delete(f"/targets/{db}")).status_code == 204
        moved = await app.target("old-name", PROD)
        body = {"name": "new-name", "host": "10.0.0.1", "labels": {"env": PROD}}
        assert (await app.http.put(f"/targets/{moved}", json=body)).status_code == 200
        keeper = await app.target("keeper", PROD)
        await app.job("listed", PROD, "not-yet", "keeper")
        await app.job(
            "branch", PROD, keeper, actions=[{**UPTIME, "targets": {"ids": ["in-action"]}}]
        )
        await app.job("gate", PROD, keeper, policy=GATE)
        for name in ("db-1", "old-name", "not-yet", "in-action", "gated"):
            await refused_everywhere(app, ben, own, name)
        # A caller with the permission for all machines may, and the audit log records it; so may
        # their import.
        assert (
            await app.http.post("/targets", json=machine("db-1"), headers=eve)
        ).status_code == 201
        answer = (
            await app.http.post(
                "/targets/import", json={"targets": [machine("old-name")]}, headers=eve
            )
        ).json()
        assert answer["created"] == 1
        rows = (await app.http.get("/audit", params={"thing_name": "db-1"})).json()["items"]
        assert [row["action"] for row in rows] == [
            "target.created",
            "target.deleted",
            "target.created",
        ]


async def test_what_was_ones_own_comes_back_and_what_only_ones_own_jobs_list(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("manager", "env=staging")))
        await app.target("stg-1", STAGING)
        await app.job("mine", STAGING, "stg-1", "stg-2")
        for way in ("/targets", "/targets/import", "/targets"):
            body = {"targets": [machine("stg-2")]} if way.endswith("import") else machine("stg-2")
            answer = (await app.http.post(way, json=body, headers=ben)).json()
            made = answer["id"] if "id" in answer else answer["items"][0]["id"]
            assert (await app.http.delete(f"/targets/{made}", headers=ben)).status_code == 204
        # Once another user's job lists it, it cannot be restored within the scope.
        await app.job("theirs", PROD, "stg-2")
        problem(
            await app.http.post("/targets", json=machine("stg-2"), headers=ben),
            403,
            "name_reserved",
        )


async def test_a_job_is_not_made_under_a_name_that_others_run_or_that_was_theirs(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("manager", "env=staging")))
        target = await app.target("stg-1", STAGING)
        gone = await app.job("clean-up", PROD, target)
        own = await app.job("mine", STAGING, target)
        await app.job("weekly", PROD, target, actions=[{"type": "job", "job": "not-yet"}])
        assert (await app.http.delete(f"/jobs/{gone}")).status_code == 204

        def body(name: str) -> dict[str, Any]:
            return {
                "name": name,
                "tags": ["env=staging"],
                "actions": [UPTIME],
                "targets": {"ids": [target]},
            }

        for name in ("clean-up", "not-yet"):
            problem(
                await app.http.post("/jobs", json=body(name), headers=ben), 403, "name_reserved"
            )
            problem(
                await app.http.post("/jobs/apply", json={"jobs": [body(name)]}, headers=ben),
                403,
                "name_reserved",
            )
            problem(
                await app.http.post(f"/jobs/{own}/clone", json={"name": name}, headers=ben),
                403,
                "name_reserved",
            )
            renamed = await app.http.put(
                f"/jobs/{own}", json=body(name), headers={**ben, "If-Match": "*"}
            )
            problem(renamed, 403, "name_reserved")
        # A user's own names can be restored, even if a workflow of that user runs them.
        for _ in range(2):
            made = await app.http.post("/jobs", json=body("tidy"), headers=ben)
            assert made.status_code == 201, made.text
            assert (
                await app.http.delete(f"/jobs/{made.json()['id']}", headers=ben)
            ).status_code == 204
        await app.made("/jobs", body("clean-up"))


@pytest.mark.parametrize("renamed", [False, True], ids=["made", "renamed"])
async def test_what_is_let_go_of_at_the_same_moment_is_seen(
    database: Database, *, renamed: bool
) -> None:
    """Repeated requests for another object's name do not get it while that object is deleted."""
    async with scoped_app(database) as app:
        ben = app.admit(principal_with("ben", ("manager", "env=staging")))
        own = await app.target("stg-1", STAGING)
        await app.target("db-1", PROD)
        await app.job("clean-up", PROD, own)
        mine = await app.job("mine", STAGING, own)
        job = {
            "name": "clean-up",
            "tags": ["env=staging"],
            "actions": [UPTIME],
            "targets": {"ids": [own]},
        }
        goes = {
            "delete from targets where name = 'db-1'": (
                f"/targets/{own}",
                "/targets",
                machine("db-1"),
            ),
            "update jobs set state = 'archived', archived_at = opsjobs_now() where name = 'clean-up'": (
                f"/jobs/{mine}",
                "/jobs",
                job,
            ),
        }
        for statement, (one, all_of_them, body) in goes.items():
            async with database.transaction() as connection:
                await connection.execute(statement.encode())
                headers = {**ben, "If-Match": "*"} if renamed and body is job else ben
                asked = asyncio.create_task(
                    app.http.request(
                        "PUT" if renamed else "POST",
                        one if renamed else all_of_them,
                        json=body,
                        headers=headers,
                    )
                )
                async with asyncio.timeout(60):
                    while not asked.done() and not await waiting(database):
                        await asyncio.sleep(0.01)
            problem(await asked, 403, "name_reserved")
