"""Due times of schedules: every type, `H`, jitter, bounds, dates that never occur.

Their descriptions in words, too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.schedule.timetable import Timetable, timetable, words_of

UUID_1 = UUID("0199f3f0-7c1e-7a53-9c4b-0123456789ab")
# A Tuesday.
CREATED = datetime(2026, 10, 20, 7, 3, 20, 500, tzinfo=UTC)
BERLIN = {"timezone": "Europe/Berlin"}


def table(uuid: UUID = UUID_1, **body: Any) -> Timetable:
    return timetable(ScheduleDraft.model_validate(body), uuid=uuid, created_at=CREATED)


def described(**body: Any) -> str:
    found = table(**body)
    return words_of(found.draft, found.cron)


def due(count: int = 3, after: datetime = CREATED, **body: Any) -> list[str]:
    found = table(**body).between(after, datetime(2199, 12, 31, tzinfo=UTC), count)
    return [f"{moment:%Y-%m-%d %H:%M:%S}".removesuffix(":00") for moment in found]


# --- recurring


def test_minutes_and_hours_are_counted_from_the_anchor_or_the_start_or_the_creation() -> None:
    every = {"type": "recurring", "every": "minutes", "interval": 40}
    assert due(**every) == ["2026-10-20 07:43:20", "2026-10-20 08:23:20", "2026-10-20 09:03:20"]
    assert due(**every, anchor="2027-01-01T00:00:00Z")[0] == "2026-10-20 07:20"
    assert due(**every, start_at="2026-10-20T12:00:00Z") == [
        "2026-10-20 12:00",
        "2026-10-20 12:40",
        "2026-10-20 13:20",
    ]
    assert (
        due(**every, start_at="2026-10-20T12:00:00Z", anchor="2026-01-01T00:00:30Z")[0]
        == "2026-10-20 12:00:30"
    )
    assert due(type="recurring", every="hours", anchor="2026-10-20T00:30:00+05:30") == [
        "2026-10-20 08:00",
        "2026-10-20 09:00",
        "2026-10-20 10:00",
    ]


def test_days_are_skipped_from_the_anchors_day_on() -> None:
    daily = {"type": "recurring", "every": "daily", "interval": 3, "time": "23:30", **BERLIN}
    assert due(**daily) == ["2026-10-20 21:30", "2026-10-23 21:30", "2026-10-26 22:30"]
    # 23:30 UTC is the next day in Berlin.
    assert due(**daily, anchor="2026-10-20T23:30:00Z") == [
        "2026-10-21 21:30",
        "2026-10-24 21:30",
        "2026-10-27 22:30",
    ]
    assert due(**daily, after=datetime(2030, 1, 1, tzinfo=UTC))[0] == "2030-01-02 22:30"


def test_weeks_are_skipped_from_monday_on() -> None:
    weekly = {
        "type": "recurring",
        "every": "weekly",
        "time": "02:30",
        "weekdays": ["mon", "wed", "sun"],
    }
    assert due(5, **weekly) == [
        f"2026-{day} 02:30" for day in ("10-21", "10-25", "10-26", "10-28", "11-01")
    ]
    assert due(5, **weekly, interval=2) == [
        f"2026-{day} 02:30" for day in ("10-21", "10-25", "11-02", "11-04", "11-08")
    ]
    assert due(2, **weekly, interval=2, anchor="2026-10-26T00:00:00Z") == [
        "2026-10-26 02:30",
        "2026-10-28 02:30",
    ]


@pytest.mark.parametrize(
    ("day", "days"),
    [
        (15, ["2026-11-15", "2026-12-15", "2027-01-15"]),
        (31, ["2026-10-31", "2026-12-31", "2027-01-31", "2027-03-31"]),
        ("last", ["2026-10-31", "2026-11-30", "2026-12-31", "2027-01-31", "2027-02-28"]),
        ("1st mon", ["2026-11-02", "2026-12-07"]),
        ("2nd tue", ["2026-11-10", "2026-12-08"]),
        ("5th sat", ["2026-10-31", "2027-01-30"]),
        ("last fri", ["2026-10-30", "2026-11-27", "2026-12-25"]),
    ],
)
def test_a_month_without_such_a_day_has_no_moment(day: int | str, days: list[str]) -> None:
    monthly = {"type": "recurring", "every": "monthly", "day": day, "time": "09:00"}
    assert due(len(days), **monthly) == [f"{d} 09:00" for d in days]


def test_months_are_skipped_from_the_anchors_month_on() -> None:
    quarterly = {"type": "recurring", "every": "monthly", "interval": 3, "day": 31, "time": "09:00"}
    assert due(**quarterly) == ["2026-10-31 09:00", "2027-01-31 09:00", "2027-07-31 09:00"]
    assert due(**quarterly, anchor="2026-11-15T00:00:00Z")[0] == "2027-05-31 09:00"
    # Every twelve months from February on, there is no 31st.
    assert due(**{**quarterly, "interval": 12}, anchor="2026-02-01T00:00:00Z") == []
    leap = {**quarterly, "interval": 12, "day": 29}
    assert due(**leap, anchor="2026-02-01T00:00:00Z") == [
        "2028-02-29 09:00",
        "2032-02-29 09:00",
        "2036-02-29 09:00",
    ]


# --- cron


@pytest.mark.parametrize(
    ("expression", "moments"),
    [
        ("30 2 * * *", ["2026-10-21 02:30", "2026-10-22 02:30"]),
        (
            "0 0 13 * FRI",
            ["2026-10-23 00:00", "2026-10-30 00:00", "2026-11-06 00:00", "2026-11-13 00:00"],
        ),
        ("0 0 */13 * FRI", ["2026-11-27 00:00", "2027-01-01 00:00"]),
        ("0 0 L * *", ["2026-10-31 00:00", "2026-11-30 00:00"]),
        ("0 0 LW * *", ["2026-10-30 00:00", "2026-11-30 00:00"]),
        ("0 0 * * FRIL", ["2026-10-30 00:00", "2026-11-27 00:00"]),
        ("0 0 * * 5L", ["2026-10-30 00:00", "2026-11-27 00:00"]),
        ("0 0 * * TUE#2", ["2026-11-10 00:00", "2026-12-08 00:00"]),
        (
            "0 0 * * FRI-SUN",
            ["2026-10-23 00:00", "2026-10-24 00:00", "2026-10-25 00:00", "2026-10-30 00:00"],
        ),
        ("0 0 * * 7", ["2026-10-25 00:00", "2026-11-01 00:00"]),
        ("10-10/20 5 * * *", ["2026-10-21 05:10", "2026-10-22 05:10"]),
        ("10/25 5 * * *", ["2026-10-21 05:10", "2026-10-21 05:35"]),
        ("0 0 29 feb *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 * 2 MON#5", ["2044-02-29 00:00", "2072-02-29 00:00"]),
        (
            "*/20 4 7 * * *",
            ["2026-10-20 07:04", "2026-10-20 07:04:20", "2026-10-20 07:04:40", "2026-10-21 07:04"],
        ),
        ("59 59 23 31 12 *", ["2026-12-31 23:59:59"]),
        ("@hourly", ["2026-10-20 08:00"]),
        ("@Daily", ["2026-10-21 00:00"]),
        ("@midnight", ["2026-10-21 00:00"]),
        ("@weekly", ["2026-10-25 00:00"]),
        ("@monthly", ["2026-11-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00"]),
        ("  5   8\t* * * ", ["2026-10-20 08:05"]),
    ],
)
def test_what_an_expression_means(expression: str, moments: list[str]) -> None:
    assert due(len(moments), type="cron", cron=expression) == moments


def test_h_is_a_number_of_the_schedules_own() -> None:
    def first(expression: str) -> list[datetime]:
        draft = ScheduleDraft.model_validate({"type": "cron", "cron": expression})
        tables = [timetable(draft, uuid=UUID(int=n << 64), created_at=CREATED) for n in range(250)]
        found = [one.next_after(datetime(2026, 1, 1, tzinfo=UTC)) for one in tables]
        return [moment for moment in found if moment is not None]

    minutes = [moment.minute for moment in first("H * * * *")]
    assert minutes == [moment.minute for moment in first("H * * * *")]
    assert set(minutes) == set(range(60))
    assert max(minutes.count(n) for n in range(60)) < 20
    assert {moment.minute for moment in first("H(0-29) 3 * * *")} == set(range(30))
    assert {moment.day for moment in first("0 0 H * *")} == set(range(1, 29))
    assert {moment.weekday() for moment in first("0 0 * * H")} == set(range(7))
    assert {moment.month for moment in first("0 0 2 H *")} == set(range(1, 13))
    # the two fields do not get the same number
    assert any(moment.minute % 24 != moment.hour for moment in first("H H * * *"))


def test_h_with_a_step_begins_somewhere_and_stays_evenly_spread() -> None:
    body = {"type": "cron", "cron": "H/15 * * * *"}
    minutes = [int(moment[14:16]) for moment in due(5, **body)]
    assert [(b - a) % 60 for a, b in pairwise(minutes)] == [15] * 4
    starts = {min(int(m[14:16]) for m in due(4, uuid=UUID(int=n), **body)) for n in range(100)}
    assert starts == set(range(15))


@settings(max_examples=60)
@given(
    fields=st.tuples(
        st.sampled_from(["H", "H/7", "H(3-50)/11", "0"]),
        st.sampled_from(["H", "H(0-5)", "H/5"]),
        st.sampled_from(["H", "H(1-31)", "H(29-31)", "H/10", "30", "*/31", "L", "*"]),
        st.sampled_from(["H", "H(1-3)", "H(2-3)", "H/5", "2", "FEB-APR", "*"]),
        st.sampled_from(["H", "H(1-5)", "5L", "MON#5", "*", "*/7"]),
    ),
    uuid=st.uuids(),
)
def test_whatever_h_becomes_an_expression_that_is_taken_is_due(
    fields: tuple[str, ...], uuid: UUID
) -> None:
    try:
        draft = ScheduleDraft.model_validate({"type": "cron", "cron": " ".join(fields)})
    except ValidationError:
        return
    found = timetable(draft, uuid=uuid, created_at=CREATED)
    assert words_of(draft, found.cron)
    assert found.next_after(CREATED) is not None


# --- bounds, what never comes, jitter


def test_nothing_is_due_before_the_start_and_after_the_end() -> None:
    body = {
        "type": "cron",
        "cron": "0 9 * * *",
        "start_at": "2026-11-01T09:00:00Z",
        "end_at": "2026-11-03T09:00:00Z",
    }
    assert due(9, **body) == ["2026-11-01 09:00", "2026-11-02 09:00", "2026-11-03 09:00"]
    assert table(**body).next_after(datetime(2026, 11, 3, 9, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    "body",
    [
        {"type": "once", "at": "2026-12-01T09:00:00Z"},
        {"type": "cron", "cron": "* * * * * *", "timezone": "Pacific/Kiritimati"},
        {"type": "cron", "cron": "0 0 29 2 *", "timezone": "Pacific/Pago_Pago"},
        {"type": "recurring", "every": "hours", "interval": 8_784},
        {
            "type": "recurring",
            "every": "weekly",
            "weekdays": ["mon"],
            "interval": 520,
            "timezone": "Europe/Berlin",
        },
        {
            "type": "recurring",
            "every": "monthly",
            "day": 31,
            "interval": 120,
            "timezone": "Asia/Tokyo",
        },
    ],
)
def test_the_ends_of_time_are_no_trouble(body: dict[str, Any]) -> None:
    found = table(**body)
    for late in (
        datetime.max.replace(tzinfo=UTC),
        datetime(2200, 1, 1, tzinfo=UTC),
        datetime(2199, 12, 31, 23, 59, 59, 1, UTC),
    ):
        assert found.next_after(late) is None
        assert found.between(late, late, 10) == []
    first = found.next_after(datetime.min.replace(tzinfo=UTC))
    assert first is not None
    assert first.year >= 1970


def test_between_is_bounded_and_takes_its_end_in() -> None:
    found = table(type="cron", cron="* * * * *")
    begin = datetime(2026, 10, 20, tzinfo=UTC)
    assert len(found.between(begin, begin + timedelta(days=365), 100)) == 100
    assert found.between(begin, begin + timedelta(minutes=1), 9) == [begin + timedelta(minutes=1)]
    assert found.between(begin, begin, 9) == []
    assert found.between(begin, begin + timedelta(days=1), 0) == []


def test_jitter_belongs_to_the_schedule_and_the_moment() -> None:
    found = table(type="cron", cron="* * * * *", jitter="30s")
    moments = found.between(CREATED, CREATED + timedelta(days=1), 500)
    delays = [found.fire_at(moment) - moment for moment in moments]
    assert delays == [
        table(type="cron", cron="* * * * *", jitter="30s").fire_at(moment) - moment
        for moment in moments
    ]
    assert min(delays) >= timedelta(0)
    assert max(delays) < timedelta(seconds=30)
    assert timedelta(seconds=10) < sum(delays, timedelta()) / 500 < timedelta(seconds=20)
    other = table(UUID(int=7), type="cron", cron="* * * * *", jitter="30s")
    assert [other.fire_at(moment) - moment for moment in moments] != delays
    assert table(type="cron", cron="* * * * *").fire_at(moments[0]) == moments[0]


def test_only_what_hangs_on_a_zone_is_computed_anew_with_its_rules() -> None:
    assert table(type="cron", cron="* * * * *", **BERLIN).wall
    assert table(type="recurring", every="daily", **BERLIN).wall
    assert table(type="once", local_time="2026-12-01T09:00:00", **BERLIN).wall
    assert not table(type="once", at="2026-12-01T09:00:00Z", **BERLIN).wall
    assert not table(type="recurring", every="minutes", **BERLIN).wall
    assert not table(type="cron", cron="* * * * *").wall


# --- words


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("30 2 * * *", "at 02:30 every day, Europe/Berlin"),
        ("30 2 * * 1-5", "at 02:30 on weekdays, Europe/Berlin"),
        ("30 2 * * SAT,SUN", "at 02:30 on weekends, Europe/Berlin"),
        ("30 2 * * 1,5", "at 02:30 on Mondays and Fridays, Europe/Berlin"),
        ("30 2 * * 0-6", "at 02:30 every day, Europe/Berlin"),
        ("0 9,12,15 * * *", "at 09:00, 12:00 and 15:00 every day, Europe/Berlin"),
        ("15 30 2 * * *", "at 02:30:15 every day, Europe/Berlin"),
        ("0 9 * * 5L", "at 09:00 on the last Friday of the month, Europe/Berlin"),
        ("0 9 * * TUE#2", "at 09:00 on the second Tuesday of the month, Europe/Berlin"),
        ("0 0 * 2 MON#5", "at 00:00 on the fifth Monday of February, Europe/Berlin"),
        ("0 9 1 * *", "at 09:00 on day 1 of the month, Europe/Berlin"),
        (
            "0 9 1,15,L * *",
            "at 09:00 on days 1 and 15 and the last day of the month, Europe/Berlin",
        ),
        ("0 9 LW * *", "at 09:00 on the last working day of the month, Europe/Berlin"),
        ("0 9 24-26 12 *", "at 09:00 on days 24 to 26 of December, Europe/Berlin"),
        ("0 9 * JAN,JUL *", "at 09:00 every day in January and July, Europe/Berlin"),
        ("0 9 * 6 MON", "at 09:00 on Mondays in June, Europe/Berlin"),
        ("0 0 13 * FRI", "at 00:00 on day 13 of the month and on Fridays, Europe/Berlin"),
        (
            "0 0 */10 * FRI",
            "at 00:00 on Fridays that are days 1, 11, 21 and 31 of the month, Europe/Berlin",
        ),
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("*/15 9-17 * * *", "every 15 minutes of the hours 9 to 17, Europe/Berlin"),
        ("*/15 * * * 1-5", "every 15 minutes on weekdays, Europe/Berlin"),
        (
            "*/7 * * * *",
            "at minutes 0, 7, 14, 21, 28, 35, 42 and 2 others of every hour, Europe/Berlin",
        ),
        ("5 * * * *", "at minute 5 of every hour, Europe/Berlin"),
        ("0 * * * *", "every hour, Europe/Berlin"),
        ("0 */2 * * *", "every 2 hours, Europe/Berlin"),
        ("0 */3 * * MON", "every 3 hours on Mondays, Europe/Berlin"),
        ("0 8-20 * * *", "at minute 0 of the hours 8 to 20, Europe/Berlin"),
        ("* 23 * * *", "every minute of the hour 23, Europe/Berlin"),
        ("5,35 8-20 * * *", "at minutes 5 and 35 of the hours 8 to 20, Europe/Berlin"),
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("7 * * * * *", "at second 7 of every minute"),
        (
            "*/10 */30 2 * * *",
            "every 10 seconds of the minutes 0 and 30 of the hour 2, Europe/Berlin",
        ),
        ("@weekly", "at 00:00 on Sundays, Europe/Berlin"),
        ("@hourly", "every hour, Europe/Berlin"),
    ],
)
def test_an_expression_in_words(expression: str, words: str) -> None:
    assert described(type="cron", cron=expression, **BERLIN) == words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"every": "minutes", "interval": 15}, "every 15 minutes"),
        ({"every": "hours"}, "every hour"),
        ({"every": "daily", "time": "02:30", **BERLIN}, "at 02:30 every day, Europe/Berlin"),
        ({"every": "daily", "interval": 3}, "at 00:00 every 3 days, UTC"),
        ({"every": "weekly", "weekdays": ["fri", "mon"], "time": "02:30", **BERLIN}, "at 02:30 on Mondays and Fridays, Europe/Berlin"),
        ({"every": "weekly", "weekdays": [1, 2, 3, 4, 5], "interval": 2}, "at 00:00 on weekdays of every 2 weeks, UTC"),
        ({"every": "monthly", "day": "last fri", "time": "09:00", **BERLIN}, "at 09:00 on the last Friday of the month, Europe/Berlin"),
        ({"every": "monthly", "day": "last"}, "at 00:00 on the last day of the month, UTC"),
        ({"every": "monthly", "day": 31, "interval": 3}, "at 00:00 on day 31 of every 3 months, UTC"),
    ],
)  # fmt: skip
def test_a_recurring_schedule_in_words(body: dict[str, Any], words: str) -> None:
    assert described(type="recurring", **body) == words


def test_once_in_words() -> None:
    at = "2026-12-01T09:00:00+01:00"
    assert described(type="once", at=at) == "once, at 08:00 on 1 December 2026, UTC"
    assert (
        described(type="once", at=at, **BERLIN)
        == "once, at 09:00 on 1 December 2026, Europe/Berlin"
    )
    assert (
        described(type="once", local_time="2026-12-01T09:00:30", **BERLIN)
        == "once, at 09:00:30 on 1 December 2026, Europe/Berlin"
    )
