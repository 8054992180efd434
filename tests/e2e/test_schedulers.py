"""Five schedulers share one database; some are frozen, some killed, the clock runs sixty times as fast: each due moment runs once.

TESTS_SCHEDULE_MINUTES is how many minutes of that clock are played: 6 by default; 300 (five hours in five minutes) is for by hand.
TESTS_SCHEDULES_TIMES multiplies the schedules that nobody fires for hours and days: 1 by default, some twenty; 10 for by hand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from e2e.expected_firings import (
    COUNTED_MAX,
    HOUR,
    MINUTE,
    Entry,
    ExpectedFirings,
    Missed,
    Outage,
    every,
)
from e2e.processes import Json, wait_until
from e2e.scheduler_cluster import SCHEDULERS, SchedulerCluster
from e2e.scheduler_cluster import scheduler_cluster as open_scheduler_cluster

MINUTES = int(os.environ.get("TESTS_SCHEDULE_MINUTES", "6"))
TIMES = int(os.environ.get("TESTS_SCHEDULES_TIMES", "1"))
FACTOR = 60
QUIET = 3 * MINUTE
"""After the last due time of a silence: all of them are late."""

FIRINGS = "select due_at, moments, status, reason, execution_id from schedule_executions where schedule_id = %s order by due_at"

Deed = Callable[[SchedulerCluster], object]


@pytest.fixture(scope="module")
def _clockwork() -> Iterator[SchedulerCluster]:
    with open_scheduler_cluster() as found:
        yield found


@pytest.fixture
def scheduler_cluster(_clockwork: SchedulerCluster) -> Iterator[SchedulerCluster]:
    """Yield the service with five schedulers; then check every invariant."""
    _clockwork.heal()
    yield _clockwork
    _clockwork.heal()
    _clockwork.settle()
    if _clockwork.shift() < timedelta(
        days=1
    ):  # events are deleted after a day, and the checker would miss them
        _clockwork.invariants.check()
    complaints = [line for line in _clockwork.complaints() if "failpoint" not in line]
    assert not complaints, "\n".join(complaints)


# --- what is due


def entries(begin: datetime, end: datetime) -> Iterator[Entry]:
    """Create schedules of every kind, with known minutes.

    A delay of a second of real time is a delay of a minute of theirs.
    """
    span = {"start_at": begin.isoformat(), "end_at": end.isoformat(), "misfire_window": "12h"}
    patient = {**span, "misfire": "run_all", "overlap": "allow"}
    minutes = every(1, begin, end)
    for n, zone in enumerate(("UTC", "Asia/Kathmandu", "America/St_Johns"), start=1):
        yield Entry(
            f"minute-{n}",
            {"type": "cron", "cron": "* * * * *", "timezone": zone, **patient},
            minutes,
        )
    yield Entry(
        "jittered",
        {"type": "cron", "cron": "* * * * *", "timezone": "UTC", "jitter": "20s", **patient},
        minutes,
    )
    yield Entry(
        "interval",
        {
            "type": "recurring",
            "every": "minutes",
            "interval": 2,
            "anchor": "2026-01-01T00:00:00Z",
            **patient,
        },
        every(2, begin, end),
    )
    yield Entry(
        "one-by-one",
        {"type": "cron", "cron": "*/2 * * * *", "timezone": "UTC", **patient, "overlap": "queue"},
        every(2, begin, end),
    )
    impatient = {**span, "misfire": "skip", "overlap": "skip"}
    yield Entry(
        "impatient",
        {"type": "cron", "cron": "* * * * *", "timezone": "UTC", **impatient},
        minutes,
        all_run=False,
    )
    for n in range(1, 4):
        at = begin + (end - begin) * n / 4
        yield Entry(
            f"once-{n}",
            {"type": "once", "at": at.isoformat(), "misfire": "run_once", "misfire_window": "12h"},
            [at],
        )


# --- what happens meanwhile


def freeze(*numbers: int) -> Deed:
    return lambda on: on.freeze(*named(numbers))


def thaw(*numbers: int) -> Deed:
    return lambda on: on.thaw(*named(numbers))


def kill(*numbers: int) -> Deed:
    return lambda on: on.kill(*named(numbers))


def start(*numbers: int, **settings: str) -> Deed:
    return lambda on: on.start_dead(*named(numbers), **settings)


def named(numbers: Iterable[int]) -> list[str]:
    return [f"scheduler-{n}" for n in numbers]


# By the minute of each ten. While all are frozen or just starting, the worker does their work.
DEEDS: Mapping[int, tuple[Deed, ...]] = {
    1: (freeze(1, 2),),
    2: (kill(3),),
    3: (thaw(1, 2), start(3, OPSJOBS_FAILPOINT="firing.launch:error_after@3,fire:kill@9")),
    4: (freeze(1, 2, 4, 5),),
    5: (kill(4),),
    6: (
        thaw(1, 2, 5),
        start(4, OPSJOBS_FAILPOINT="firing.prepare:sleep:1.5@2,firing.launch:kill@5"),
    ),
    7: (kill(1),),
    8: (freeze(2, 5),),
    9: (thaw(2, 5), start(1, 3)),
}


def play(on: SchedulerCluster, begin: datetime, minutes: int) -> None:
    """Kill and freeze, minute by minute, until all are over."""
    for minute in range(1, minutes + 1):
        wait_until(lambda at=begin + minute * MINUTE: on.now() >= at, f"minute {minute}")  # type: ignore[misc]
        for deed in DEEDS.get(minute % 10, ()):
            deed(on)


def season(on: SchedulerCluster, mark: str, minutes: int) -> Json:
    """All due times of so many minutes of a fast clock, and their outcomes."""
    begin = (on.now() + 2 * MINUTE).astimezone(UTC).replace(second=30, microsecond=0)
    end = begin + minutes * MINUTE
    expected = ExpectedFirings(on, mark, on.names(1, 1))
    for entry in entries(begin, end):
        expected.add(entry)
    left = begin - on.now()
    assert left > timedelta(0), "making the schedules took minutes"
    on.turn(f"{left.total_seconds()} seconds")
    with on.fast(FACTOR):
        play(on, begin, minutes)
        on.heal_processes()
        wait_until(lambda: on.now() > end + MINUTE, "it is over")
    expected.settled()
    seen = expected.check()
    sys.stdout.write(f"{mark}: {dict(seen)}; {expected.late()}\n")
    return dict(seen)


# --- the tests


def all_run(minutes: int) -> int:
    """Return how many due times of `entries` may not be left out."""
    return 4 * minutes + 2 * (minutes // 2) + 3


@pytest.mark.long
def test_each_firing_runs_once_although_schedulers_freeze_or_die(
    scheduler_cluster: SchedulerCluster,
) -> None:
    seen = season(scheduler_cluster, "season", MINUTES)
    assert seen["triggered"] >= all_run(MINUTES)


def test_without_redis_each_firing_runs_once(scheduler_cluster: SchedulerCluster) -> None:
    scheduler_cluster.stop_redis()
    minutes = MINUTES * 2 // 3
    seen = season(scheduler_cluster, "silent-season", minutes)
    assert not scheduler_cluster.valkey.running
    assert seen["triggered"] >= all_run(minutes)


def silenced(silence: Outage) -> Iterator[Missed]:
    """Create schedules of every policy, with the outcome that each must have."""
    often, often_due = silence.cron(15, offset=2)
    hourly, hourly_due = silence.cron(HOUR, offset=40)
    minutely, minutely_due = silence.cron(1)
    span = {**silence.span, "type": "cron"}
    for n in range(8 * TIMES):
        yield Missed(f"skip-{n}", {**span, "cron": often, "misfire": "skip"}, often_due, 0)
    for n in range(8 * TIMES):
        yield Missed(
            f"once-{n}",
            {**span, "cron": often, "misfire": "run_once", "misfire_window": "1h"},
            often_due,
            1,
        )
    for n in range(3 * TIMES):
        yield Missed(
            f"too-late-{n}",
            {**span, "cron": hourly, "misfire": "run_once", "misfire_window": "30m"},
            hourly_due,
            0,
        )
    for n in range(2 * TIMES):
        yield Missed(
            f"all-{n}",
            {**span, "cron": often, "misfire": "run_all", "misfire_window": "1h"},
            often_due,
            4,
        )
    for n in range(TIMES):
        yield Missed(
            f"some-{n}",
            {**span, "cron": hourly, "misfire": "run_all", "misfire_window": "150m"},
            hourly_due,
            2,
        )
    if TIMES > 1 and len(minutely_due) > COUNTED_MAX:
        yield Missed(
            "limit",
            {**span, "cron": minutely, "misfire": "run_all", "misfire_window": "7d"},
            minutely_due,
            100,
        )


@pytest.mark.parametrize("hours", [3, 72])
def test_after_an_outage_each_misfire_policy_applies_and_firings_on_time_do_not_wait(
    scheduler_cluster: SchedulerCluster, hours: int
) -> None:
    begin = (scheduler_cluster.now() + 2 * MINUTE).astimezone(UTC).replace(second=30, microsecond=0)
    silence = Outage(begin, begin + timedelta(hours=hours))
    wakes = silence.end + QUIET
    expected = ExpectedFirings(scheduler_cluster, f"silence-{hours}", scheduler_cluster.names(1, 1))
    missed = {expected.add(Entry(it.name, it.body, it.moments)): it for it in silenced(silence)}
    # These are due while the others catch up; with a delay of a minute they would be missed.
    prompt = {
        "type": "cron",
        "cron": "*/2 * * * * *",
        "timezone": "UTC",
        "misfire": "skip",
        "overlap": "allow",
    }
    span = {"start_at": wakes.isoformat(), "end_at": (wakes + timedelta(seconds=7)).isoformat()}
    punctual = [expected.add(Entry(f"punctual-{n}", {**prompt, **span}, [])) for n in range(5)]
    scheduler_cluster.freeze("worker-1", *SCHEDULERS)
    scheduler_cluster.turn(f"{(wakes - scheduler_cluster.now()).total_seconds()} seconds")
    scheduler_cluster.thaw("worker-1", *SCHEDULERS)
    wait_until(
        lambda: scheduler_cluster.now() > wakes + timedelta(seconds=8),
        "the punctual ones have been due",
    )
    expected.settled()
    for schedule, it in missed.items():
        it.check(scheduler_cluster.rows(FIRINGS, schedule))
    for schedule in punctual:
        rows = scheduler_cluster.rows(FIRINGS, schedule)
        assert len(rows) >= 3
        assert {row["status"] for row in rows} == {"triggered"}, rows
