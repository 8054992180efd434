"""A week counted by hour: load, peaks, closed due times, and what was left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from opsjobs.engine.firing.forecast import BUSIEST, COLLISIONS_SHOWN, HOURS, Collision, Week

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(**later: int) -> datetime:
    return MONDAY + timedelta(**later)


def collision(due_at: datetime) -> Collision:
    return Collision(
        {"id": 3, "name": "nightly"}, due_at, "freeze", "sale", due_at + timedelta(hours=2)
    )


def test_each_hour_has_its_load_its_targets_and_its_fullest_minute() -> None:
    week = Week(MONDAY, schedules=2)
    for minute in (0, 0, 30, 61):
        week.count(at(minutes=minute), targets=5)
    told = week.data()
    assert (told["from"], told["until"], len(told["hours"])) == (
        "2026-11-23T00:00:00.000Z",
        "2026-11-30T00:00:00.000Z",
        HOURS,
    )
    assert told["hours"][0] == {
        "from": "2026-11-23T00:00:00.000Z",
        "firings": 3,
        "closed": 0,
        "targets": 15,
        "peak": 2,
    }
    assert [hour["firings"] for hour in told["busiest"]] == [3, 1]
    assert told["words"] == (
        "4 firings of 2 schedules in the coming week; the busiest hour begins at 2026-11-23 00:00 UTC: 3 firings, at most 2 in one minute"
    )
    assert told["left_out"] == []


def test_what_jitter_carries_out_of_the_week_is_not_in_it() -> None:
    week = Week(MONDAY)
    week.count(week.until, targets=1)
    week.count(week.until - timedelta(seconds=1), targets=1)
    assert (week.firings, week.data()["hours"][-1]["firings"]) == (1, 1)


def test_the_busiest_hours_are_few_and_in_order_of_their_load() -> None:
    week = Week(MONDAY)
    for hour in range(20):
        for _ in range(hour):
            week.count(at(hours=hour), targets=0)
    assert [hour["firings"] for hour in week.data()["busiest"]] == list(range(19, 19 - BUSIEST, -1))


def test_a_closed_moment_is_no_load_and_the_list_of_them_ends() -> None:
    week = Week(MONDAY, schedules=1)
    for minute in range(COLLISIONS_SHOWN + 1):
        week.collide(collision(at(minutes=minute)), at(minutes=minute))
    told = week.data()
    assert (told["firings"], told["closed"], told["hours"][3]["closed"]) == (
        0,
        COLLISIONS_SHOWN + 1,
        21,
    )
    assert told["collisions"][0] == {
        "schedule": {"id": 3, "name": "nightly"},
        "due_at": "2026-11-23T00:00:00.000Z",
        "calendar": "freeze",
        "reason": "sale",
        "until": "2026-11-23T02:00:00.000Z",
    }
    assert told["left_out"] == ["not listed: 1 moment more that calendars close"]


def test_what_was_not_counted_is_said() -> None:
    week = Week(MONDAY, not_looked_at=1_200, cut=["a", "b", "c", "d", "e", "f"])
    assert week.data()["left_out"] == [
        "not looked at: 1,200 schedules, for there are more than are counted at once",
        "not counted to the end of the week: a, b, c, d, e …, with more moments than are counted of one schedule",
    ]
