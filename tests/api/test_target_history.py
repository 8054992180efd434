"""The runs on a target in all executions, and its health."""

from __future__ import annotations

from typing import Any

from api.kit import problem
from api.live import LiveApi, live_api
from opsjobs.model.circuit import CircuitKey, Report
from opsjobs.model.execution import ErrorCode, RunError
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, principal_with, scoped_app

AWAY = RunError(ErrorCode.CONNECT_TIMEOUT, "web-2 does not answer.")


async def ran(ada: LiveApi, *targets: str, error: RunError | None = None, code: int = 0) -> int:
    """Store an ended execution of one command on these targets; return its id."""
    launched = await ada.http.post(
        "/run", json={"actions": [{"command": "uptime"}], "targets": {"ids": [*targets]}}
    )
    await ada.scripted.claim()
    ada.scripted.execution_id = launched.json()["id"]
    for name in targets:
        await ada.scripted.finish(name, code, error=error)
    return int(ada.scripted.execution_id)


async def health(ada: LiveApi, name: str) -> Any:
    return (await ada.http.get("/targets", params={"name": name})).json()["items"][0]["health"]


async def test_the_runs_of_a_target_are_listed_newest_first(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2")
        first = await ran(ada, "web-1", "web-2")
        second = await ran(ada, "web-1", code=3)
        await ran(ada, "web-2")
        found = (await ada.http.get("/targets/1/runs")).json()["items"]
        assert [(run["execution"]["id"], run["status"], run["exit_code"]) for run in found] == [
            (second, "failed", 3),
            (first, "succeeded", 0),
        ]
        assert found[0]["execution"]["job_name"] == "ad-hoc"
        failed = (await ada.http.get("/targets/1/runs?status=failed")).json()["items"]
        assert [run["execution"]["id"] for run in failed] == [second]
        page = (await ada.http.get("/targets/1/runs?limit=1")).json()
        rest = (await ada.http.get("/targets/1/runs", params={"cursor": page["next"]})).json()
        assert [run["execution"]["id"] for run in page["items"] + rest["items"]] == [second, first]
        problem(await ada.http.get("/targets/9/runs"), 404, "target_not_found")
        problem(await ada.http.get("/targets/1/runs?state=failed"), 422, "invalid_query")


async def test_health_follows_from_circuit_maintenance_and_last_run(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2", "web-3", "web-4")
        assert (await health(ada, "web-1"))["status"] == "unknown"
        accepted = Report(CircuitKey("1", "5"), "a")
        await ada.services.circuits.report([accepted])
        assert (await health(ada, "web-1"))["status"] == "ok"
        assert (await ada.http.get("/targets/1")).json()["health"]["last_run"] is None
        await ran(ada, "web-1", code=3)
        await ran(ada, "web-2")
        await ran(ada, "web-2", error=AWAY)
        report = Report(CircuitKey("3", ""), "a", ErrorCode.AUTH_FAILED, "web-3 refused deploy.")
        await ada.services.circuits.report([report])
        await ada.http.post("/targets/4/maintenance", json={"reason": "new disk"})

        well = await health(ada, "web-1")
        assert (well["status"], well["last_run"]["status"]) == ("ok", "failed")
        assert (well["last_success_at"], well["last_contact_at"]) == (None, well["last_run"]["at"])
        unhealthy = await health(ada, "web-2")
        assert (unhealthy["status"], unhealthy["last_run"]["code"]) == (
            "unhealthy",
            "connect_timeout",
        )
        assert (
            unhealthy["last_success_at"]
            == unhealthy["last_contact_at"]
            < unhealthy["last_run"]["at"]
        )
        refused = await health(ada, "web-3")
        assert (refused["status"], refused["circuit"]["code"]) == ("unhealthy", "auth_failed")
        assert refused["circuit"]["until"] > refused["circuit"]["since"]
        held = await health(ada, "web-4")
        assert (held["status"], held["maintenance"]) == (
            "maintenance",
            {"until": None, "reason": "new disk", "by": "ada"},
        )
        listed = (await ada.http.get("/targets?health=unhealthy&page=1")).json()
        assert ([one["name"] for one in listed["items"]], listed["total"]) == (
            ["web-2", "web-3"],
            2,
        )
        assert (await ada.http.get("/targets/3")).json()["health"] == refused


async def test_held_runs_and_dead_letters_of_a_target_are_counted(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2")
        await ran(ada, "web-1", error=RunError(ErrorCode.LOST, "its end is unknown"))
        await ada.http.post("/targets/2/maintenance", json={})
        await ada.http.post(
            "/run", json={"actions": [{"command": "uptime"}], "targets": {"ids": ["web-2"]}}
        )
        await ada.scripted.claim()
        lost, held = await health(ada, "web-1"), await health(ada, "web-2")
        assert (lost["status"], lost["dead_letters"], lost["waiting_runs"]) == ("unhealthy", 1, 0)
        assert (held["dead_letters"], held["waiting_runs"]) == (0, 1)


async def test_a_target_with_its_health_can_be_sent_back(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        read = (await ada.http.get("/targets/1")).json()
        await ran(ada, "web-1")
        changed = await ada.http.put("/targets/1", json={**read, "slots": 4})
        assert (changed.status_code, changed.json()["slots"]) == (200, 4)


async def test_runs_of_executions_out_of_sight_are_left_out(database: Database) -> None:
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        target = all_.things["target", STAGING]
        other = await all_.job("foreign-too", FOREIGN, target, all_.things["target", FOREIGN])
        execution = await all_.ended(other)
        seen = (await all_.http.get(f"/targets/{target}/runs?page=1")).json()
        bens = (await all_.http.get(f"/targets/{target}/runs?page=1", **ben)).json()
        assert execution in {str(run["execution"]["id"]) for run in seen["items"]}
        assert (seen["total"], bens["total"], len(bens["items"])) == (2, 1, 1)
        assert "foreign" not in str(bens)
        # The invisible execution was cancelled, the visible one was lost.
        path = f"/targets/{target}"
        alls = (await all_.http.get(path)).json()["health"]
        bens = (await all_.http.get(path, **ben)).json()["health"]
        assert (alls["last_run"]["status"], bens["last_run"]["status"]) == ("cancelled", "lost")
        assert alls["status"] == bens["status"]
        viewer = {"headers": all_.admit(principal_with("eve", ("operator", "env=foreign")))}
        theirs = f"/targets/{all_.things['target', FOREIGN]}"
        await all_.ended(await all_.job("both", STAGING, target, all_.things["target", FOREIGN]))
        health = (await all_.http.get(theirs, **viewer)).json()["health"]
        assert (health["last_run"]["status"], health["dead_letters"]) == ("lost", 1)
