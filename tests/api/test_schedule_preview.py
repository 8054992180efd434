"""/schedules/preview, /schedules/{id}/firings and /schedules/forecast over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.kit import api_client, problem
from api.live import live_api
from api.test_schedules import NIGHTLY, scheduled
from opsjobs.engine.firing.forecast import Forecasts
from opsjobs.model.calendar import CalendarDraft
from opsjobs.store.transaction import Database

FREEZE = {
    "name": "freeze",
    "windows": [{"name": "sale", "from": "2026-10-25T00:00:00Z", "until": "2026-10-26T12:00:00Z"}],
}


async def test_a_schedule_preview_is_local_and_in_utc_and_stores_nothing(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        body = {"schedule": NIGHTLY, "from": "2026-10-24T00:00:00Z", "count": 3}
        told = (await ada.http.post("/schedules/preview", json=body)).json()
        assert told == {
            "words": "at 02:30 every day, Europe/Berlin",
            "moments": [
                {
                    "utc": "2026-10-24T00:30:00.000Z",
                    "local": "2026-10-24T02:30:00+02:00",
                    "closed": None,
                },
                {
                    "utc": "2026-10-25T00:30:00.000Z",
                    "local": "2026-10-25T02:30:00+02:00",
                    "closed": None,
                },
                {
                    "utc": "2026-10-26T01:30:00.000Z",
                    "local": "2026-10-26T02:30:00+01:00",
                    "closed": None,
                },
            ],
            "notes": [],
        }
        assert (await ada.http.get("/schedules")).json()["items"] == []
        for edge in ("1970-01-01T00:00:00+14:00", "2199-12-31T23:59:59-12:00"):
            assert (
                await ada.http.post("/schedules/preview", json={**body, "from": edge})
            ).status_code == 200


async def test_a_schedule_preview_shows_due_times_that_calendars_close(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.services.calendars.create(CalendarDraft.model_validate(FREEZE))
        body = {
            "schedule": {**NIGHTLY, "calendars": ["freeze"]},
            "from": "2026-10-24T00:00:00Z",
            "count": 4,
        }
        moments = (await ada.http.post("/schedules/preview", json=body)).json()["moments"]
        assert [m["closed"] and m["closed"]["calendar"] for m in moments] == [
            None,
            "freeze",
            "freeze",
            None,
        ]
        assert moments[1]["closed"]["until"] == "2026-10-26T12:00:00.000Z"


async def test_a_stored_schedule_is_previewed_as_it_is_or_with_changes(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        [made] = await scheduled(
            ada, {"type": "cron", "cron": "H H * * *", "jitter": "30s", "max_firings": 2}
        )
        first = (await ada.http.post("/schedules/preview", json={"id": made["id"]})).json()
        assert (first["moments"][0]["utc"], len(first["moments"])) == (made["next_due_at"], 2)
        assert first["notes"] == [
            "each firing starts up to 30s late (jitter)",
            "there are no further due times",
        ]
        other = {
            "id": str(made["uuid"]),
            "schedule": {"type": "cron", "cron": "H H * * mon"},
            "count": 1,
        }
        told = (await ada.http.post("/schedules/preview", json=other)).json()
        assert told["moments"][0]["utc"][10:] == made["next_due_at"][10:]
        fresh = (
            await ada.http.post(
                "/schedules/preview", json={"schedule": {"type": "cron", "cron": "H H * * *"}}
            )
        ).json()
        assert len(fresh["moments"]) == 5
        assert fresh["notes"][0].startswith("H is another")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/schedule"),
        ({"schedule": {"type": "cron", "cron": "61 * * * *"}}, "/schedule/cron"),
        ({"schedule": {"type": "once", "at": "2020-01-01T00:00:00Z"}}, "/schedule/at"),
        ({"schedule": {**NIGHTLY, "calendars": ["nobody"]}}, "/schedule/calendars/0"),
        ({"schedule": NIGHTLY, "count": 101}, "/count"),
        ({"schedule": NIGHTLY, "from": "9999-12-31T23:59:59Z"}, "/from"),
        ({"schedule": NIGHTLY, "from": "0001-01-01T00:00:00+14:00"}, "/from"),
        ({"schedule": NIGHTLY, "from": "2026-10-24T00:00:00"}, "/from"),
    ],
)
async def test_a_preview_of_an_invalid_schedule_is_refused_with_a_pointer(
    database: Database, body: dict[str, Any], pointer: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/schedules/preview", json=body)
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_preview_of_a_missing_schedule_is_404(database: Database) -> None:
    async with api_client(database) as ada:
        problem(
            await ada.http.post("/schedules/preview", json={"id": 9}), 404, "schedule_not_found"
        )


async def test_the_forecast_counts_enabled_schedules_and_shows_collisions_with_calendars(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        soon = datetime.now(UTC) + timedelta(days=1)
        window = {"from": soon.isoformat(), "until": (soon + timedelta(days=2)).isoformat()}
        await ada.services.calendars.create(
            CalendarDraft.model_validate({"name": "freeze", "windows": [window]})
        )
        quarter = {"type": "recurring", "every": "minutes", "interval": 15, "name": "quarter"}
        daily = {**NIGHTLY, "timezone": "UTC"}
        frozen = {**daily, "name": "frozen", "calendars": ["freeze"]}
        await scheduled(ada, daily, quarter, frozen, {**daily, "name": "off", "enabled": False})
        told = (await ada.http.get("/schedules/forecast")).json()
        assert (told["schedules"], told["closed"], len(told["hours"]), told["left_out"]) == (
            3,
            2,
            168,
            [],
        )
        assert sum(hour["firings"] for hour in told["hours"]) == told["firings"]
        assert [c["schedule"]["name"] for c in told["collisions"]] == ["frozen", "frozen"]
        assert told["busiest"][0]["firings"] in (5, 6)


async def test_a_forecast_is_bounded_and_names_what_it_left_out(database: Database) -> None:
    async with api_client(database) as ada:
        ada.services.forecasts = Forecasts(
            ada.services.schedule_overview, ada.services.calendars, moments_at_most=100
        )
        minutely = {"type": "recurring", "every": "minutes", "interval": 1}
        await scheduled(
            ada, {**minutely, "name": "a"}, {**minutely, "name": "b"}, {**minutely, "name": "c"}
        )
        told = (await ada.http.get("/schedules/forecast")).json()
        assert (told["schedules"], told["firings"]) == (1, 100)
        assert told["left_out"][0].startswith("not looked at: 2 schedules")
        assert "a of restart-web" in told["left_out"][1]


async def test_a_forecast_counts_the_targets_of_a_whole_execution_not_of_its_retry(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1", "web-2", "web-3")
        await scheduled(ada, NIGHTLY, targets={"ids": ["web-1", "web-2", "web-3"]})
        await ada.http.post("/jobs/1/execute")
        for targets in (["web-1"], ["web-2"]):
            answer = await ada.http.post("/jobs/1/execute", json={"targets": {"ids": targets}})
            retried = f"update execution_specs set triggered_by = 'retry' where execution_id = {answer.json()['id']}"
            async with database.transaction() as connection:
                await connection.execute(retried)
        told = (await ada.http.get("/schedules/forecast")).json()
        assert {hour["targets"] for hour in told["hours"]} == {0, 3}
