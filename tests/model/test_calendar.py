"""Calendars: their notation, when and why they are closed, and until when.

This includes days on which clocks change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from opsjobs.model import calendar as calendars
from opsjobs.model.calendar import Asked, Calendar, CalendarDraft, Closures, closed
from opsjobs.model.calendar_windows import WEEKDAYS

BERLIN = "Europe/Berlin"


def calendar(*windows: dict[str, Any], **fields: Any) -> Calendar:
    return Calendar(
        CalendarDraft.model_validate(
            {"name": "holidays", "timezone": BERLIN, "windows": list(windows), **fields}
        )
    )


def at(text: str, zone: str = BERLIN) -> datetime:
    """Return the instant of a local time (its first one), or of an instant."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or ZoneInfo(zone)).astimezone(UTC)


def until(found: Any) -> str | None:
    assert found is not None
    told: str | None = found.local_until
    return told


@pytest.mark.parametrize(
    ("window", "inside", "end", "reason"),
    [
        ({"dates": ["2026-12-26", "2026-12-25"]}, "2026-12-25T00:00", "2026-12-27 00:00", "2026-12-25"),
        ({"name": "Christmas", "dates": ["2026-12-25"]}, "2026-12-25T23:59", "2026-12-26 00:00", "Christmas: 2026-12-25"),
        ({"dates": ["2026-12-24"], "start": "12:00", "end": "24:00"}, "2026-12-24T12:00", "2026-12-25 00:00", "2026-12-24 12:00 to 24:00"),
        ({"weekdays": ["mon", "fri"], "start": "22:00", "end": "06:00"}, "2026-11-28T05:59", "2026-11-28 06:00", "mon, fri 22:00 to 06:00"),
        ({"start": "fri 22:00", "end": "mon 06:00"}, "2026-11-30T05:59:59", "2026-11-30 06:00", "fri 22:00 to mon 06:00"),
        ({"start": "sun 12:00", "end": "sun 11:30"}, "2026-11-29T12:00", "2026-12-06 11:30", "sun 12:00 to sun 11:30"),
        ({"start": "23:00", "end": "01:00"}, "2026-11-28T00:30", "2026-11-28 01:00", "every day 23:00 to 01:00"),
        ({"weekdays": ["sat", "sun"]}, "2026-11-28T00:00", "2026-11-30 00:00", "sat, sun"),
        ({"yearly": "12-24..01-02"}, "2027-01-02T23:59", "2027-01-03 00:00", "every year 12-24 to 01-02"),
        ({"yearly": ["05-01", "12-25..12-26"]}, "2031-05-01T10:00", "2031-05-02 00:00", "every year 05-01"),
        ({"from": "2026-12-24T18:00", "until": "2026-12-27T06:00"}, "2026-12-24T18:00", "2026-12-27 06:00", "from 2026-12-24 18:00:00 until"),
        ({"from": "2026-12-24T18:00:00Z", "until": "2026-12-24T20:00:00+01:00"}, "2026-12-24T19:30", "2026-12-24 20:00", "18:00:00Z until"),
    ],
)  # fmt: skip
def test_a_blackout_is_closed_inside_of_its_windows(
    window: dict[str, Any], inside: str, end: str, reason: str
) -> None:
    asked = calendar(window)
    found = closed([asked], at(inside))
    assert until(found) == end
    assert found is not None
    assert reason in found.reason
    assert closed([asked], at(end)) is None
    before = min(span.start for span in asked.spans(at(inside), at(inside) + timedelta(seconds=1)))
    assert closed([asked], before - timedelta(microseconds=1)) is None
    assert closed([asked], before) is not None


def test_an_only_calendar_is_closed_outside_of_its_windows() -> None:
    nights = calendar({"start": "22:00", "end": "06:00"}, name="nights", kind="only")
    found = closed([nights], at("2026-11-25T12:00"))
    assert found is not None
    assert (
        found.words
        == "closed by the calendar nights (outside its windows) until 2026-11-25 22:00 in Europe/Berlin"
    )
    assert found.data() == {
        "calendar": "nights",
        "reason": "outside its windows",
        "until": "2026-11-25T21:00:00.000Z",
    }
    assert closed([nights], at("2026-11-25T22:00")) is None


def test_of_several_only_calendars_one_is_enough_and_of_blackouts_any_closes() -> None:
    night = calendar({"start": "22:00", "end": "06:00"}, name="night", kind="only")
    noon = calendar({"start": "12:00", "end": "13:00"}, name="noon", kind="only")
    release = calendar({"from": "2026-11-25T12:30", "until": "2026-11-25T23:00"}, name="release")
    everything = [night, noon, release]
    assert closed(everything, at("2026-11-25T12:15")) is None
    released = closed(everything, at("2026-11-25T12:45"))
    assert released is not None
    # Closed until all are open again: after noon, the time is outside of both `only` windows.
    assert (released.calendar, until(released)) == ("release", "2026-11-25 23:00")
    between = closed([night, noon], at("2026-11-25T15:00"))
    assert between is not None
    assert (between.calendar, until(between)) == ("night, noon", "2026-11-25 22:00")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"windows": [{"from": "2020-01-01T00:00"}]},
            "from 2020-01-01 00:00:00) with no end in sight",
        ),
        ({"windows": [{"weekdays": list(WEEKDAYS)}]}, "every day) with no end in sight"),
        (
            {"kind": "only", "windows": [{"until": "2020-01-01T00:00"}]},
            "outside its windows) with no end in sight",
        ),
    ],
)
def test_an_end_that_is_not_in_sight_is_told_as_such(fields: dict[str, Any], words: str) -> None:
    found = closed([calendar(**fields)], at("2026-11-25T12:00"))
    assert found is not None
    assert found.until is None
    assert found.words.endswith(words)


def test_the_29th_of_february_is_where_it_is() -> None:
    leap = calendar({"yearly": ["02-29"]}, timezone="UTC")
    days = ("2027-02-28", "2027-03-01", "2028-02-29", "2028-03-01")
    assert [day for day in days if closed([leap], at(f"{day}T12:00", "UTC"))] == ["2028-02-29"]
    late = calendar({"yearly": ["02-27..02-29"]}, timezone="UTC")
    assert until(closed([late], at("2027-02-27T00:00", "UTC"))) == "2027-03-01 00:00"


# --- clock changes


@pytest.mark.parametrize(
    ("zone", "start", "end", "since", "expected"),
    [
        # A start or an end in a skipped time is at the skip. Berlin skips 02:00 to 03:00 on
        # 2026-03-29 at 01:00Z.
        (BERLIN, "01:00", "02:30", "2026-03-29T00:00Z", ["00:00-01:00"]),
        (BERLIN, "02:30", "05:00", "2026-03-29T00:00Z", ["01:00-03:00"]),
        (BERLIN, "02:10", "02:50", "2026-03-29T00:00Z", []),
        # Of times that occur twice, the local time counts. Berlin has 02:00 to 03:00 twice on
        # 2026-10-25, from 00:00Z on.
        (BERLIN, "01:00", "02:30", "2026-10-24T22:00Z", ["23:00-00:30", "01:00-01:30"]),
        (BERLIN, "02:30", "04:00", "2026-10-25T00:00Z", ["00:30-01:00", "01:30-03:00"]),
        (BERLIN, "02:15", "02:45", "2026-10-25T00:00Z", ["00:15-00:45", "01:15-01:45"]),
        (BERLIN, "01:30", "03:00", "2026-10-24T22:00Z", ["23:30-02:00"]),
        # Half an hour, in the south: Lord Howe has 01:30 to 02:00 twice on 2026-04-05, from 14:30Z
        # of the day before on.
        (
            "Australia/Lord_Howe",
            "01:45",
            "02:15",
            "2026-04-04T14:00Z",
            ["14:45-15:00", "15:15-15:45"],
        ),
    ],
)
def test_what_a_clock_shows_is_what_counts(
    zone: str, start: str, end: str, since: str, expected: list[str]
) -> None:
    asked = calendar({"start": start, "end": end}, timezone=zone)
    begin = at(since)
    spans = sorted((s.start, s.end) for s in asked.spans(begin, begin + timedelta(hours=6)))
    assert [f"{a:%H:%M}-{b:%H:%M}" for a, b in spans] == expected


def test_a_day_that_is_skipped_has_no_window() -> None:
    # Apia had no 30th of December 2011.
    asked = calendar({"dates": ["2011-12-30"]}, timezone="Pacific/Apia")
    assert list(asked.spans(at("2011-12-28T00:00Z"), at("2012-01-02T00:00Z"))) == []


Inside = Callable[[datetime], bool]


def _part(matches: Callable[[date], bool], start: int, minutes: int) -> Inside:
    """Return a predicate for local times in a part of a day.

    The part begins `start` minutes after midnight.
    """

    def inside(wall: datetime) -> bool:
        for day in (wall.date(), wall.date() - timedelta(days=1)):
            passed = (wall - datetime.combine(day, time())).total_seconds() / 60
            if matches(day) and start <= passed < start + minutes:
                return True
        return False

    return inside


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@st.composite
def windows(draw: st.DrawFn, near: date) -> tuple[dict[str, Any], Inside]:
    """Return a window of some days near this one, and a predicate for local times in it.

    The predicate is an independent implementation.
    """
    start, length = draw(st.integers(0, 1439)), draw(st.integers(1, 1439))
    part = {"start": _clock(start), "end": _clock((start + length) % 1440)}
    way = draw(st.sampled_from(["weekdays", "dates", "yearly", "weekly", "once"]))
    if way == "weekdays":
        days = draw(st.sets(st.sampled_from(WEEKDAYS), min_size=1))
        return {"weekdays": sorted(days), **part}, _part(
            lambda d: WEEKDAYS[d.weekday()] in days, start, length
        )
    if way == "dates":
        dates = draw(
            st.sets(
                st.integers(-2, 3).map(lambda n: near + timedelta(days=n)), min_size=1, max_size=3
            )
        )
        return {"dates": [str(d) for d in dates]}, _part(lambda d: d in dates, 0, 1440)
    if way == "yearly":
        first, last = (
            near - timedelta(days=draw(st.integers(-1, 400))),
            near + timedelta(days=draw(st.integers(0, 3))),
        )
        a, b = (first.month, first.day), (last.month, last.day)
        within = (
            (lambda d: a <= (d.month, d.day) <= b)
            if a <= b
            else (lambda d: (d.month, d.day) >= a or (d.month, d.day) <= b)
        )
        return {"yearly": f"{a[0]:02}-{a[1]:02}..{b[0]:02}-{b[1]:02}"}, _part(within, 0, 1440)
    if way == "weekly":
        first_day, days_long = draw(st.integers(0, 6)), draw(st.integers(0, 5))
        end = (start + length) % 1440
        crossed = days_long + (start + length) // 1440
        text = {
            "start": f"{WEEKDAYS[first_day]} {_clock(start)}",
            "end": f"{WEEKDAYS[(first_day + crossed) % 7]} {_clock(end)}",
        }
        total = days_long * 1440 + length

        def inside(wall: datetime) -> bool:
            since_monday = wall.weekday() * 1440 + wall.hour * 60 + wall.minute
            return (since_monday - first_day * 1440 - start) % 10_080 < total

        return text, inside
    begin = datetime.combine(near, time()) + timedelta(minutes=start)
    finish = begin + timedelta(minutes=length)
    return {
        "from": begin.isoformat(),
        "until": finish.isoformat(),
    }, lambda wall: begin <= wall < finish


# Nights with a clock change, and two without one.
NIGHTS = [
    (BERLIN, date(2026, 3, 29)), (BERLIN, date(2026, 10, 25)), ("America/New_York", date(2026, 11, 1)), ("Africa/Casablanca", date(2026, 3, 22)),
    ("Australia/Lord_Howe", date(2026, 4, 5)), ("Australia/Lord_Howe", date(2026, 10, 4)), ("Pacific/Apia", date(2011, 12, 30)),
    ("America/Nuuk", date(2026, 3, 28)), ("Asia/Kathmandu", date(2026, 1, 1)), ("UTC", date(2027, 12, 31)),
]  # fmt: skip


@given(st.data())
@settings(max_examples=12, phases=[Phase.generate], derandomize=True)
def test_a_calendar_is_closed_when_a_walk_over_its_minutes_says_so(data: st.DataObject) -> None:
    zone_name, near = data.draw(st.sampled_from(NIGHTS))
    zone = ZoneInfo(zone_name)
    chosen = data.draw(
        st.lists(
            st.tuples(windows(near), st.sampled_from(["blackout", "only"])), min_size=1, max_size=4
        )
    )
    calendars = [calendar(window, kind=kind, timezone=zone_name) for (window, _), kind in chosen]
    only = [inside for (_, inside), kind in chosen if kind == "only"]
    blackouts = [inside for (_, inside), kind in chosen if kind == "blackout"]

    def is_closed(instant: datetime) -> bool:
        wall = instant.astimezone(zone).replace(tzinfo=None)
        return any(inside(wall) for inside in blackouts) or (
            bool(only) and not any(inside(wall) for inside in only)
        )

    since = datetime(near.year, near.month, near.day, tzinfo=UTC) - timedelta(hours=18)
    instants = [since + timedelta(minutes=n) for n in range(2 * 1440)]
    walked = [is_closed(instant) for instant in instants]
    closures = Closures(calendars, instants[0], instants[-1] + timedelta(minutes=1))
    assert [closures.at(instant) is not None for instant in instants] == walked
    position = data.draw(st.integers(0, len(instants) - 1))
    found = closed(calendars, instants[position])
    assert (found is not None) == walked[position]
    if found is not None:
        opened = next(
            (
                instant
                for instant, shut in zip(instants[position:], walked[position:], strict=True)
                if not shut
            ),
            None,
        )
        assert (
            found.until == opened if opened else found.until is None or found.until > instants[-1]
        )


# --- what is refused


@pytest.mark.parametrize(
    ("window", "place", "words"),
    [
        ({}, (), "it says no time"),
        ({"dates": []}, ("dates",), "at least 1 item"),
        ({"dates": ["2026-02-30"]}, ("dates", 0), "not a date"),
        ({"dates": ["25.12.2026"]}, ("dates", 0), "such as 2026-12-25"),
        ({"dates": ["9999-12-31"]}, ("dates", 0), "the year 9999 is not one of 1970 to 2199"),
        ({"dates": [20261225]}, ("dates", 0), "not a date"),
        ({"dates": ["2026-12-25"] * 1_001}, ("dates",), "at most 1000 items"),
        ({"dates": ["2026-12-25"], "weekdays": ["mon"]}, (), "do not go together"),
        ({"weekdays": ["monday"]}, ("weekdays", 0), "'mon', 'tue'"),
        ({"weekdays": ["mon"], "start": "22:00"}, (), "start is there and end is not"),
        ({"weekdays": ["mon"], "start": "25:00", "end": "26:00"}, ("start",), "00:00 to 24:00"),
        ({"weekdays": ["mon"], "start": "9:00", "end": "10:00"}, ("start",), "such as 22:00"),
        ({"start": "22:00", "end": "22:00"}, (), "the same as start"),
        ({"start": "mon 00:00", "end": "sun 24:00"}, (), "all seven weekdays"),
        ({"start": "24:00", "end": "06:00"}, (), "write 00:00"),
        ({"start": "fri 22:00", "end": "06:00"}, (), "in both"),
        ({"start": "fri 22:00", "end": "mon 06:00", "dates": ["2026-12-25"]}, (), "stands alone"),
        ({"yearly": "02-30"}, ("yearly", 0), "no day 02-30"),
        ({"yearly": "Christmas"}, ("yearly", 0), "12-24..01-02"),
        ({"yearly": "12-24", "start": "10:00", "end": "11:00"}, (), "yearly takes no start"),
        ({"from": "2026-12-24"}, ("from",), "whole days are dates"),
        ({"from": "2026-13-24T10:00"}, ("from",), "not a time"),
        ({"from": "2026-12-24T18:00", "until": "2026-12-24T18:00"}, (), "later than from"),
        ({"from": "2026-12-24T18:00", "until": "2026-12-24T19:00Z"}, (), "both with an offset"),
        ({"from": "0001-01-01T00:00+23:59"}, ("from",), "not a time"),
        ({"color": 1}, ("color",), "Extra inputs"),
    ],
)
def test_a_bad_window_is_refused_with_its_place(
    window: dict[str, Any], place: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as wrong:
        CalendarDraft.model_validate(
            {"name": "x", "windows": [{"start": "10:00", "end": "11:00"}, window]}
        )
    assert wrong.value.errors()[0]["loc"] == ("windows", 1, *place)


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("../../etc/passwd", "not a time zone"),
        ("GMT+5", "not a time zone"),
        ("europe/berln", "Europe/Berlin"),
        ("", "at least 1"),
    ],
)
def test_a_zone_is_one_that_is_known(zone: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        calendar({"yearly": "12-25"}, timezone=zone)


LARGE = [
    {
        "name": f"w{n}",
        "weekdays": ["mon", "wed"],
        "start": f"{n % 24:02}:{n % 55:02}",
        "end": f"{n % 24:02}:{n % 55 + 4:02}",
    }
    for n in range(200)
]


@pytest.mark.parametrize("minutes", [1, 60, 24 * 60, 3 * 24 * 60])
@pytest.mark.parametrize(
    ("kind", "windows"),
    [("blackout", LARGE), ("only", LARGE), ("blackout", [{"from": "2020-01-01T00:00Z"}])],
    ids=["in", "out", "for ever"],
)
def test_many_instants_are_answered_as_one_by_one_for_a_part_of_the_cost(
    monkeypatch: pytest.MonkeyPatch, kind: str, windows: list[dict[str, Any]], minutes: int
) -> None:
    asked = [
        Calendar(
            CalendarDraft.model_validate(
                {"name": "c", "kind": kind, "windows": windows, "timezone": "Europe/Berlin"}
            )
        )
    ]
    instants = [
        datetime(2026, 3, 27, 22, tzinfo=UTC) + timedelta(minutes=minutes) * n for n in range(150)
    ]
    one_by_one = [closed(asked, instant) for instant in instants]
    laid_out = []

    class CountingClosures(Closures):
        """Count how often windows are computed."""

        def __init__(self, *given: Any) -> None:
            laid_out.append(given)
            super().__init__(*given)

    monkeypatch.setattr(calendars, "Closures", CountingClosures)
    together = Asked(asked)
    found = [together.at(instant) for instant in instants]
    assert [shut and shut.calendar for shut in found] == [
        shut and shut.calendar for shut in one_by_one
    ]
    assert [shut and shut.reason for shut in found] == [shut and shut.reason for shut in one_by_one]
    for shut, before in zip(found, one_by_one, strict=True):
        assert (shut is None) == (before is None)
        if shut is not None and before is not None:
            assert shut.until == before.until or before.until is None
    assert len(laid_out) <= 40, "one by one it is once or more for each"


def test_with_many_windows_it_does_not_look_so_far() -> None:
    many = [{"start": f"{hour:02}:{minute:02}", "end": f"{hour:02}:{minute + 15:02}" if minute < 45 else f"{hour + 1:02}:00"}
            for hour in range(24) for minute in (0, 15, 30, 45)]  # fmt: skip
    always = closed([calendar(*many)] * 4, at("2026-11-25T12:00"))
    assert always is not None
    assert (
        always.words
        == "closed by the calendar holidays (every day 12:00 to 12:15) with no end in sight"
    )


def test_there_are_only_so_many_parts_of_the_year_in_all() -> None:
    with pytest.raises(
        ValidationError, match="401 parts of the year in all windows together, the limit is 400"
    ):
        calendar(*[{"yearly": ["12-25"] * 100}] * 4, {"yearly": "12-26"})


def test_there_are_only_so_many_dates_in_all() -> None:
    dates = [str(date(2026, 1, 1) + timedelta(days=n)) for n in range(1_000)]
    with pytest.raises(
        ValidationError, match="5001 dates in all windows together, the limit is 5000"
    ):
        calendar(*[{"dates": dates}] * 5, {"dates": dates[:1]})


def test_what_is_written_comes_back_as_it_was_said() -> None:
    written = {
        "name": "holidays",
        "description": "",
        "timezone": BERLIN,
        "kind": "blackout",
        "windows": [
            {"name": "Christmas", "yearly": ["12-24..12-26"]},
            {"from": "2026-11-27T22:00:00", "until": "2026-11-28T06:00:00"},
            {"from": "2026-11-27T21:00:00Z"},
            {"weekdays": ["mon"], "start": "22:00", "end": "06:00"},
            {"dates": ["2026-12-31"]},
        ],
    }
    draft = CalendarDraft.model_validate(written)
    assert draft.data() == written
    assert CalendarDraft.model_validate(draft.data()) == draft
