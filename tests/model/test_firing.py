"""Outcomes of due times: late ones, misfire policies, paused schedules, closed calendars."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsjobs.model.firing import (
    CATCH_UPS_MAX,
    COUNTED_MAX,
    LATE_SECONDS,
    PENDING_MAX,
    SHOWN_MAX,
    FiringRule,
    FiringStatus,
    FiringVerdict,
    Round,
    ScheduleState,
    decide_due,
    execution_uuid,
)

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
PENDING, MISSED, SKIPPED = FiringStatus.PENDING, FiringStatus.MISSED, FiringStatus.SKIPPED


@dataclass
class Every:
    """A due time every so many seconds; `last`:

    their number. `jitter`: of a due time by its number.
    """

    seconds: int = 60
    last: int = 1_000_000_000
    jitter: tuple[int, ...] = (0,)
    asked: int = 0

    def number(self, instant: datetime) -> int:
        return (instant - FIRST) // timedelta(seconds=self.seconds)

    def next_after(self, instant: datetime) -> datetime | None:
        self.asked += 1
        nth = self.number(instant) + 1
        return FIRST + timedelta(seconds=nth * self.seconds) if nth < self.last else None

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        found: list[datetime] = []
        moment = self.next_after(after)
        while moment is not None and moment <= until and len(found) < limit:
            found.append(moment)
            moment = self.next_after(moment)
        return found

    def fire_at(self, due: datetime) -> datetime:
        return due + timedelta(seconds=self.jitter[self.number(due) % len(self.jitter)])


def decided(table: Every, late: float, **fields: object) -> Round:
    """Return the state of a schedule whose first unfired due time was so many seconds ago."""
    state = replace(ScheduleState(FIRST, table.fire_at(FIRST)), **fields)  # type: ignore[arg-type]
    return decide_due(table, state, FIRST + timedelta(seconds=late))


def counted(found: Round) -> Counter[str]:
    """Return the due times by status."""
    tally: Counter[str] = Counter()
    for verdict in found.verdicts:
        tally[verdict.status.value] += verdict.moments
    return tally


def at(nth: int, seconds: int = 60) -> datetime:
    return FIRST + timedelta(seconds=nth * seconds)


@pytest.mark.parametrize("misfire", ["skip", "run_once", "run_all"])
def test_a_moment_is_on_time_up_to_a_minute_whatever_the_policy(misfire: str) -> None:
    table = Every(3600)
    found = decided(table, LATE_SECONDS - 0.001, misfire=misfire)
    assert found == Round([FiringVerdict(FIRST, FIRST, PENDING)], at(1, 3600), at(1, 3600))
    late = decided(table, LATE_SECONDS, misfire=misfire).verdicts[0]
    assert late.status is (MISSED if misfire == "skip" else PENDING)
    assert late.catch_up is (misfire != "skip")


def test_what_was_missed_is_left_alone_by_skip() -> None:
    found = decided(Every(), 3 * 3600 + 5, misfire="skip")
    assert counted(found) == {"missed": 180, "pending": 1}
    assert found.verdicts[-1] == FiringVerdict(at(180), at(180), PENDING)
    assert (found.verdicts[0].due_at, found.verdicts[0].until_at, found.verdicts[0].moments) == (
        FIRST,
        at(79),
        80,
    )
    assert found.verdicts[0].reason == "it was not fired for 3 h 5 s, and misfire is skip"
    assert found.next_due_at == at(181)


def test_run_once_runs_the_latest_missed_moment_under_its_own_name() -> None:
    found = decided(Every(600), 3 * 3600 + 65, misfire="run_once")
    (run,) = [v for v in found.verdicts if v.status is PENDING]
    assert (run.due_at, run.catch_up) == (at(18, 600), True)
    assert counted(found) == {"missed": 18, "pending": 1}
    assert len(found.verdicts) == 19


def test_run_once_runs_nothing_that_is_older_than_the_window() -> None:
    found = decided(Every(86_400), 2 * 3600, misfire="run_once", misfire_window=3600.0)
    assert [(v.status, v.rule) for v in found.verdicts] == [(MISSED, FiringRule.MISFIRE)]
    assert (
        found.verdicts[0].reason
        == "it was not fired for 2 h, and misfire is run_once within 1 h only"
    )


def test_run_all_runs_what_is_inside_the_window_in_order() -> None:
    found = decided(Every(600), 3 * 3600 + 65, misfire="run_all", misfire_window=3600.0)
    run = [v for v in found.verdicts if v.status is PENDING]
    assert [v.due_at for v in run] == [at(n, 600) for n in range(13, 19)]
    assert all(v.catch_up for v in run)
    assert counted(found) == {"missed": 13, "pending": 6}


def test_run_all_runs_a_hundred_at_most_and_of_the_rest_a_hundred_are_told_one_by_one() -> None:
    found = decided(Every(), 3 * 86_400 + 65, misfire="run_all", misfire_window=86_400.0 * 7)
    run = [v for v in found.verdicts if v.status is PENDING and v.catch_up]
    assert len(run) == CATCH_UPS_MAX
    told = [v for v in found.verdicts if v.status is not PENDING]
    assert [v.moments >= COUNTED_MAX for v in told if v.until_at] == [True]
    assert sum(v.until_at is None for v in told) == SHOWN_MAX
    assert found.next_due_at == at(3 * 1440 + 2)


def test_a_downtime_of_three_days_costs_no_more_than_that_many_moments_are_counted() -> None:
    for seconds in (60, 1):
        table = Every(seconds)
        found = decided(table, 3 * 86_400.0, misfire="skip")
        assert table.asked < 4_000
        first, *others = found.verdicts
        assert first.moments >= COUNTED_MAX
        assert first.until_at is not None
        assert "more moments than are counted" in str(first.reason)
        late = [v for v in others if v.status is MISSED]
        assert len(late) == SHOWN_MAX
        assert others[-1].due_at > FIRST + timedelta(days=3, seconds=-seconds - 1)
        assert late[0].due_at == first.until_at + timedelta(seconds=seconds)


def test_moments_of_a_paused_schedule_are_skipped_late_or_not() -> None:
    found = decided(Every(), 300, enabled=False, paused_reason="the audit")
    assert {(v.status, v.rule, v.reason) for v in found.verdicts} == {
        (SKIPPED, FiringRule.PAUSED, "the schedule is paused: the audit")
    }
    assert counted(found) == {"skipped": 6}
    long = decided(Every(), 3 * 86_400, enabled=False)
    assert {v.status for v in long.verdicts} == {SKIPPED}


def test_what_a_calendar_closes_is_skipped_and_not_caught_up_with() -> None:
    closed = {at(3): "closed by the calendar holidays", at(5): "closed by the calendar nights"}
    found = decided(Every(), 301, misfire="run_once", closed=closed.get)
    assert [(v.status, v.rule) for v in found.verdicts[3:]] == [
        (SKIPPED, FiringRule.CALENDAR),
        (PENDING, None),
        (SKIPPED, FiringRule.CALENDAR),
    ]
    assert found.verdicts[4].catch_up
    assert found.verdicts[5].reason == "closed by the calendar nights"


def test_a_calendar_is_asked_about_the_moment_with_its_jitter_too() -> None:
    table = Every(3600, jitter=(30,))
    found = decided(table, 31, closed={FIRST + timedelta(seconds=30): "closed"}.get)
    assert found.verdicts[0].rule is FiringRule.CALENDAR


def test_with_jitter_a_moment_comes_when_its_jitter_is_over_and_is_late_from_then_on() -> None:
    table = Every(3600, jitter=(50,))
    assert decided(table, 50).verdicts == [
        FiringVerdict(FIRST, at(0) + timedelta(seconds=50), PENDING)
    ]
    assert decided(table, 50 + LATE_SECONDS - 1).verdicts[0].catch_up is False
    assert decided(table, 50).next_fire_at == at(1, 3600) + timedelta(seconds=50)


def test_no_moment_is_fired_before_an_earlier_one() -> None:
    table = Every(60, jitter=(100, 0))
    found = decided(table, 100)
    assert [v.due_at for v in found.verdicts] == [at(0), at(1)]
    assert [v.fire_at for v in found.verdicts] == [FIRST + timedelta(seconds=100)] * 2
    assert (found.next_due_at, found.next_fire_at) == (at(2), at(2) + timedelta(seconds=100))


def test_who_waits_already_leaves_room_for_no_more_than_a_hundred() -> None:
    found = decided(Every(10), 35, pending=PENDING_MAX - 2)
    assert [(v.status, v.rule) for v in found.verdicts] == [
        (PENDING, None),
        (PENDING, None),
        (SKIPPED, FiringRule.QUEUE_FULL),
        (SKIPPED, FiringRule.QUEUE_FULL),
    ]


def test_after_the_last_moment_there_is_no_next() -> None:
    found = decided(Every(3600, last=1), 5)
    assert found == Round([FiringVerdict(FIRST, FIRST, PENDING)], None, None)


def test_the_uuid_of_an_execution_is_the_moments_own_in_whatever_zone_it_is_given() -> None:
    schedule = UUID("01a213b7-54ed-77d1-b767-63938639546a")
    berlin = FIRST.astimezone(tz=None)
    assert execution_uuid(schedule, FIRST) == execution_uuid(schedule, berlin)
    assert execution_uuid(schedule, FIRST).version == 5
    assert execution_uuid(schedule, FIRST) != execution_uuid(schedule, at(1))


@given(
    seconds=st.sampled_from([1, 7, 60, 3600, 86_400]),
    late=st.floats(0, 4 * 86_400),
    misfire=st.sampled_from(["skip", "run_once", "run_all"]),
    window=st.sampled_from([1.0, 600.0, 86_400.0 * 10]),
    jitter=st.lists(st.integers(0, 200), min_size=1, max_size=3),
)
def test_every_moment_has_one_verdict_and_the_next_one_lies_behind_them(
    seconds: int, late: float, misfire: str, window: float, jitter: list[int]
) -> None:
    table = Every(seconds, jitter=tuple(jitter))
    now = table.fire_at(FIRST) + timedelta(seconds=late)
    found = decide_due(
        table,
        ScheduleState(FIRST, table.fire_at(FIRST), misfire=misfire, misfire_window=window),
        now,
    )
    after = FIRST - timedelta(seconds=seconds)
    for verdict in found.verdicts:
        if verdict.until_at is None:
            assert verdict.moments == 1
            assert verdict.due_at == after + timedelta(seconds=seconds)
        else:
            assert (
                verdict.moments <= table.number(verdict.until_at) - table.number(verdict.due_at) + 1
            )
        after = verdict.until_at or verdict.due_at
        assert verdict.fire_at <= now
    assert found.next_due_at == after + timedelta(seconds=seconds)
    assert found.next_fire_at is not None
    assert found.next_fire_at > now or table.fire_at(found.next_due_at) <= found.next_fire_at
    assert len(found.verdicts) <= 1 + CATCH_UPS_MAX + 2 * SHOWN_MAX + LATE_SECONDS
