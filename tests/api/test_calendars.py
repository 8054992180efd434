"""/calendars over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.kit import ApiClient, api_client, problem
from opsjobs.store.transaction import Database

HOLIDAYS = {
    "name": "holidays",
    "timezone": "Europe/Berlin",
    "windows": [
        {"name": "Christmas", "yearly": "12-24..12-26"},
        {"from": "2026-11-27T22:00", "until": "2026-11-28T06:00"},
    ],
}


async def create_calendar(ada: ApiClient, **fields: Any) -> dict[str, Any]:
    answer = await ada.http.post("/calendars", json={**HOLIDAYS, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/calendars/{answer.json()['id']}"
    body: dict[str, Any] = answer.json()
    return body


async def test_a_calendar_is_created_read_replaced_and_deleted(database: Database) -> None:
    async with api_client(database) as ada:
        calendar = await create_calendar(ada)
        assert calendar["kind"] == "blackout"
        assert calendar["windows"] == [
            {"name": "Christmas", "yearly": ["12-24..12-26"]},
            {"from": "2026-11-27T22:00:00", "until": "2026-11-28T06:00:00"},
        ]
        await create_calendar(
            ada, name="nights", kind="only", windows=[{"start": "22:00", "end": "06:00"}]
        )
        listed = (await ada.http.get("/calendars?kind=only")).json()["items"]
        assert [item["name"] for item in listed] == ["nights"]
        written = {
            name: calendar[name] for name in ("name", "description", "timezone", "kind", "windows")
        }
        same = await ada.http.put(f"/calendars/{calendar['uuid']}", json=written)
        assert same.json() == calendar
        changed = await ada.http.put(
            f"/calendars/{calendar['id']}", json={**written, "description": "new"}
        )
        assert changed.json()["description"] == "new"
        problem(await ada.http.post("/calendars", json=HOLIDAYS), 409, "name_taken")
        assert (await ada.http.delete(f"/calendars/{calendar['id']}")).status_code == 204
        problem(await ada.http.get(f"/calendars/{calendar['id']}"), 404, "calendar_not_found")
        problem(
            await ada.http.put(f"/calendars/{calendar['id']}", json={}), 404, "calendar_not_found"
        )


async def test_a_calendar_check_returns_open_or_closed_and_until_when(database: Database) -> None:
    async with api_client(database) as ada:
        path = f"/calendars/{(await create_calendar(ada))['id']}/check"
        shut = (await ada.http.get(path, params={"at": "2026-12-25T10:00"})).json()
        assert shut == {
            "calendar": "holidays",
            "at": "2026-12-25T09:00:00.000Z",
            "local": "2026-12-25T10:00:00+01:00",
            "open": False,
            "reason": "Christmas: every year 12-24 to 12-26",
            "until": "2026-12-26T23:00:00.000Z",
            "local_until": "2026-12-27T00:00:00+01:00",
            "timezone": "Europe/Berlin",
        }
        open_ = (await ada.http.get(path, params={"at": "2026-11-28T06:00:00+01:00"})).json()
        assert (open_["open"], open_["reason"], open_["local_until"]) == (
            True,
            None,
            "2026-12-24T00:00:00+01:00",
        )
        assert (await ada.http.get(path)).json().keys() == shut.keys()
        for wrong in ("soon", "2026-12-25", "9999-12-31T00:00Z", "2026-12-25T10:00\x00"):
            told = problem(await ada.http.get(path, params={"at": wrong}), 422, "invalid_query")
            assert told["errors"][0]["parameter"] == "at"
        problem(await ada.http.get("/calendars/99/check"), 404, "calendar_not_found")


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"timezone": "../../etc/passwd"}, "/timezone", "Europe/Berlin"),
        ({"timezone": "GMT+5"}, "/timezone", "IANA"),
        ({"kind": "closed"}, "/kind", "'blackout' or 'only'"),
        ({"windows": []}, "/windows", "at least 1 item"),
        ({"windows": [{"yearly": "12-25"}] * 201}, "/windows", "at most 200 items"),
        ({"windows": [{"dates": ["2026-02-30"]}]}, "/windows/0/dates/0", "not a date"),
        (
            {"windows": [{"weekdays": ["mon"], "dates": ["2026-12-25"]}]},
            "/windows/0/dates",
            "do not go together",
        ),
        (
            {"windows": [{"from": "2026-12-24T18:00", "until": "2026-12-24T12:00"}]},
            "/windows/0/until",
            "later than from",
        ),
        ({"color": "red"}, "/color", "no such field"),
    ],
)
async def test_an_invalid_calendar_is_422_with_a_pointer(
    database: Database, fields: dict[str, Any], pointer: str, words: str
) -> None:
    async with api_client(database) as ada:
        answer = await ada.http.post("/calendars", json={**HOLIDAYS, **fields})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert words in answer.json()["errors"][0]["detail"]
        assert (await ada.http.get("/calendars")).json()["items"] == []


async def test_a_repeated_calendar_post_is_replayed_and_a_viewer_changes_nothing(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        answers = [
            await ada.http.post("/calendars", json=HOLIDAYS, headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        viewer = await ada.token_of("viewer")
        assert (await ada.http.get("/calendars/1/check", headers=viewer)).status_code == 200
        problem(await ada.http.delete("/calendars/1", headers=viewer), 403, "forbidden")
