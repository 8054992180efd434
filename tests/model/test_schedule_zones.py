"""Clock changes: twelve zones at both changes, computed by hand.

Random schedules are compared with a walk minute by minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.schedule.timetable import Timetable, timetable
from opsjobs.model.time_zones import tzdata_version, zone, zone_names

UUID_1 = UUID("0199f3f0-7c1e-7a53-9c4b-0123456789ab")
CREATED = datetime(2010, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def table(**body: Any) -> Timetable:
    return timetable(ScheduleDraft.model_validate(body), uuid=UUID_1, created_at=CREATED)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# zone, local time of the schedule (every day), when the clock jumps, and the due times within
# twelve hours of that
GAPS = [
    # 2025-03-30 02:00 +01 -> 03:00 +02
    ("Europe/Berlin", "02:30", "2025-03-30T01:00"),
    # 2025-03-09 02:00 -05 -> 03:00 -04
    ("America/New_York", "02:30", "2025-03-09T07:00"),
    # 2025-10-05 02:00 +10:30 -> 02:30 +11, half an hour
    ("Australia/Lord_Howe", "02:15", "2025-10-04T15:30"),
    # 2025-04-06 02:00 +00 -> 03:00 +01, after Ramadan
    ("Africa/Casablanca", "02:30", "2025-04-06T02:00"),
    # 2024-03-30 23:00 -02 -> 2024-03-31 00:00 -01
    ("America/Nuuk", "23:30", "2024-03-31T01:00"),
    # 2025-03-30 03:00 +02 -> 04:00 +03
    ("Europe/Kyiv", "03:30", "2025-03-30T01:00"),
    # 2025-09-28 02:45 +12:45 -> 03:45 +13:45
    ("Pacific/Chatham", "03:15", "2025-09-27T14:00"),
    # 2025-03-30 01:00 +00 -> 03:00 +02, two hours
    ("Antarctica/Troll", "02:30", "2025-03-30T01:00"),
    # 2024-04-26 00:00 +02 -> 01:00 +03
    ("Africa/Cairo", "00:30", "2024-04-25T22:00"),
    # 2025-03-09 00:00 -05 -> 01:00 -04
    ("America/Havana", "00:30", "2025-03-09T05:00"),
    # 2018-11-04 00:00 -03 -> 01:00 -02
    ("America/Sao_Paulo", "00:30", "2018-11-04T03:00"),
]
FOLDS = [
    # 2025-10-26 03:00 +02 -> 02:00 +01
    ("Europe/Berlin", "02:30", "2025-10-26T00:30", "2025-10-26T01:30"),
    # 2025-11-02 02:00 -04 -> 01:00 -05
    ("America/New_York", "01:30", "2025-11-02T05:30", "2025-11-02T06:30"),
    # 2025-04-06 02:00 +11 -> 01:30 +10:30
    ("Australia/Lord_Howe", "01:45", "2025-04-05T14:45", "2025-04-05T15:15"),
    # 2012-04-01 04:00 +14 -> 03:00 +13
    ("Pacific/Apia", "03:30", "2012-03-31T13:30", "2012-03-31T14:30"),
    # 2025-02-23 03:00 +01 -> 02:00 +00, before Ramadan
    ("Africa/Casablanca", "02:30", "2025-02-23T01:30", "2025-02-23T02:30"),
    # 2024-10-27 00:00 -01 -> 2024-10-26 23:00 -02
    ("America/Nuuk", "23:30", "2024-10-27T00:30", "2024-10-27T01:30"),
    # 2025-10-26 04:00 +03 -> 03:00 +02
    ("Europe/Kyiv", "03:30", "2025-10-26T00:30", "2025-10-26T01:30"),
    # 2025-04-06 03:45 +13:45 -> 02:45 +12:45
    ("Pacific/Chatham", "03:15", "2025-04-05T13:30", "2025-04-05T14:30"),
    # 2025-10-26 03:00 +02 -> 01:00 +00, two hours
    ("Antarctica/Troll", "02:30", "2025-10-26T00:30", "2025-10-26T02:30"),
    # 2024-11-01 00:00 +03 -> 2024-10-31 23:00 +02
    ("Africa/Cairo", "23:30", "2024-10-31T20:30", "2024-10-31T21:30"),
    # 2025-11-02 01:00 -04 -> 00:00 -05
    ("America/Havana", "00:30", "2025-11-02T04:30", "2025-11-02T05:30"),
    # 2019-02-17 00:00 -02 -> 2019-02-16 23:00 -03
    ("America/Sao_Paulo", "23:30", "2019-02-17T01:30", "2019-02-17T02:30"),
]


def both_kinds(name: str, at: str, **more: str) -> list[Timetable]:
    """Return schedules for the same time of every day:

    a cron expression and a recurring schedule.
    """
    hour, minute = at.split(":")
    daily = table(type="recurring", every="daily", time=at, timezone=name, **more)
    return [
        table(type="cron", cron=f"{int(minute)} {int(hour)} * * *", timezone=name, **more),
        daily,
    ]


def around(found: Timetable, moment: datetime) -> list[datetime]:
    return found.between(moment - timedelta(hours=12), moment + timedelta(hours=12), 10)


@pytest.mark.parametrize(("name", "at", "jump"), GAPS, ids=lambda v: v.split("/")[-1])
def test_what_becomes_of_a_label_that_does_not_exist(name: str, at: str, jump: str) -> None:
    moment = utc(jump)
    for found in both_kinds(name, at):
        assert around(found, moment) == [moment]
    for found in both_kinds(name, at, dst_gap="skip"):
        assert around(found, moment) == []
        assert found.next_after(moment) is not None


def test_apia_has_no_30th_of_december_2011() -> None:
    # 2011-12-29 24:00 -10 -> 2011-12-31 00:00 +14
    jump = utc("2011-12-30T10:00")
    before, after = utc("2011-12-29T12:30"), utc("2011-12-30T12:30")
    for found in both_kinds("Pacific/Apia", "02:30"):
        assert found.between(before - MINUTE, after, 10) == [before, jump, after]
    for found in both_kinds("Pacific/Apia", "02:30", dst_gap="skip"):
        assert found.between(before - MINUTE, after, 10) == [before, after]
    friday = {
        "type": "recurring",
        "every": "weekly",
        "weekdays": ["fri"],
        "time": "02:30",
        "timezone": "Pacific/Apia",
    }
    assert table(**friday).between(before, after, 10) == [jump]
    assert table(**friday, dst_gap="skip").next_after(before) == utc("2012-01-05T12:30")


@pytest.mark.parametrize(("name", "at", "first", "second"), FOLDS, ids=lambda v: v.split("/")[-1])
def test_what_becomes_of_a_label_that_exists_twice(
    name: str, at: str, first: str, second: str
) -> None:
    early, late = utc(first), utc(second)
    for found in both_kinds(name, at):
        assert around(found, early) == [early]
        assert found.next_after(early) == found.next_after(late)
    for found in both_kinds(name, at, dst_fold="twice"):
        assert around(found, early) == [early, late]


def test_a_local_time_is_one_instant_also_when_clocks_jump() -> None:
    once = {"type": "once", "timezone": "Europe/Berlin"}
    assert table(**once, local_time="2025-03-30T02:30:00").next_after(CREATED) == utc(
        "2025-03-30T01:00"
    )
    assert table(**once, local_time="2025-10-26T02:30:00").between(
        CREATED, utc("2030-01-01"), 5
    ) == [utc("2025-10-26T00:30")]


def test_labels_that_lie_in_one_gap_are_one_moment_after_it() -> None:
    jump = utc("2025-03-30T01:00")
    berlin = {"type": "cron", "timezone": "Europe/Berlin"}
    assert around(table(**berlin, cron="0,15,30,45 2 * * *"), jump) == [jump]
    # 03:00 is a due time of its own, and the same instant.
    assert around(table(**berlin, cron="30 2,3 * * *"), jump) == [jump, jump + 30 * MINUTE]
    assert around(table(**berlin, cron="0 2,3 * * *"), jump) == [jump]


def test_a_wildcard_in_minute_or_hour_runs_on_real_time() -> None:
    berlin = {
        "type": "cron",
        "timezone": "Europe/Berlin",
        "dst_gap": "run_after",
        "dst_fold": "once",
    }
    spring, autumn = utc("2025-03-30T00:00"), utc("2025-10-26T00:00")
    every_hour = table(**berlin, cron="30 * * * *")
    for midnight in (spring, autumn):
        assert every_hour.between(midnight, midnight + timedelta(hours=3), 9) == [
            midnight + m * MINUTE for m in (30, 90, 150)
        ]
    in_the_second_hour = table(**berlin, cron="*/30 2 * * *")
    assert in_the_second_hour.between(spring, spring + timedelta(hours=12), 9) == []
    assert in_the_second_hour.between(autumn - MINUTE, autumn + timedelta(hours=12), 9) == [
        autumn + m * MINUTE for m in (0, 30, 60, 90)
    ]
    hashed = table(**berlin, cron="H/30 2 * * *")
    assert len(hashed.between(autumn - MINUTE, autumn + timedelta(hours=12), 9)) == 4
    assert hashed.between(spring, spring + timedelta(hours=12), 9) == []


def test_intervals_count_real_time() -> None:
    six = table(
        type="recurring",
        every="hours",
        interval=6,
        anchor="2025-10-25T22:00:00Z",
        timezone="Europe/Berlin",
    )
    assert six.between(utc("2025-10-25T22:00"), utc("2025-10-26T22:00"), 9) == [
        utc(t)
        for t in ("2025-10-26T04:00", "2025-10-26T10:00", "2025-10-26T16:00", "2025-10-26T22:00")
    ]
    assert not six.wall


def test_a_rule_all_of_whose_days_are_skipped_ends() -> None:
    # 02:30 on the last Sunday in March, which Berlin does not have; "run_after" never skips it
    body = {"type": "cron", "cron": "30 2 * 3 SUNL", "timezone": "Europe/Berlin"}
    assert table(**body).next_after(utc("2025-01-01")) == utc("2025-03-30T01:00")
    assert table(**body, dst_gap="skip").next_after(utc("2025-01-01")) is None


def test_every_zone_can_be_asked() -> None:
    assert {"UTC", "Europe/Berlin", "US/Eastern", "Etc/GMT+5"} <= zone_names()
    at = utc("2026-06-01")
    assert all(at.astimezone(zone(name)).utcoffset() is not None for name in zone_names())
    assert len(tzdata_version()) == 5
    assert tzdata_version() >= "2025b"


# --- compared with a walk


@dataclass(frozen=True, slots=True)
class Rule:
    """A schedule written out: its due times, and its body."""

    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int]
    body: dict[str, Any]
    real: bool = False

    def shows(self, label: datetime) -> bool:
        return (
            label.minute in self.minutes
            and label.hour in self.hours
            and label.weekday() in self.weekdays
        )


ALL_DAYS = frozenset(range(7))
NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
some_minutes = st.frozensets(
    st.sampled_from([0, 1, 15, 29, 30, 31, 44, 45, 59]), min_size=1, max_size=4
)
some_hours = st.frozensets(st.sampled_from([0, 1, 2, 3, 4, 12, 23]), min_size=1, max_size=4)
some_days = st.one_of(st.just(ALL_DAYS), st.frozensets(st.integers(0, 6), min_size=1, max_size=5))


def listed(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    minutes, hours, days = draw(some_minutes), draw(some_hours), draw(some_days)
    kind = draw(st.sampled_from(["cron", "every minute", "every hour", "weekly"]))
    cron_days = "*" if days == ALL_DAYS else listed(frozenset((d + 1) % 7 for d in days))
    if kind == "every minute":
        step = draw(st.sampled_from([1, 7, 15]))
        body = {"type": "cron", "cron": f"*/{step} {listed(hours)} * * {cron_days}"}
        return Rule(frozenset(range(0, 60, step)), hours, days, body, real=True)
    if kind == "every hour":
        body = {"type": "cron", "cron": f"{listed(minutes)} * * * {cron_days}"}
        return Rule(minutes, frozenset(range(24)), days, body, real=True)
    if kind == "weekly":
        minute, hour = min(minutes), min(hours)
        body = {
            "type": "recurring",
            "every": "weekly",
            "time": f"{hour:02}:{minute:02}",
            "weekdays": [NAMES[d] for d in days],
        }
        return Rule(frozenset({minute}), frozenset({hour}), days, body)
    return Rule(
        minutes,
        hours,
        days,
        {"type": "cron", "cron": f"{listed(minutes)} {listed(hours)} * * {cron_days}"},
    )


def walk(
    rule: Rule, name: str, begin: datetime, end: datetime, *, gap: str, fold: str
) -> list[datetime]:
    """Return every due time in a range, by looking at a clock each minute."""
    rules, due = zone(name), []
    furthest = before = begin.astimezone(rules).replace(tzinfo=None)
    instant = begin + MINUTE
    while instant <= end:
        label = instant.astimezone(rules).replace(tzinfo=None)
        again = label <= furthest
        left_out = (before + n * MINUTE for n in range(1, int((label - before) / MINUTE)))
        shown = rule.shows(label) and (rule.real or fold == "twice" or not again)
        moved = (
            not rule.real and gap == "run_after" and not again and any(map(rule.shows, left_out))
        )
        if shown or moved:
            due.append(instant)
        before, furthest = label, max(furthest, label)
        instant += MINUTE
    return due


CHANGES = [(name, utc(at)) for name, _, at in GAPS] + [(name, utc(at)) for name, _, at, _ in FOLDS]
CHANGES.append(("Pacific/Apia", utc("2011-12-30T10:00")))


@settings(max_examples=25)
@given(
    rule=rules(),
    change=st.sampled_from(CHANGES),
    gap=st.sampled_from(["run_after", "skip"]),
    fold=st.sampled_from(["once", "twice"]),
    minutes=st.lists(st.integers(-180, 180), min_size=5, max_size=5),
)
def test_a_walk_by_minutes_finds_the_same_moments(
    rule: Rule, change: tuple[str, datetime], gap: str, fold: str, minutes: list[int]
) -> None:
    name, at = change
    begin, end = at - timedelta(hours=25), at + timedelta(hours=15)
    found = table(**rule.body, timezone=name, dst_gap=gap, dst_fold=fold)
    due = walk(rule, name, begin, end, gap=gap, fold=fold)
    assert found.between(begin, end, 10_000) == due
    for offset in minutes:
        asked = at + offset * MINUTE + timedelta(seconds=offset % 60, microseconds=offset % 7)
        expected = next((moment for moment in due if moment > asked), None)
        if expected is not None:
            assert found.next_after(asked) == expected
