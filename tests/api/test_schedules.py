"""/schedules over HTTP: create, list, change, pause, launch by hand, and refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from api.kit import ApiClient, api_client, job, problem, stored
from api.live import LiveApi, live_api
from opsjobs.store.transaction import Database

NIGHTLY = {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
DECLARED = [
    {"name": "path", "default": "/"},
    {"name": "token", "type": "secret"},
    {"name": "n", "type": "integer", "max": 3},
]


async def scheduled(
    ada: ApiClient | LiveApi, *schedules: dict[str, Any], **fields: Any
) -> list[dict[str, Any]]:
    """Create the job restart-web with these schedules."""
    made = (await ada.http.post("/jobs", json=job(**fields))).json()
    answers = [
        await ada.http.post(f"/jobs/{made['id']}/schedules", json=schedule)
        for schedule in schedules
    ]
    assert [answer.status_code for answer in answers] == [201] * len(schedules), [
        answer.text for answer in answers
    ]
    return [answer.json() for answer in answers]


async def test_a_schedule_shows_its_words_next_due_time_and_last_firing(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        asked = datetime.now(UTC)
        # At a time that each day has once, also if clocks are turned.
        answer = await ada.http.post("/jobs/1/schedules", json={**NIGHTLY, "cron": "30 4 * * *"})
        assert (answer.status_code, answer.headers["location"], answer.headers["etag"]) == (
            201,
            "/schedules/1",
            '"1"',
        )
        made = answer.json()
        assert {name: made[name] for name in ("id", "version", "job_id", "job_name", "owner", "enabled", "cron", "misfire")} == {
            "id": 1, "version": 1, "job_id": 1, "job_name": "restart-web", "owner": "ada", "enabled": True, "cron": "30 4 * * *",
            "misfire": "run_once",
        }  # fmt: skip
        assert made["words"] == "at 04:30 every day, Europe/Berlin"
        due = datetime.fromisoformat(made["next_due_at"])
        assert timedelta(0) < due - asked <= timedelta(days=1, hours=2)
        assert " 04:30 +0" in made["next"]
        assert made["last_firing"] is None
        for ref in (made["id"], made["uuid"]):
            shown = await ada.http.get(f"/schedules/{ref}")
            assert (stored(shown.json()), shown.headers["etag"]) == (made, '"1"')


async def test_a_repeated_schedule_post_is_replayed_by_idempotency_key(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        key = {"Idempotency-Key": "a-b-c"}
        first, again = [
            await ada.http.post("/jobs/1/schedules", json=NIGHTLY, headers=key) for _ in range(2)
        ]
        assert (again.json(), again.headers["location"], again.headers["etag"]) == (
            first.json(),
            "/schedules/1",
            '"1"',
        )
        assert again.headers["idempotency-replayed"] == "true"
        problem(
            await ada.http.post("/jobs/1/schedules", json={**NIGHTLY, "name": "b"}, headers=key),
            422,
            "idempotency_mismatch",
        )
        problem(await ada.http.post("/jobs/1/schedules", json=NIGHTLY), 409, "name_taken")


async def test_schedules_are_listed_filtered_sorted_and_paged(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(
            ada,
            # Due after the other one, whatever time it is.
            {**NIGHTLY, "start_at": "2190-01-01T00:00:00Z"},
            {"type": "recurring", "every": "minutes", "interval": 15, "name": "quarter"},
        )
        await ada.http.post("/jobs", json=job("disk"))
        await ada.http.post("/jobs/2/schedules", json={**NIGHTLY, "enabled": False})

        async def names(query: str) -> list[str]:
            items = (await ada.http.get(f"/schedules?{query}")).json()["items"]
            return [f"{item['job_name']}/{item['name']}" for item in items]

        assert await names("") == ["disk/nightly", "restart-web/quarter", "restart-web/nightly"]
        assert await names("name=nightly&job_name=disk") == ["disk/nightly"]
        assert await names("enabled=false") == ["disk/nightly"]
        assert await names("type=recurring&owner=ada") == ["restart-web/quarter"]
        assert (await names("sort=next_due_at"))[0] == "restart-web/quarter"
        page = (await ada.http.get("/schedules?sort=name&page=2&size=2")).json()
        assert ([item["name"] for item in page["items"]], page["total"]) == (["quarter"], 3)
        first = (await ada.http.get("/schedules?limit=2")).json()
        assert [
            i["id"]
            for i in (await ada.http.get(f"/schedules?limit=2&cursor={first['next']}")).json()[
                "items"
            ]
        ] == [1]
        assert [
            i["id"] for i in (await ada.http.get("/jobs/1/schedules?sort=id")).json()["items"]
        ] == [1, 2]
        problem(await ada.http.get("/schedules?nmae=x"), 422, "invalid_query")
        problem(await ada.http.get("/jobs/9/schedules"), 404, "job_not_found")


async def test_a_schedule_is_replaced_with_if_match(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(ada, NIGHTLY)
        other = {**NIGHTLY, "cron": "0 3 * * *"}
        problem(await ada.http.put("/schedules/1", json=other), 428, "if_match_missing")
        changed = await ada.http.put("/schedules/1", json=other, headers={"If-Match": '"1"'})
        assert (changed.status_code, changed.headers["etag"], changed.json()["cron"]) == (
            200,
            '"2"',
            "0 3 * * *",
        )
        problem(
            await ada.http.put("/schedules/1", json=NIGHTLY, headers={"If-Match": '"1"'}),
            412,
            "stale_version",
        )
        same = await ada.http.put("/schedules/1", json=other, headers={"If-Match": "*"})
        assert same.json()["version"] == 2
        ben = await ada.token_of("operator")
        owned = await ada.http.put("/schedules/1", json=NIGHTLY, headers={**ben, "If-Match": "*"})
        assert owned.json()["owner"] == "ben-operator"
        problem(
            await ada.http.put("/schedules/9", json={"type": 5}, headers={"If-Match": "*"}),
            404,
            "schedule_not_found",
        )


async def test_a_deleted_schedule_is_gone_and_its_name_is_free(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(ada, NIGHTLY)
        problem(
            await ada.http.delete("/schedules/1", headers={"If-Match": '"7"'}), 412, "stale_version"
        )
        assert (await ada.http.delete("/schedules/1")).status_code == 204
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("GET", "/firings")):
            problem(
                await ada.http.request(method, f"/schedules/1{path}"), 404, "schedule_not_found"
            )
        assert (await ada.http.post("/jobs/1/schedules", json=NIGHTLY)).status_code == 201


async def test_a_schedule_is_paused_with_a_reason_and_resumed(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(ada, NIGHTLY)
        for _ in range(2):
            paused = await ada.http.post("/schedules/1/pause", json={"reason": "audit"})
            told = paused.json()
            assert (told["enabled"], told["paused_reason"], paused.headers["etag"]) == (
                False,
                "audit",
                '"2"',
            )
        resumed = (await ada.http.post("/schedules/1/resume")).json()
        assert (resumed["enabled"], resumed["paused_reason"]) == (True, None)


async def test_a_deleted_job_deletes_its_schedules(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(ada, NIGHTLY)
        assert (await ada.http.delete("/jobs/1")).status_code == 204
        problem(await ada.http.get("/schedules/1"), 404, "schedule_not_found")
        assert (await ada.http.get("/schedules")).json()["items"] == []


async def test_a_job_has_the_status_scheduled_until_a_firing_fails(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")

        async def status() -> str:
            return str((await ada.http.get("/jobs/1")).json()["status"])

        await scheduled(ada, NIGHTLY, targets={"ids": ["web-1"]})
        assert await status() == "scheduled"
        assert [
            i["id"] for i in (await ada.http.get("/jobs?status=scheduled")).json()["items"]
        ] == [1]
        await ada.http.post("/schedules/1/pause")
        assert await status() == "new"
        await ada.http.post("/schedules/1/resume")
        await ada.http.post("/jobs/1/execute")
        assert await status() == "running"


async def test_a_trigger_launches_now_in_the_name_of_the_caller(database: Database) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await scheduled(
            ada,
            {**NIGHTLY, "parameters": {"path": "/var"}},
            targets={"ids": ["web-1"]},
            parameters=DECLARED,
        )
        before = (await ada.http.get("/schedules/1")).json()
        await ada.http.post("/schedules/1/pause")
        key = {"Idempotency-Key": "now"}
        first, again = [
            await ada.http.post("/schedules/1/trigger", json={"reason": "now"}, headers=key)
            for _ in range(2)
        ]
        assert (first.status_code, first.headers["location"]) == (202, "/executions/1")
        execution = first.json()
        assert (
            execution["requested_by"],
            execution["parameters"]["path"],
            execution["job_id"],
        ) == ("ada", "/var", 1)
        assert again.json() == execution
        firing = (await ada.http.get("/schedules/1/firings")).json()["items"]
        assert [(f["kind"], f["status"], f["execution_id"], f["explained"]) for f in firing] == [
            ("trigger", "triggered", 1, "launched by hand; execution 1 is queued")
        ]
        after = (await ada.http.get("/schedules/1")).json()
        assert (after["next_due_at"], after["firings"]) == (before["next_due_at"], 0)
        viewer = await ada.as_role("viewer")
        problem(await ada.http.post("/schedules/1/trigger", headers=viewer), 403, "forbidden")


async def test_schedules_require_schedules_manage_to_change(database: Database) -> None:
    async with api_client(database) as ada:
        await scheduled(ada, NIGHTLY)
        viewer, operator = await ada.token_of("viewer"), await ada.token_of("operator")
        for path in (
            "/schedules",
            "/schedules/1",
            "/schedules/1/firings",
            "/jobs/1/schedules",
            "/schedules/forecast",
        ):
            assert (await ada.http.get(path, headers=viewer)).status_code == 200, path
        preview = await ada.http.post(
            "/schedules/preview", json={"schedule": NIGHTLY}, headers=viewer
        )
        assert preview.status_code == 200
        for path in ("/jobs/1/schedules", "/schedules/1/pause", "/schedules/1/resume"):
            problem(await ada.http.post(path, json={}, headers=viewer), 403, "forbidden")
        assert (await ada.http.post("/schedules/1/pause", headers=operator)).status_code == 200


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"cron": "60 * * * *"}, None, "/cron"),
    ({"cron": "0 0 30 2 *"}, None, "/cron"),
    ({"cron": "*/0 * * * *"}, None, "/cron"),
    ({"cron": ",".join(["1"] * 10_000) + " * * * *"}, None, "/cron"),
    ({"cron": "* * * *"}, None, "/cron"),
    ({"timezone": "../../etc/passwd"}, "unknown_zone", "/timezone"),
    ({"timezone": "GMT+5"}, "unknown_zone", "/timezone"),
    ({"timezone": 5}, "invalid", "/timezone"),
    ({"start_at": "9999-12-31T00:00:00Z"}, "out_of_reach", "/start_at"),
    ({"end_at": "2026-12-01T09:00:00"}, "naive_time", "/end_at"),
    ({"misfire": "maybe"}, "invalid", "/misfire"),
    ({"overlap": "maybe"}, "invalid", "/overlap"),
    ({"jitter": "2d"}, "invalid", "/jitter"),
    ({"max_firings": 0}, "invalid", "/max_firings"),
    ({"color": "red"}, "invalid", "/color"),
    ({"at": "2030-01-01T00:00:00Z"}, "not_of_this_type", "/at"),
    ({"name": "a\nb"}, "invalid", "/name"),
    ({"calendars": ["nobody"]}, "unknown_calendar", "/calendars/0"),
    ({"parameters": {"n": 5}}, "invalid_parameters", "/parameters/n"),
    ({"parameters": {"x": 5}}, "invalid_parameters", "/parameters/x"),
    ({"parameters": {"token": "hush"}}, "secret_in_schedule", "/parameters/token"),
    ({"type": "once", "cron": None, "at": "2020-01-01T00:00:00Z"}, "in_the_past", "/at"),
    ({"end_at": "2020-01-01T00:00:00Z"}, "never_due", ""),
]


async def test_an_invalid_schedule_is_refused_with_a_pointer(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job(parameters=DECLARED))
        other = {**NIGHTLY, "name": "other"}
        assert (await ada.http.post("/jobs/1/schedules", json=other)).status_code == 201
        for fields, code, pointer in REFUSED:
            answer = await ada.http.post("/jobs/1/schedules", json={**NIGHTLY, **fields})
            refused = problem(answer, 422, code or answer.json()["code"])
            assert [error["pointer"] for error in refused["errors"]] == [pointer], fields
            put = await ada.http.put(
                "/schedules/1", json={**other, **fields}, headers={"If-Match": "*"}
            )
            assert put.status_code == 422, fields
        assert [item["version"] for item in (await ada.http.get("/schedules")).json()["items"]] == [
            1
        ]


async def test_a_firing_shows_the_approval_and_the_end_of_its_execution(
    database: Database,
) -> None:
    async with live_api(database) as ada:
        await ada.targets("web-1")
        await scheduled(
            ada, NIGHTLY, targets={"ids": ["web-1"]}, policy={"approval": {"roles": ["approver"]}}
        )
        answer = await ada.http.post("/schedules/1/trigger")
        assert answer.json()["status"] == "pending_approval", answer.text

        async def explained() -> str:
            [item] = (await ada.http.get("/schedules/1/firings")).json()["items"]
            return str(item["explained"])

        assert await explained() == "launched by hand; execution 1 waits for approval 1"
        assert (await ada.http.post("/executions/1/cancel")).status_code < 300
        assert await explained() == "launched by hand; execution 1 ended cancelled"


async def test_schedules_without_a_name_get_names_of_their_own(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        often = {"type": "recurring", "every": "minutes", "interval": 5}
        nightly = {"type": "cron", "cron": "0 2 * * 1-5", "timezone": "Europe/Berlin"}
        names = [
            (await ada.http.post("/jobs/1/schedules", json=one)).json()["name"]
            for one in (often, {**often, "timezone": "Asia/Tokyo"}, nightly)
        ]
        assert names == [
            "every 5 minutes",
            "every 5 minutes (2)",
            "at 02:00 on weekdays",
        ]
        taken = await ada.http.post("/jobs/1/schedules", json={**often, "name": names[0]})
        problem(taken, 409, "name_taken")


async def test_a_name_that_says_when_follows_the_schedule(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/jobs", json=job())
        often = {"type": "recurring", "every": "minutes", "interval": 5}
        for _ in range(2):
            await ada.http.post("/jobs/1/schedules", json=often)
        anyway = {"If-Match": "*"}

        async def changed(number: int, **some: Any) -> tuple[str, int]:
            done = await ada.http.patch(f"/schedules/{number}", json=some, headers=anyway)
            return done.json()["name"], done.json()["version"]

        assert await changed(2, overlap="queue") == ("every 5 minutes (2)", 2)
        assert await changed(2, interval=10) == ("every 10 minutes", 3)
        assert await changed(2, interval=5, name="often") == ("often", 4)
        assert await changed(2, interval=10) == ("often", 5)
        for version in (6, 6):
            body = {**often, "interval": 5}
            put = await ada.http.put("/schedules/2", json=body, headers=anyway)
            assert (put.json()["name"], put.json()["version"]) == ("every 5 minutes (2)", version)
