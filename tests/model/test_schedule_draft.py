"""Schedules as bodies: accepted spellings, and refusals with their place and words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from opsjobs.model.errors import Invalid
from opsjobs.model.schedule.draft import ScheduleDraft, refuse_past
from opsjobs.model.schedule.timetable import Timetable, timetable

NOW = datetime(2026, 10, 20, tzinfo=UTC)
UUID_1 = UUID("0199f3f0-7c1e-7a53-9c4b-0123456789ab")
CRON = {"name": "nightly", "type": "cron", "cron": "30 2 * * *", "timezone": "Europe/Berlin"}


def draft(**body: Any) -> ScheduleDraft:
    return ScheduleDraft.model_validate(body, context={"now": NOW})


def table(**body: Any) -> Timetable:
    return timetable(draft(**body), uuid=UUID_1, created_at=NOW)


def refused(body: dict[str, Any]) -> tuple[str, str]:
    """Return pointer and message of the first error."""
    with pytest.raises(ValidationError) as raised:
        ScheduleDraft.model_validate(body, context={"now": NOW})
    first = raised.value.errors()[0]
    at = [*first["loc"], *first.get("ctx", {}).get("at", [])]
    return "/".join(["", *map(str, at)]), first["msg"]


# --- what is accepted


def test_a_body_has_its_defaults_written_down() -> None:
    assert draft(**CRON).model_dump(mode="json") == {
        "name": "nightly",
        "type": "cron",
        "at": None,
        "local_time": None,
        "cron": "30 2 * * *",
        "every": None,
        "interval": None,
        "time": None,
        "weekdays": None,
        "day": None,
        "anchor": None,
        "timezone": "Europe/Berlin",
        "dst_gap": "run_after",
        "dst_fold": "once",
        "misfire": "run_once",
        "misfire_window": "1h",
        "overlap": "skip",
        "jitter": "0s",
        "start_at": None,
        "end_at": None,
        "max_firings": None,
        "enabled": True,
        "calendars": [],
        "parameters": {},
        "notify": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        CRON,
        {"type": "once", "at": "2026-12-01T09:00:00+01:00"},
        {"type": "once", "local_time": "2026-12-01T09:00:00", "timezone": "Europe/Berlin"},
        {"type": "recurring", "every": "minutes", "interval": 15, "anchor": "2026-01-01T00:07:00Z"},
        {"type": "recurring", "every": "daily", "time": "02:30:15", "jitter": "90s"},
        {
            "type": "recurring",
            "every": "weekly",
            "weekdays": ["fri", "mon"],
            "time": "02:30",
            "start_at": "2026-11-01T00:00:00Z",
        },
        {"type": "recurring", "every": "monthly", "day": "2nd Tuesday", "time": "02:30"},
    ],
)
def test_what_was_stored_is_read_back_and_can_be_sent_again(body: dict[str, Any]) -> None:
    written = draft(**body)
    kept = written.model_dump(mode="json")
    assert ScheduleDraft.model_validate(kept, context={"stored": True}) == written
    assert ScheduleDraft.model_validate(kept) == written


def test_a_stored_schedule_is_not_judged_again() -> None:
    kept = draft(type="once", at="2026-12-01T09:00:00Z").model_dump(mode="json")
    later = {"stored": True, "now": datetime(2027, 1, 1, tzinfo=UTC)}
    assert ScheduleDraft.model_validate(kept, context=later).at == datetime(
        2026, 12, 1, 9, tzinfo=UTC
    )


def test_older_spellings_mean_the_same() -> None:
    bounds = {"max_executions": 3, "end_date": "2027-01-01T00:00:00Z"}
    weekly = {
        "schedule_type": "recurring",
        "recurring_type": "weekly",
        "days_of_week": [0, 1, 6],
        "time": "02:30",
        **bounds,
    }
    today = draft(
        type="recurring",
        every="weekly",
        weekdays=["mon", "sat", "sun"],
        time="02:30",
        max_firings=3,
        end_at=bounds["end_date"],
    )
    assert draft(**weekly) == today
    monthly = {
        "scheduleType": "recurring",
        "recurringType": "monthly",
        "dayOfMonth": 15,
        "time": "02:30",
    }
    assert draft(**monthly) == draft(type="recurring", every="monthly", day=15, time="02:30")
    assert draft(**{**monthly, "dayOfMonth": "15"}) == draft(**monthly)
    assert draft(schedule_type="cron", cron_expression="30 2 * * *") == draft(
        type="cron", cron="30 2 * * *"
    )
    assert draft(schedule_type="once", execute_at="2026-12-01T09:00:00Z") == draft(
        type="once", at="2026-12-01T09:00:00Z"
    )


def test_a_naive_time_beside_a_zone_is_the_local_time_there() -> None:
    local = draft(type="once", local_time="2026-12-01T09:00:00", timezone="Europe/Berlin", name="x")
    assert (
        draft(type="once", execute_at="2026-12-01T09:00:00", timezone="Europe/Berlin", name="x")
        == local
    )


def test_one_without_a_name_is_called_by_what_it_is() -> None:
    assert draft(type="cron", cron="30 2 * * *").name == "cron 30 2 * * *"
    assert draft(type="once", at="2026-12-01T09:00:00Z").name == "once 2026-12-01T09:00:00+00:00"
    assert draft(type="recurring", every="hours").name == "recurring hours"


# --- what is refused

CRON_FAULTS = {
    "60 * * * *": "minute: '60' is not possible: 0 to 59",
    "* 24 * * *": "hour: '24' is not possible: 0 to 23",
    "* * 0 * *": "day of the month: '0' is not possible: 1 to 31",
    "* * * 13 *": "month: '13' is not possible: 1 to 12 or JAN to DEC",
    "* * * * 8": "day of the week: '8' is not possible: 0 to 7 or SUN to SAT",
    "60 0 0 * * *": "second: '60' is not possible: 0 to 59",
    "*/0 * * * *": "'*/0' is not possible: a step is 1 to 59",
    "*/90 * * * *": "'*/90' is not possible: a step is 1 to 59",
    "*/-1 * * * *": "a step is 1 to 59",
    "*/x * * * *": "a step is 1 to 59",
    "5-1 * * * *": "'5-1' is not possible",
    "1,,2 * * * *": "'' is not possible",
    "-1 * * * *": "'-1' is not possible",
    "1.5 * * * *": "only letters, digits",
    "* * * FOO *": "'FOO' is not possible: 1 to 12 or JAN to DEC",
    "0 0 * * MON#6": "'MON#6' is not possible",
    "0 0 * * L": "'L' is not possible",
    "0 0 L-3 * *": "'L-3' is not possible",
    "H(0-60) * * * *": "'H(0-60)' is not possible",
    "H(5) * * * *": "'H(5)' is not possible",
    "0 0 30 2 *": "is never due",
    "0 0 30 2 MON": "is never due",
    "0 0 H(1-31) H(1-3) *": "is never due, or may not be",
    "0 0 31 2,4,6,9,11 *": "is never due",
    "0 0 H(29-31) 2 *": "is never due",
    "* * */20 * 1L": "is never due",
    "* * * *": "has 4 fields: write 5",
    "* * * * * * *": "has 7 fields: write 5",
    "": "has 0 fields",
    "@reboot": "is not a schedule name: write @hourly, @daily",
    "@every 5m": "is not a schedule name",
    "0 0 12 * * ?": "only letters, digits",
    "0 0 * * \u017fun": "only letters, digits",
    "* * * * *\n* * * * *": "only letters, digits",
    "* * * * *\x00": "only letters, digits",
    "\u0661 * * * *": "only letters, digits",
    ",".join(["1"] * 10_000) + " * * * *": "at most 256",
    "9" * 200 + " * * * *": "is not possible: 0 to 59",
    "*/" + "9" * 200 + " * * * *": "a step is 1 to 59",
}


@pytest.mark.parametrize("expression", CRON_FAULTS, ids=lambda e: ascii(e[:20]))
def test_a_cron_expression_that_is_none_is_refused(expression: str) -> None:
    pointer, words = refused({"type": "cron", "cron": expression})
    assert pointer == "/cron"
    assert CRON_FAULTS[expression] in words
    assert len(words) < 400


ONCE = {"type": "once", "local_time": "2026-12-01T09:00:00", "timezone": "Europe/Berlin"}
WEEKLY = {"type": "recurring", "every": "weekly", "weekdays": ["mon"]}
MONTHLY = {"type": "recurring", "every": "monthly", "day": 1}
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({**CRON, "timezone": "../../etc/passwd"}, "/timezone", "is not a time zone"),
    ({**CRON, "timezone": "/etc/passwd"}, "/timezone", "is not a time zone"),
    ({**CRON, "timezone": "GMT+5"}, "/timezone", "Etc/GMT-5 is always +5"),
    ({**CRON, "timezone": "Europe"}, "/timezone", "is not a time zone"),
    ({**CRON, "timezone": "localtime"}, "/timezone", "is not a time zone"),
    ({**CRON, "timezone": "europe/berlin"}, "/timezone", "did you mean Europe/Berlin"),
    ({**CRON, "timezone": ""}, "/timezone", "at least 1"),
    ({**CRON, "timezone": "x" * 100_000}, "/timezone", "at most 64"),
    ({**CRON, "timezone": "Europe/Berlin\x00"}, "/timezone", "is not a time zone"),
    ({**CRON, "timezone": 5}, "/timezone", "string"),
    ({"type": "once", "at": "2026-12-01T09:00:00"}, "/at", "has no zone"),
    ({"type": "once", "at": "9999-12-31T23:59:59Z"}, "/at", "the year 9999 is out of reach: 1970 to 2199"),
    ({"type": "once", "at": "0001-01-01T00:00:00+14:00"}, "/at", "out of reach"),
    ({"type": "once", "at": "2199-12-31T23:59:59-12:00"}, "/at", "out of reach"),
    ({"type": "once", "at": "2026-13-01T09:00:00Z"}, "/at", "is not a time"),
    ({"type": "once", "at": "2026-02-29T09:00:00Z"}, "/at", "is not a time"),
    ({"type": "once", "at": "tomorrow"}, "/at", "is not a time: write one such as 2026-12-01T09:00:00+01:00"),
    ({"type": "once", "at": 1796115600}, "/at", "is not a time"),
    ({"type": "once", "at": "2026-12-01"}, "/at", "is not a time"),
    ({"type": "once", "at": "2026-10-19T09:00:00Z"}, "/at", "is past"),
    ({"type": "once", "at": "2026-10-20T00:00:00Z"}, "/at", "is past"),
    ({**ONCE, "local_time": "2026-10-20T02:00:00"}, "/local_time", "is past"),
    ({"type": "once", "local_time": "2026-12-01T09:00:00"}, "/local_time", "without a zone is ambiguous"),
    ({**ONCE, "local_time": "2026-12-01T09:00:00Z"}, "/local_time", "has an offset"),
    ({**ONCE, "at": "2026-12-01T09:00:00Z"}, "/at", "either at (an instant) or local_time"),
    ({"type": "once"}, "/at", "either at (an instant) or local_time"),
    ({**ONCE, "dst_fold": "twice"}, "/dst_fold", "type once is once"),
    ({**ONCE, "local_time": "2027-03-28T02:30:00", "dst_gap": "skip"}, "/local_time", "no such time on that day"),
    ({**ONCE, "local_time": "2199-12-31T23:59:59", "timezone": "Etc/GMT+12"}, "/local_time", "after the year 2199"),
    ({**ONCE, "end_at": "2026-11-01T00:00:00Z"}, "/local_time", "outside start_at and end_at"),
    ({**ONCE, "start_at": "2027-11-01T00:00:00Z"}, "/local_time", "outside start_at and end_at"),
    ({"type": "recurring"}, "/every", "minutes, hours, daily, weekly, monthly"),
    ({"type": "recurring", "every": "yearly"}, "/every", "'minutes', 'hours', 'daily', 'weekly' or 'monthly'"),
    ({"type": "recurring", "every": "minutes", "interval": 0}, "/interval", "greater than or equal to 1"),
    ({"type": "recurring", "every": "minutes", "interval": -5}, "/interval", "greater than or equal to 1"),
    ({"type": "recurring", "every": "minutes", "interval": True}, "/interval", "integer"),
    ({"type": "recurring", "every": "minutes", "interval": 1.5}, "/interval", "integer"),
    ({"type": "recurring", "every": "minutes", "interval": 10**30}, "/interval", "is 1 to 527040"),
    ({"type": "recurring", "every": "daily", "interval": 3_661}, "/interval", "is 1 to 3660"),
    ({**MONTHLY, "interval": 121}, "/interval", "is 1 to 120"),
    ({"type": "recurring", "every": "hours", "time": "02:30"}, "/time", "every: hours has no time"),
    ({"type": "recurring", "every": "daily", "weekdays": ["mon"]}, "/weekdays", "every: daily has no weekdays"),
    ({**WEEKLY, "day": 5}, "/day", "every: weekly has no day"),
    ({**WEEKLY, "weekdays": None}, "/weekdays", "mon, tue, wed"),
    ({**WEEKLY, "weekdays": []}, "/weekdays", "at least 1"),
    ({**WEEKLY, "weekdays": ["mon", "foo"]}, "/weekdays/1", "is not a day of the week: write mon, tue"),
    ({**WEEKLY, "weekdays": [7]}, "/weekdays/0", "0 (Sunday) to 6"),
    ({**WEEKLY, "weekdays": ["mon"] * 10_000}, "/weekdays", "at most 7"),
    ({**WEEKLY, "time": "24:00"}, "/time", "is not a time of day: write 00:00 to 23:59"),
    ({**WEEKLY, "time": "9:00"}, "/time", "is not a time of day"),
    ({**WEEKLY, "time": 230}, "/time", "is not a time of day"),
    ({**MONTHLY, "day": None}, "/day", "every: monthly needs day"),
    ({**MONTHLY, "day": 0}, "/day", "is not a day of a month: write 1 to 31"),
    ({**MONTHLY, "day": 32}, "/day", "is not a day of a month"),
    ({**MONTHLY, "day": True}, "/day", "is not a day of a month"),
    ({**MONTHLY, "day": "31st tue"}, "/day", "1st to 5th or last and a weekday"),
    ({**MONTHLY, "day": "6th fri"}, "/day", "is not a day of a month"),
    ({**MONTHLY, "day": "2nd foo"}, "/day", "is not a day of a month"),
    ({**MONTHLY, "day": ["last"]}, "/day", "is not a day of a month"),
    ({**CRON, "at": "2026-12-01T09:00:00Z"}, "/at", "at is of type once, but the type is cron"),
    ({**MONTHLY, "cron": "* * * * *"}, "/cron", "cron is of type cron, but the type is recurring"),
    ({"type": "cron"}, "/cron", "needs an expression"),
    ({"type": "weekly"}, "/type", "'once', 'recurring' or 'cron'"),
    ({"cron": "* * * * *"}, "/type", "required"),
    ({**CRON, "start_at": "2027-01-01T00:00:00Z", "end_at": "2026-12-01T00:00:00Z"}, "/end_at", "is not after start_at"),
    ({**CRON, "end_at": "2026-12-01T00:00:00"}, "/end_at", "has no zone"),
    ({**CRON, "max_firings": 0}, "/max_firings", "greater than or equal to 1"),
    ({**CRON, "jitter": "2d"}, "/jitter", "at most 1d"),
    ({**CRON, "misfire_window": "0s"}, "/misfire_window", "more than 0s"),
    ({**CRON, "misfire": "always"}, "/misfire", "'skip', 'run_once' or 'run_all'"),
    ({**CRON, "overlap": "kill"}, "/overlap", "'cancel_previous'"),
    ({**CRON, "dst_gap": "before"}, "/dst_gap", "'run_after' or 'skip'"),
    ({**CRON, "dst_fold": "thrice"}, "/dst_fold", "'once' or 'twice'"),
    ({**CRON, "enabled": "yes"}, "/enabled", "boolean"),
    ({**CRON, "name": "two\nlines"}, "/name", "pattern"),
    ({**CRON, "calendars": ["a/b"]}, "/calendars/0", "pattern"),
    ({**CRON, "color": "red"}, "/color", "not permitted"),
    ({**CRON, "cron_expression": "* * * * *"}, "", "cron is given twice"),
    ({**CRON, "cronExpression": "* * * * *"}, "", "cron is given twice"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "pointer", "words"), FAULTS, ids=lambda v: v if isinstance(v, str) else None
)
def test_a_body_that_is_wrong_is_refused_at_its_place(
    body: dict[str, Any], pointer: str, words: str
) -> None:
    at, told = refused(body)
    assert at == pointer
    assert words in told
    assert len(told) < 400


def test_who_has_the_draft_before_the_time_asks_for_the_past_later() -> None:
    body = ScheduleDraft.model_validate({"type": "once", "at": "2026-12-01T09:00:00Z"})
    refuse_past(body, NOW)
    with pytest.raises(Invalid, match="is past") as raised:
        refuse_past(body, datetime(2026, 12, 1, 9, tzinfo=UTC))
    assert raised.value.errors[0].pointer == "/at"


# --- the usual form of each type


def test_each_kind_says_when_it_is_due() -> None:
    def due(**body: Any) -> list[str]:
        return [m.isoformat() for m in table(**body).between(NOW, NOW + timedelta(days=400), 2)]

    berlin = {"timezone": "Europe/Berlin"}
    assert due(type="once", at="2026-12-01T09:00:00+01:00") == ["2026-12-01T08:00:00+00:00"]
    assert due(type="once", local_time="2026-12-01T09:00:00", **berlin) == [
        "2026-12-01T08:00:00+00:00"
    ]
    assert due(type="cron", cron="30 2 * * 1-5", **berlin) == [
        "2026-10-20T00:30:00+00:00",
        "2026-10-21T00:30:00+00:00",
    ]
    assert due(type="recurring", every="minutes", interval=15) == [
        "2026-10-20T00:15:00+00:00",
        "2026-10-20T00:30:00+00:00",
    ]
    assert due(type="recurring", every="daily", time="02:30", **berlin) == [
        "2026-10-20T00:30:00+00:00",
        "2026-10-21T00:30:00+00:00",
    ]
    assert due(type="recurring", every="monthly", day="last fri", time="09:00", **berlin) == [
        "2026-10-30T08:00:00+00:00",
        "2026-11-27T08:00:00+00:00",
    ]
