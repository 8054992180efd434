"""Maintenance of a target, and the waiting reason of an execution, over HTTP."""

from __future__ import annotations

from uuid import uuid4

from api.kit import api_client, problem
from api.live import live_api
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Workers


async def test_a_maintenance_begins_changes_and_ends(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        assert (await ada.http.get("/targets/1/maintenance")).json()["maintenance"] is None
        begun = await ada.http.post(
            "/targets/1/maintenance", json={"duration": "2h", "reason": "new disk"}
        )
        assert begun.json()["target"] == {"id": "1", "name": "web-1", "host": "10.0.0.5"}
        stands = begun.json()["maintenance"]
        assert (stands["reason"], stands["by"]) == ("new disk", "ada")
        assert stands["until"] is not None
        assert (await ada.http.get("/targets/1/maintenance")).json() == begun.json()
        until = await ada.http.post(
            "/targets/1/maintenance", json={"until": "2199-01-01T00:00:00Z"}
        )
        assert until.json()["maintenance"] == {
            "until": "2199-01-01T00:00:00.000Z",
            "reason": None,
            "by": "ada",
        }
        assert (await ada.http.post("/targets/1/maintenance", json={})).json()["maintenance"][
            "until"
        ] is None
        assert (await ada.http.post("/targets/1/maintenance", json={"off": True})).json()[
            "maintenance"
        ] is None


async def test_an_invalid_maintenance_is_refused(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        for body in (
            {"off": True, "duration": "2h"},
            {"until": "2199-01-01T00:00:00"},
            {"reason": ""},
            {"for": "ever"},
        ):
            problem(await ada.http.post("/targets/1/maintenance", json=body), 422, "invalid")
        problem(await ada.http.post("/targets/2/maintenance", json={}), 404, "target_not_found")
        viewer = await ada.token_of("viewer")
        problem(
            await ada.http.post("/targets/1/maintenance", json={}, headers=viewer), 403, "forbidden"
        )


async def test_runs_show_the_maintenance_that_holds_them(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await ada.http.post("/targets/1/maintenance", json={"duration": "2h", "reason": "new disk"})
        launched = await ada.http.post(
            "/run", json={"actions": [{"command": "uptime"}], "targets": {"ids": ["web-1"]}}
        )
        assert await ada.scripted.claim() == {}
        (run,) = (await ada.http.get(f"/executions/{launched.json()['id']}/targets")).json()[
            "items"
        ]
        assert (run["status"], run["waiting_for"], run["awaits"]) == (
            "waiting",
            "hold",
            "maintenance: new disk",
        )
        assert run["not_before"] is not None


async def test_a_changed_number_of_slots_applies_at_once(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5", "slots": 1})
        body = {"actions": [{"command": "uptime"}], "targets": {"ids": ["web-1"]}}
        for _ in range(3):
            await ada.http.post("/run", json=body)
        await ada.scripted.claim()
        assert await running(database) == 1
        await ada.http.put("/targets/1", json={"name": "web-1", "host": "10.0.0.5", "slots": 2})
        await ada.scripted.claim()
        assert await running(database) == 2
        await ada.http.put("/targets/1", json={"name": "web-1", "host": "10.0.0.5", "slots": 1})
        await ada.scripted.claim()
        assert await running(database) == 2
        assert await database.fetch("select slots, used from target_slots") == [
            {"slots": 2, "used": 2}
        ]


async def running(database: Database) -> int:
    """Return the number of running runs."""
    return len(await database.fetch("select 1 from target_runs where status = 'running'"))


async def test_a_ready_run_shows_that_its_zone_has_no_worker(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.http.post("/targets", json={"name": "web-1", "host": "10.0.0.5"})
        await ada.http.post("/targets", json={"name": "par-1", "host": "10.1.0.5", "zone": "paris"})
        await Workers(database).register(
            Incarnation(uuid4(), "worker-1", "default", 1, 10), lease_seconds=600
        )
        launched = await ada.http.post(
            "/run",
            json={"actions": [{"command": "uptime"}], "targets": {"ids": ["web-1", "par-1"]}},
        )
        runs = (await ada.http.get(f"/executions/{launched.json()['id']}/targets")).json()["items"]
        assert {run["target"]["name"]: (run["waiting_for"], run["awaits"]) for run in runs} == {
            "web-1": (None, None),
            "par-1": (None, "a worker: zone paris has none"),
        }
