"""The firings and the coming due times of all schedules."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from api.kit import ApiClient, api_client, job, problem
from opsjobs.engine.firing.forecast import Forecasts
from opsjobs.engine.firing.upcoming_moments import MomentList
from opsjobs.store.scheduling.calendars import Calendars
from opsjobs.store.scheduling.rows import CompiledSchedules
from opsjobs.store.scheduling.schedule_overview import ScheduleOverview
from opsjobs.store.transaction import Database
from security.two_scopes import principal_with, scoped_app

FREEZE = {
    "name": "freeze",
    "kind": "blackout",
    "timezone": "UTC",
    "windows": [{"yearly": "01-01..12-31", "name": "always"}],
}


async def schedule(ada: ApiClient, name: str, **fields: Any) -> int:
    body = {"name": name, "type": "cron", "cron": "30 2 * * *", "timezone": "UTC", **fields}
    answer = await ada.http.post("/jobs/1/schedules", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def test_coming_due_times_of_all_schedules_are_in_order(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        await ada.http.post("/calendars", json=FREEZE)
        await schedule(ada, "hourly", cron="0 * * * *", timezone="Europe/Berlin")
        await schedule(ada, "half", cron="30 * * * *", calendars=["freeze"])
        paused = await schedule(ada, "paused", cron="* * * * *")
        await ada.http.post(f"/schedules/{paused}/pause", json={})
        # Three whole hours, whichever minute it is and however late it is asked.
        begin = datetime.now(UTC) + timedelta(hours=1)
        query = {"from": begin.isoformat(), "to": (begin + timedelta(hours=3)).isoformat()}
        found = (await ada.http.get("/schedules/moments", params=query)).json()
        fires = [one["fire_at"] for one in found["moments"]]
        assert (len(fires), fires) == (6, sorted(fires))
        assert {(m["schedule"]["name"], m["closed"] is None) for m in found["moments"]} == {
            ("hourly", True),
            ("half", False),
        }
        assert found["moments"][0]["schedule"]["job_name"] == "backup"
        assert (found["complete_until"], found["left_out"]) == (found["to"], 0)
        hourly = next(m for m in found["moments"] if m["schedule"]["name"] == "hourly")
        assert hourly["local"][-6:] in ("+01:00", "+02:00")


async def test_more_due_times_than_the_limit_are_cut_in_time_order(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        await schedule(ada, "minutely", cron="* * * * *")
        await schedule(ada, "hourly", cron="0 * * * *")
        first = (await ada.http.get("/schedules/moments?limit=90")).json()
        assert len(first["moments"]) == 90
        assert first["moments"][-1]["fire_at"] <= first["complete_until"] < first["to"]
        query = {"from": first["complete_until"], "to": first["to"], "limit": 90}
        rest = (await ada.http.get("/schedules/moments", params=query)).json()
        assert rest["moments"][0]["fire_at"] == first["complete_until"]
        for query in ("from=soon", "to=2190-01-01T00:00:00Z"):
            problem(await ada.http.get(f"/schedules/moments?{query}"), 422, "invalid_query")
        for query, why in (
            ("to=2020-01-01T00:00:00Z", "it has passed"),
            ("from=2190-01-02T00:00:00Z&to=2190-01-01T00:00:00Z", "it is not after from"),
        ):
            refused = await ada.http.get(f"/schedules/moments?{query}")
            problem(refused, 422, "invalid_query")
            assert why in refused.json()["detail"]


async def test_one_schedule_alone_is_cut_at_the_limit_and_says_so(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        await schedule(ada, "minutely", cron="* * * * *")
        found = (await ada.http.get("/schedules/moments?limit=5")).json()
        assert len(found["moments"]) == 5
        assert found["moments"][-1]["fire_at"] < found["complete_until"] < found["to"]


async def test_a_period_has_its_begin_and_not_its_end(database: Database) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=5)
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        await schedule(ada, "hourly", cron="0 * * * *")
        query = {"from": hour.isoformat(), "to": (hour + timedelta(hours=1)).isoformat()}
        found = (await ada.http.get("/schedules/moments", params=query)).json()
        assert [datetime.fromisoformat(one["due_at"]) for one in found["moments"]] == [hour]
        assert found["complete_until"] == found["to"]


async def test_each_hour_of_the_forecast_lists_as_many_as_it_counts_with_jitter(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        await ada.http.post("/calendars", json=FREEZE)
        await schedule(ada, "often", cron="*/20 * * * *", jitter=7_200)
        await schedule(ada, "closed", cron="*/30 * * * *", jitter=7_200, calendars=["freeze"])
        week = (await ada.http.get("/schedules/forecast")).json()
        counted, listed = [], []
        for hour, after in pairwise(week["hours"][1:26]):
            query = {"from": hour["from"], "to": after["from"]}
            found = (await ada.http.get("/schedules/moments", params=query)).json()["moments"]
            assert all(hour["from"] <= one["fire_at"] < after["from"] for one in found)
            closed = sum(one["closed"] is not None for one in found)
            counted.append((hour["firings"], hour["closed"]))
            listed.append((len(found) - closed, closed))
        assert listed == counted
        assert len(set(listed)) > 1  # jitter moves some of them from one hour to another


async def test_firings_of_all_schedules_are_listed(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job("backup"))
        ids = [await schedule(ada, name) for name in ("nightly", "weekly")]
        for schedule_id, status in zip(ids, ("missed", "skipped"), strict=True):
            await fired(database, schedule_id, status)
        every = (await ada.http.get("/firings?page=1")).json()
        assert [(f["schedule"]["name"], f["status"]) for f in every["items"]] == [
            ("weekly", "skipped"),
            ("nightly", "missed"),
        ]
        assert (every["total"], every["items"][0]["schedule"]["job_name"]) == (2, "backup")
        missed = (await ada.http.get("/firings?status=missed")).json()["items"]
        assert [f["schedule"]["name"] for f in missed] == ["nightly"]
        assert missed[0]["explained"]
        problem(await ada.http.get("/firings?rule=late"), 422, "invalid_query")
        for path, found in (("job_id=1&status=missed", 1), ("job_id=2&status=missed", 0)):
            assert len((await ada.http.get(f"/firings?{path}")).json()["items"]) == found
        problem(await ada.http.get("/firings?job_id=1"), 422, "invalid_query")


async def fired(database: Database, schedule_id: int, status: str) -> None:
    """Return a firing of a schedule that did not launch anything."""
    await database.fetch(
        """insert into schedule_executions (uuid, schedule_id, kind, due_at, fire_at, status, rule,
               reason, recorded_at, fired_at)
             values (gen_random_uuid(), %s, 'moment', now(), now(), %s, 'paused', 'it is paused',
               now(), now()) returning id""",
        [schedule_id, status],
    )


async def test_schedules_out_of_sight_are_left_out(database: Database) -> None:
    async with scoped_app(database) as all_:
        ben = {"headers": all_.admit(principal_with("ben", ("operator", "env=staging")))}
        for env in ("staging", "foreign"):
            await fired(database, int(all_.things["schedule", env]), "missed")
        assert (await all_.http.get("/firings?page=1")).json()["total"] == 2
        firings = (await all_.http.get("/firings?page=1", **ben)).json()
        assert (firings["total"], [f["schedule"]["name"] for f in firings["items"]]) == (
            1,
            ["nightly-staging"],
        )
        every = (await all_.http.get("/schedules/moments")).json()["moments"]
        moments = (await all_.http.get("/schedules/moments", **ben)).json()["moments"]
        assert len(every) == 2
        assert [m["schedule"]["name"] for m in moments] == ["nightly-staging"]


async def test_a_request_waits_for_its_turn_for_a_bounded_time(database: Database) -> None:
    overview, calendars = ScheduleOverview(database, CompiledSchedules()), Calendars(database)
    paths = ("/schedules/moments", "/schedules/forecast")
    async with api_client(database) as ada, asyncio.TaskGroup() as group:
        ada.services.moment_list = MomentList(overview, calendars, wait_seconds=0.05)
        ada.services.forecasts = Forecasts(overview, calendars, wait_seconds=0.05)
        key = {"name": "ben", "role": "viewer", "scope": "env=dev"}
        token = (await ada.http.post("/api-keys", json=key)).json()["token"]
        ben = {"Authorization": f"Bearer {token}"}
        async with database.transaction() as connection:
            await connection.execute("lock table job_schedules in access exclusive mode")
            first = [group.create_task(ada.http.get(path)) for path in paths]
            waiting = (
                "select 1 from pg_stat_activity where wait_event_type = 'Lock' "
                "and datname = current_database()"
            )
            while len(await database.fetch(waiting)) < len(paths):
                await asyncio.sleep(0.01)
            for path in paths:
                busy = await ada.http.get(path, headers=ben)
                problem(busy, 429, "too_many_forecasts")
                assert busy.headers["Retry-After"] == "5"
        assert [(await each).status_code for each in first] == [200, 200]
        for path in paths:
            assert (await ada.http.get(path, headers=ben)).status_code == 200
