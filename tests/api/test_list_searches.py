"""Searches and counts in lists: `q`, `target`, `label`, `facets`, and `recent` of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import job, problem
from api.live import LiveApi, live_api
from opsjobs.store.transaction import Database
from security.two_scopes import FOREIGN, STAGING, principal_with, scoped_app


async def items(ada: LiveApi, path: str, key: str = "name", **query: Any) -> list[Any]:
    answer = await ada.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [item[key] for item in answer.json()["items"]]


async def executed(ada: LiveApi, number: int) -> int:
    return int((await ada.http.post(f"/jobs/{number}/execute", json={})).json()["id"])


async def ran(ada: LiveApi, command: str) -> int:
    body = {"actions": [{"command": command}], "targets": {"ids": ["web-1"]}}
    return int((await ada.http.post("/run", json=body)).json()["id"])


async def furnish(ada: LiveApi) -> tuple[int, int, int]:
    """Create two jobs on web-1 and db-1, and three executions of them."""
    for name, env in (("web-1", "prod"), ("db-1", "test")):
        body = {"name": name, "host": f"{name}.example.org", "labels": {"env": env}}
        await ada.http.post("/targets", json=body)
    for name, target in (("restart-web", "web-1"), ("backup", "db-1")):
        body = job(name, targets={"ids": [target]}, description=f"for {target}")
        await ada.http.post("/jobs", json=body)
    return await executed(ada, 1), await executed(ada, 2), await executed(ada, 1)


async def test_lists_are_searched_by_a_text(database: Database) -> None:
    async with live_api(database) as ada:
        first, second, third = await furnish(ada)
        assert await items(ada, "/jobs", q="WEB") == ["restart-web"]
        assert await items(ada, "/jobs", q="for") == ["backup", "restart-web"]
        assert await items(ada, "/jobs", q="%") == []
        assert await items(ada, "/targets", q="example.org", page=1) == ["db-1", "web-1"]
        nightly = {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "UTC"}
        await ada.http.post("/jobs/2/schedules", json=nightly)
        assert await items(ada, "/schedules", q="Back") == ["nightly"]
        assert await items(ada, "/executions", "id", q="web") == [third, first]
        assert await items(ada, "/executions", "id", q="web", job_name="backup") == []
        assert await items(ada, "/executions", "id", q="nothing") == []
        restart, free = [await ran(ada, c) for c in ("systemctl restart web", "df -h /srv")]
        assert await items(ada, "/executions", "id", q="DF -H") == [free]
        assert await items(ada, "/executions", "id", q="web") == [restart, third, first]
        assert await items(ada, "/executions", "id", q="web", sort="created_at", page=1) == [
            *(first, third, restart),
        ]
        assert await items(ada, "/executions", "id", q="web", job_id="1") == [third, first]
        assert await items(ada, "/executions", "id", q="web", job_name="ad-hoc") == [restart]
        assert await items(ada, "/executions", "id", q="df", job_name="backup") == []
        assert await items(ada, "/executions", "id", q="ad-h") == [free, restart]
        assert await items(ada, "/executions", "id", q="restart", target="db-1") == []
        one = await ada.http.get("/executions?q=web&limit=1")
        rest = {"q": "web", "cursor": one.json()["next"]}
        assert await items(ada, "/executions", "id", **rest) == [third, first]
        assert await items(ada, f"/executions/{second}/targets", "status", q="db") == ["waiting"]
        problem(await ada.http.get("/jobs?q="), 422, "invalid")
        problem(await ada.http.get("/jobs?q=%00"), 422, "invalid_query")
        problem(await ada.http.get("/executions?q=%00"), 422, "invalid")
        problem(await ada.http.get("/audit?q=x"), 422, "invalid_query")


async def test_executions_are_found_by_target_and_label(database: Database) -> None:
    async with live_api(database) as ada:
        first, second, third = await furnish(ada)
        assert await items(ada, "/executions", "id", target="web-1") == [third, first]
        assert await items(ada, "/executions", "id", target="2") == [second]
        assert await items(ada, "/executions", "id", label="env=prod") == [third, first]
        assert await items(ada, "/executions", "id", label="env=prod", target="db-1") == []
        one = await ada.http.get("/executions?label=env%3Dprod&limit=1")
        rest = await ada.http.get(
            "/executions", params={"label": "env=prod", "cursor": one.json()["next"]}
        )
        assert [item["id"] for item in rest.json()["items"]] == [first]


async def test_runs_are_sorted_by_duration_and_filtered_by_proof(database: Database) -> None:
    async with live_api(database) as ada:
        first, *_ = await furnish(ada)
        path = f"/executions/{first}/targets"
        await ada.http.post(f"/executions/{first}/cancel")
        assert await items(ada, path, "cancel_proof", sort="-duration") == ["never_started"]
        assert await items(ada, path, "id", cancel_proof="killed") == []


async def test_facets_count_whatever_the_list_is_filtered_to(database: Database) -> None:
    async with live_api(database) as ada:
        first, *_ = await furnish(ada)
        await ada.http.post(f"/executions/{first}/cancel")
        query: dict[str, Any] = {"facets": ["status", "job_name"], "status": "queued", "limit": 1}
        found = (await ada.http.get("/executions", params=query)).json()
        assert found["facets"] == {
            "status": {"queued": 2, "cancelled": 1},
            "job_name": {"backup": 1, "restart-web": 1},
        }
        free = await ran(ada, "df -h /srv/web")
        for asked, counts in (
            ({"q": "WEB"}, {"restart-web": 2, "ad-hoc": 1}),
            ({"q": "web", "job_name": "restart-web"}, {"restart-web": 2, "ad-hoc": 1}),
            ({"q": "web", "job_name": "backup"}, {"restart-web": 2, "ad-hoc": 1}),
            ({"q": "web", "status": "cancelled"}, {"restart-web": 1}),
            ({"q": "back", "target": "db-1"}, {"backup": 1}),
            ({"q": "df"}, {"ad-hoc": 1}),
            ({"q": "nothing"}, {}),
        ):
            query = {"facets": "job_name", **asked}
            found = (await ada.http.get("/executions", params=query)).json()
            assert found["facets"] == {"job_name": counts}, asked
        query = {"facets": "status", "q": "df", "job_name": "ad-hoc"}
        found = (await ada.http.get("/executions", params=query)).json()
        assert [item["id"] for item in found["items"]] == [free]
        assert found["facets"] == {"status": {"queued": 1}}
        targets = (await ada.http.get("/targets?facets=health")).json()
        assert targets["facets"] == {"health": {"unknown": 2}}
        problem(await ada.http.get("/executions?facets=uuid"), 422, "invalid_query")


async def test_a_text_in_the_names_of_many_jobs_finds_their_executions_in_a_scope(
    database: Database,
) -> None:
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        many = [f"many-{number:03d}" for number in range(101)]
        last = await all_.job("many-zz", STAGING, all_.things["target", STAGING])
        await database.fetch(
            "insert into jobs (uuid, name, version, state, created_by) "
            "select gen_random_uuid(), name, 1, 'draft', 'ada' from unnest(%s::text[]) name "
            "returning id",
            [many],
        )
        await all_.ended(last)
        for text, kind in (("cat /proc/loadavg # load average", STAGING), ("cat /etc/os", FOREIGN)):
            body = {
                "actions": [{"command": text}],
                "targets": {"ids": [all_.things["target", kind]]},
            }
            assert (await all_.http.post("/run", json=body)).status_code == 202
        for who in ({}, ben):
            found = (await all_.http.get("/executions?q=MANY", **who)).json()["items"]
            assert [one["job_name"] for one in found] == ["many-zz"]
            assert (await all_.http.get("/executions?q=many-00", **who)).json()["items"] == []
            for filters, facets in (
                ({"status": "queued"}, {"status": {"cancelled": 1}, "job_name": {}}),
                ({"job_name": "ad-hoc"}, {"status": {}, "job_name": {"many-zz": 1}}),
            ):
                query: dict[str, Any] = {"q": "MANY", "facets": [*facets], **filters}
                counted = (await all_.http.get("/executions", params=query, **who)).json()
                assert (counted["items"], counted["facets"]) == ([], facets)
            for text, commands in (("LOAD AV", 1), ("cat /etc", 0 if who else 1)):
                found = (await all_.http.get(f"/executions?q={text}", **who)).json()["items"]
                assert [one["job_name"] for one in found] == ["ad-hoc"] * commands


async def test_jobs_show_their_last_executions(database: Database) -> None:
    async with live_api(database) as ada:
        first, _, third = await furnish(ada)
        await ada.http.post(f"/executions/{first}/cancel")
        found = (await ada.http.get("/jobs?recent=5&sort=id")).json()["items"]
        assert [(one["id"], one["status"]) for one in found[0]["recent"]] == [
            (third, "queued"),
            (first, "cancelled"),
        ]
        assert "recent" not in (await ada.http.get("/jobs")).json()["items"][0]
        problem(await ada.http.get("/jobs?recent=31"), 422, "invalid")


async def test_older_executions_of_a_viewer_are_found_by_label_behind_newer_ones_of_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scoped_app(database) as all_:
        run = {
            "actions": [{"command": "date"}],
            "targets": {"ids": [all_.things["target", STAGING]]},
        }
        ben = {"headers": all_.admit(principal_with("ben", ("commands:run", "env=staging")))}
        mine = (await all_.http.post("/run", json=run, **ben)).json()["id"]
        for _ in range(2):
            newer = (await all_.http.post("/run", json=run)).json()["id"]
        monkeypatch.setattr("opsjobs.store.executions.FOUND_MAX", 1)
        for who, found in (({}, newer), (ben, mine)):
            for query in ("label=env=staging", "label=env=staging&q=date"):
                items = (await all_.http.get(f"/executions?{query}", **who)).json()["items"]
                assert [one["id"] for one in items] == [found], (who, query)
        other = await all_.http.get("/executions?label=env=prod", **ben)
        assert other.json()["items"] == []


async def test_what_is_out_of_sight_is_neither_found_nor_counted(database: Database) -> None:
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        hidden = (await all_.http.get(f"/targets/{all_.things['target', FOREIGN]}")).json()["name"]
        for query in (f"target={hidden}", "label=env=foreign", "q=foreign"):
            assert (await all_.http.get(f"/executions?{query}")).json()["items"] != []
            assert (await all_.http.get(f"/executions?{query}", **ben)).json()["items"] == []
        for path, facet in (("/executions", "status"), ("/jobs", "status"), ("/targets", "zone")):
            found = (await all_.http.get(f"{path}?facets={facet}&page=1", **ben)).json()
            assert sum(found["facets"][facet].values()) == found["total"] == 1
        # If a visible job also ran on invisible targets, such an execution is not among its recent
        # ones.
        both = [all_.things["target", STAGING], all_.things["target", FOREIGN]]
        mixed = await all_.job("mixed", STAGING, *both)
        await all_.ended(mixed)
        shown = (await all_.http.get("/jobs?recent=5&name=mixed", **ben)).json()["items"]
        every = (await all_.http.get("/jobs?recent=5&name=mixed")).json()["items"]
        assert len(every[0]["recent"]) == 1
        seen = (await all_.http.get(f"/jobs/{mixed}/executions", **ben)).json()["items"]
        assert len(shown[0]["recent"]) == len(seen)
