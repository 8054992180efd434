"""Invalid schedules are refused with the wrong field and the allowed values; none is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api.kit import ApiClient, api_client, job, problem
from opsjobs.store.transaction import Database

CRON = {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
ONCE = {"name": "once", "type": "once", "at": "2199-12-01T09:00:00+01:00"}
DAILY = {
    "name": "daily",
    "type": "recurring",
    "every": "daily",
    "time": "02:30",
    "timezone": "Europe/Berlin",
}
MANY = ",".join(["1"] * 10_000)

# The invalid fields, added to a valid body; the field that is named; a word of what is allowed.
BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "minute 60": (CRON, {"cron": "60 * * * *"}, "/cron", "59"),
    "30 February": (CRON, {"cron": "0 0 30 2 *"}, "/cron", "never"),
    "31 February": (CRON, {"cron": "0 0 31 2 *"}, "/cron", "never"),
    "step 0": (CRON, {"cron": "*/0 * * * *"}, "/cron", "1 to 59"),
    "step alone": (CRON, {"cron": "*/0"}, "/cron", "5"),
    "no fields": (CRON, {"cron": ""}, "/cron", "5"),
    "blanks": (CRON, {"cron": "     "}, "/cron", "5"),
    "four fields": (CRON, {"cron": "* * * *"}, "/cron", "5"),
    "seven fields": (CRON, {"cron": "* * * * * * *"}, "/cron", "5"),
    "words": (CRON, {"cron": "every day at noon please"}, "/cron", ""),
    "unknown macro": (CRON, {"cron": "@fortnightly"}, "/cron", "@daily"),
    "reboot": (CRON, {"cron": "@reboot"}, "/cron", ""),
    "month 13": (CRON, {"cron": "0 0 1 13 *"}, "/cron", "12"),
    "hour 24": (CRON, {"cron": "0 24 * * *"}, "/cron", "23"),
    "day 0": (CRON, {"cron": "0 0 0 * *"}, "/cron", "1"),
    "weekday 9": (CRON, {"cron": "0 0 * * 9"}, "/cron", ""),
    "negative": (CRON, {"cron": "-1 * * * *"}, "/cron", ""),
    "backwards": (CRON, {"cron": "30-10 * * * *"}, "/cron", ""),
    "sixth weekday": (CRON, {"cron": "0 0 * * 1#6"}, "/cron", ""),
    "10,000 items": (CRON, {"cron": f"{MANY} * * * *"}, "/cron", "at most 256"),
    "a long expression": (CRON, {"cron": "*" * 100_000}, "/cron", ""),
    "line breaks": (CRON, {"cron": "0 0 * * *\r\n* * * * * root true"}, "/cron", ""),
    "digits of another script": (CRON, {"cron": "٣ * * * *"}, "/cron", ""),
    "cron is a number": (CRON, {"cron": 5}, "/cron", ""),
    "cron is a list": (CRON, {"cron": ["* * * * *"]}, "/cron", ""),
    "no cron": (CRON, {"cron": None}, "/cron", ""),
    "a path as zone": (CRON, {"timezone": "../../etc/passwd"}, "/timezone", "IANA"),
    "an absolute path as zone": (CRON, {"timezone": "/etc/passwd"}, "/timezone", "IANA"),
    "an offset as zone": (CRON, {"timezone": "GMT+5"}, "/timezone", "IANA"),
    "an abbreviation as zone": (CRON, {"timezone": "CEST"}, "/timezone", "IANA"),
    "an unknown zone": (CRON, {"timezone": "Europe/Atlantis"}, "/timezone", "IANA"),
    "a folder of zones": (CRON, {"timezone": "Europe"}, "/timezone", "IANA"),
    "a file beside the zones": (CRON, {"timezone": "zone.tab"}, "/timezone", "IANA"),
    "the machine's zone": (CRON, {"timezone": "localtime"}, "/timezone", "IANA"),
    "an empty zone": (CRON, {"timezone": ""}, "/timezone", "character"),
    "a zone of blanks": (CRON, {"timezone": " Europe/Berlin"}, "/timezone", "IANA"),
    "a long zone": (CRON, {"timezone": "A" * 10_000}, "/timezone", "character"),
    "a zone is a number": (CRON, {"timezone": 1}, "/timezone", ""),
    "unknown type": (CRON, {"type": "sometimes"}, "/type", "once"),
    "naive time": (ONCE, {"at": "2199-12-01T09:00:00"}, "/at", "zone"),
    "in the past": (ONCE, {"at": "2001-01-01T00:00:00Z"}, "/at", "past"),
    "year 9999": (ONCE, {"at": "9999-12-31T23:59:59Z"}, "/at", ""),
    "year 10000": (ONCE, {"at": "10000-01-01T00:00:00Z"}, "/at", ""),
    "no time at all": (ONCE, {"at": "soon"}, "/at", ""),
    "a time is a number": (ONCE, {"at": 1e30}, "/at", ""),
    "local time without a zone": ({"name": "x", "type": "once", "local_time": "2199-12-01T09:00:00"}, {}, "/local_time", "timezone"),
    "local time in 9999": (
        {"name": "x", "type": "once", "local_time": "9999-12-31T23:59:59", "timezone": "Pacific/Kiritimati"}, {}, "/local_time", "",
    ),
    "naive start": (CRON, {"start_at": "2199-01-01T00:00:00"}, "/start_at", "zone"),
    "start in 9999": (CRON, {"start_at": "9999-12-31T23:59:59Z"}, "/start_at", ""),
    "naive end": (CRON, {"end_at": "2199-01-01T00:00:00"}, "/end_at", "zone"),
    "end before start": (CRON, {"start_at": "2199-01-02T00:00:00Z", "end_at": "2199-01-01T00:00:00Z"}, "/end_at", "start_at"),
    "no firings": (CRON, {"max_firings": 0}, "/max_firings", "1"),
    "half a firing": (CRON, {"max_firings": 1.5}, "/max_firings", ""),
    "misfire": (CRON, {"misfire": "maybe"}, "/misfire", "run_once"),
    "overlap": (CRON, {"overlap": "maybe"}, "/overlap", "cancel_previous"),
    "gap": (CRON, {"dst_gap": "maybe"}, "/dst_gap", "run_after"),
    "fold": (CRON, {"dst_fold": "thrice"}, "/dst_fold", "twice"),
    "a window that is no duration": (CRON, {"misfire_window": "a while"}, "/misfire_window", ""),
    "a negative window": (CRON, {"misfire_window": "-1h"}, "/misfire_window", ""),
    "jitter that is no duration": (CRON, {"jitter": "some"}, "/jitter", ""),
    "jitter of a year": (CRON, {"jitter": "366d"}, "/jitter", ""),
    "an unknown calendar": (CRON, {"calendars": ["nobody-knows-it"]}, "/calendars/0", ""),
    "calendars is a word": (CRON, {"calendars": "holidays"}, "/calendars", ""),
    "an unknown field": (CRON, {"colour": "red"}, "/colour", ""),
    "no name": (CRON, {"name": ""}, "/name", ""),
    "a NUL in the name": (CRON, {"name": "a\x00b"}, "/name", ""),
    "a NUL in the expression": (CRON, {"cron": "* * * * *\x00"}, "/cron", ""),
    "a NUL in the zone": (CRON, {"timezone": "UTC\x00"}, "/timezone", ""),
    "enabled is a word": (CRON, {"enabled": "perhaps"}, "/enabled", ""),
    "parameters is a list": (CRON, {"parameters": []}, "/parameters", ""),
    "every other day": (DAILY, {"every": "fortnightly"}, "/every", "weekly"),
    "interval 0": (DAILY, {"interval": 0}, "/interval", "1"),
    "a huge interval": (DAILY, {"interval": 10**12}, "/interval", ""),
    "25 o'clock": (DAILY, {"time": "25:00"}, "/time", ""),
    "an unknown weekday": (DAILY, {"every": "weekly", "weekdays": ["someday"]}, "/weekdays/0", "mon"),
    "a weekday too many": (DAILY, {"every": "weekly", "days_of_week": [7]}, "", ""),
    "no weekdays": (DAILY, {"every": "weekly", "weekdays": []}, "/weekdays", ""),
    "day 32": (DAILY, {"every": "monthly", "day": 32}, "/day", "31"),
    "day 0 of the month": (DAILY, {"every": "monthly", "day": 0}, "/day", ""),
    "the sixth Tuesday": (DAILY, {"every": "monthly", "day": "6th tue"}, "/day", ""),
    "fields of another type": (CRON, {"at": "2199-12-01T09:00:00+01:00"}, "/at", ""),
}  # fmt: skip


@asynccontextmanager
async def _api_with_job(database: Database) -> AsyncIterator[tuple[ApiClient, int]]:
    async with api_client(database) as on:
        made = await on.http.post("/jobs", json=job())
        assert made.status_code == 201, made.text
        yield on, made.json()["id"]


def _unclear(name: str, body: dict[str, Any], pointer: str, word: str) -> str | None:
    """Return what the response lacks; None if it is clear."""
    told = [(error["pointer"], error["detail"]) for error in body["errors"]]
    if not any(where.startswith(pointer) for where, _ in told):
        return f"{name}: {pointer} is not named: {told}"
    if not any(
        word.lower() in detail.lower() for where, detail in told if where.startswith(pointer)
    ):
        return f"{name}: {word!r} is not said: {told}"
    return None


async def test_an_invalid_schedule_is_refused_by_create_replace_and_preview(
    database: Database,
) -> None:
    async with _api_with_job(database) as (on, job_id):
        made = await on.http.post(f"/jobs/{job_id}/schedules", json=CRON)
        assert made.status_code == 201, made.text
        schedule = made.json()["id"]
        unclear = []
        for number, (name, (good, wrong, pointer, word)) in enumerate(BAD.items()):
            body = {**good, **wrong}
            answers = {"": await on.http.post(f"/jobs/{job_id}/schedules", json=body)}
            # All three share one validation: some of each are enough.
            if number % 4 == 0:
                answers["changed"] = await on.http.put(
                    f"/schedules/{schedule}", json=body, headers={"If-Match": "*"}
                )
            if number % 4 == 1:
                answers["/schedule"] = await on.http.post(
                    "/schedules/preview", json={"schedule": body, "count": 3}
                )
            for where, answer in answers.items():
                if answer.status_code != 422:
                    unclear.append(f"{name} {where}: {answer.status_code} {answer.text[:200]}")
                    continue
                before = where if where.startswith("/") else ""
                unclear += [
                    line
                    for line in [_unclear(f"{name} {where}", answer.json(), before + pointer, word)]
                    if line
                ]
        assert not unclear, "\n".join(unclear)
        listed = (await on.http.get("/schedules")).json()["items"]
        assert [(item["id"], item["name"]) for item in listed] == [(schedule, "nightly")]


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (
            b'{"name": "x", "type": "cron", "cron": "* * * * *", "cron": "* * * * *"}',
            422,
            "duplicate_key",
        ),
        (
            b'{"name": "x", "type": "cron", "cron": "* * * * *", "max_firings": NaN}',
            422,
            "not_a_number",
        ),
        (b'{"name": "\\ud800", "type": "cron", "cron": "* * * * *"}', 422, "bad_character"),
        (b"[" * 10_000, 422, "too_deep"),
        (
            b'{"name": "x", "type": "cron", "cron": "' + b"*" * (2 << 20) + b'"}',
            413,
            "body_too_large",
        ),
    ],
)
async def test_a_body_that_is_no_schedule_is_refused(
    database: Database, raw: bytes, status: int, code: str
) -> None:
    async with _api_with_job(database) as (on, job_id):
        answer = await on.http.post(
            f"/jobs/{job_id}/schedules", content=raw, headers={"content-type": "application/json"}
        )
        problem(answer, status, code)


@pytest.mark.parametrize(
    "id",
    [
        "0",
        "-1",
        "99999999999999999999",
        "x",
        "..%2Fjobs",
        "%00",
        "00000000-0000-0000-0000-000000000000",
    ],
)
async def test_an_invalid_schedule_id_is_not_found(database: Database, id: str) -> None:
    async with _api_with_job(database) as (on, _):
        for verb, path in (
            ("GET", ""),
            ("GET", "/firings"),
            ("POST", "/trigger"),
            ("POST", "/pause"),
            ("POST", "/resume"),
        ):
            answer = await on.http.request(
                verb, f"/schedules/{id}{path}", json={} if verb == "POST" else None
            )
            assert answer.status_code in (404, 422), (verb, path, answer.status_code, answer.text)


async def test_a_valid_schedule_cannot_become_invalid(database: Database) -> None:
    async with _api_with_job(database) as (on, job_id):
        for query in ("limit=0", "limit=1000", "cursor=nonsense", "status=someday", "sort=colour"):
            answer = await on.http.get(f"/schedules?{query}")
            assert answer.status_code == 422, (query, answer.text)
        for preview in (
            {"count": 0},
            {"count": 100_000},
            {"from": "2026-01-01T00:00:00"},
            {"from": "9999-12-31T23:59:59Z"},
        ):
            answer = await on.http.post(
                "/schedules/preview", json={"schedule": {**CRON}, **preview}
            )
            assert answer.status_code == 422, (preview, answer.text)
        assert (await on.http.get(f"/jobs/{job_id}/schedules")).json()["items"] == []
