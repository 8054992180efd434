"""The timeline over HTTP."""

from __future__ import annotations

from api.kit import problem
from api.live import live_api
from opsjobs.store.transaction import Database


async def test_the_timeline_has_the_phases_of_each_target_by_pages_of_targets(
    database: Database,
) -> None:
    async with live_api(database) as api:
        await api.scripted.launch(3, commands=["a", "b"])
        await api.scripted.claim()
        for name in ("web-1", "web-2", "web-3"):
            await api.scripted.end_action(name, "step-1")
            await api.scripted.finish(name, action="step-2")
        first = (await api.http.get("/executions/1/timeline?limit=2")).json()
        assert {p["target"]["name"] for p in first["phases"]} == {"web-1", "web-2"}
        rest = (await api.http.get(f"/executions/1/timeline?limit=2&cursor={first['next']}")).json()
        assert rest["next"] is None
        assert [(p["phase"], p["action"], p["attempt"]) for p in rest["phases"]] == [
            ("queue", None, 1),
            ("connect", None, 1),
            ("exec", "step-1", 1),
            ("exec", "step-2", 1),
            ("commit", None, 1),
        ]
        assert all(p["duration_ms"] >= 0 and p["started_at"].endswith("Z") for p in rest["phases"])
        only = (await api.http.get("/executions/1/timeline?target=2")).json()["phases"]
        assert {p["target"]["id"] for p in only} == {"2"}
        problem(await api.http.get("/executions/9/timeline"), 404, "execution_not_found")
