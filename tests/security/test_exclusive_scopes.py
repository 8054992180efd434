"""Exclusive names within scopes: no one can delay executions of another scope, or learn of them."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import job, problem
from opsjobs.engine.launching.launch import LaunchLimits
from opsjobs.model.access import Reach, Scope
from opsjobs.model.access_bounds import Bounds, check_names
from opsjobs.model.errors import Forbidden
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, principal_with, scoped_app


def bounds(*scopes: str) -> Bounds:
    return Bounds(Reach(tuple(Scope.parse(scope) for scope in scopes)))


@pytest.mark.parametrize(
    ("scope", "name", "fits"),
    [
        ("env=staging", "env=staging:db", True),
        ("env=staging", "env=staging+team=web:db", True),
        ("env in (staging,dev)", "env=dev:db", True),
        ("env=staging,team=web", "env=staging+team=web:db", True),
        ("web", "web:db", True),
        ("", "prod-db", True),
        ("env=staging", "prod-db", False),
        ("env=staging", "env=prod:db", False),
        ("env=staging", "db:env=staging", False),
        ("env=staging", "env=staging", False),
        ("env=staging,team=web", "env=staging:db", False),
        ("env=staging", "env=staging+env=prod:db", False),
        ("env=staging", "x:env=prod:db", False),
    ],
)
def test_within_a_scope_a_name_is_bound_to_labels_of_the_scope(
    scope: str, name: str, fits: bool
) -> None:
    if fits:
        check_names([name], bounds(scope))
        return
    with pytest.raises(Forbidden) as refused:
        check_names(["", name][1:], bounds(scope))
    assert "env=staging" in refused.value.detail
    assert refused.value.errors[0].pointer == "/policy/exclusive/0"


async def test_by_no_door_does_a_caller_with_a_scope_write_a_name_of_others(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        mine, theirs = app.things["target", STAGING], {"exclusive": ["prod-db"]}
        ben = app.admit(principal_with("ben", ("developer", "env=staging")))
        here: dict[str, Any] = {"tags": ["env=staging"], "targets": {"ids": [mine]}}
        run = {"actions": [{"command": "id"}], "targets": {"ids": [mine]}}
        problem(
            await app.http.post("/jobs", json=job("j", policy=theirs, **here), headers=ben),
            403,
            "out_of_reach",
        )
        problem(
            await app.http.post("/run", json={**run, "policy": theirs}, headers=ben),
            403,
            "out_of_reach",
        )
        told = (
            await app.http.post("/jobs/validate", json=job("j", policy=theirs, **here), headers=ben)
        ).json()
        assert "/policy/exclusive/0" in str(told["errors"])
        made = await app.http.post("/jobs", json=job("theirs", policy=theirs, **here))
        path = f"/jobs/{made.json()['id']}"
        for answer in (
            await app.http.post(f"{path}/clone", json={"name": "mine"}, headers=ben),
            await app.http.put(
                path, json=job("theirs", policy=theirs, **here), headers={**ben, "If-Match": "*"}
            ),
        ):
            problem(answer, 403, "out_of_reach")
        fine = {"exclusive": ["env=staging:db"]}
        assert (
            await app.http.post("/jobs", json=job("mine", policy=fine, **here), headers=ben)
        ).status_code == 201
        assert (
            await app.http.post("/run", json={**run, "policy": fine}, headers=ben)
        ).status_code == 202


async def test_what_an_execution_waits_for_tells_nothing_of_executions_that_the_viewer_may_not_see(
    database: Database,
) -> None:
    async with scoped_app(database) as app:
        name = {"exclusive": ["shared"]}
        here: dict[str, Any] = {
            "tags": ["env=staging"],
            "targets": {"ids": [app.things["target", STAGING]]},
            "policy": name,
        }
        made = (await app.http.post("/jobs", json=job("mine", **here))).json()
        run = {
            "actions": [{"command": "id"}],
            "targets": {"ids": [app.things["target", FOREIGN]]},
            "policy": name,
        }
        hidden = (await app.http.post("/run", json=run)).json()["id"]
        ben = app.admit(principal_with("ben", ("operator", "env=staging")))
        launched = (await app.http.post(f"/jobs/{made['id']}/execute", headers=ben)).json()
        second = (await app.http.post(f"/jobs/{made['id']}/execute", headers=ben)).json()
        path = f"/executions/{launched['id']}"
        seen = [launched, (await app.http.get(path, headers=ben)).json()]
        seen += [
            e
            for e in (await app.http.get("/executions", headers=ben)).json()["items"]
            if e["id"] == launched["id"]
        ]
        seen.append((await app.http.post(f"{path}/pause", headers=ben)).json())
        seen.append((await app.http.post(f"{path}/resume", headers=ben)).json())
        assert len(seen) == 5
        for one in seen:
            waits = one["waiting_on"]
            if waits["kind"] == "exclusive":
                assert "execution" not in waits
                assert str(hidden) not in waits["reason"]
                assert "apart" not in waits
        assert (await app.http.get(path)).json()["waiting_on"]["execution"] == hidden, (
            "an administrator sees it"
        )
        # A caller who sees this execution sees one with the same labels, which may be named.
        assert (await app.http.post(f"/executions/{hidden}/cancel")).status_code == 202
        shown = (await app.http.get(f"/executions/{second['id']}", headers=ben)).json()
        assert shown["waiting_on"]["execution"] == launched["id"]


async def test_names_are_held_no_longer_than_the_setting_says(database: Database) -> None:
    async with scoped_app(database) as app:
        app.services.launcher._limits = LaunchLimits(exclusive_seconds=3_600)
        run = {"actions": [{"command": "id"}], "targets": {"ids": [app.things["target", STAGING]]}}
        for policy, seconds in (
            ({"exclusive": ["a"]}, 3_600),
            ({"exclusive": ["b"], "timeout": "1d"}, 3_600),
            ({"exclusive": ["c"], "timeout": "1m"}, 60),
            ({}, None),
        ):
            made = (await app.http.post("/run", json={**run, "policy": policy})).json()
            row = await database.fetch_one(
                "select extract(epoch from deadline_at - created_at) as s from job_executions where id = %s",
                [made["id"]],
            )
            assert row is not None
            assert row["s"] == seconds, policy
