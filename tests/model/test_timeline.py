"""The phases of a run's time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from opsjobs.api.execution_answers import render_phase
from opsjobs.model.execution import RunStatus, WaitingFor
from opsjobs.model.run_views import Acted, TargetName, TargetRun, timeline

LAUNCHED = datetime(2026, 11, 25, 9, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return LAUNCHED + timedelta(seconds=seconds)


WAITING = TargetRun(
    7,
    "u",
    1,
    TargetName("1", "web-1", "10.0.0.1"),
    RunStatus.WAITING,
    WaitingFor.ADMISSION,
    1,
    0,
    None,
    None,
    None,
    None,
    None,
)
RUNNING = replace(WAITING, status=RunStatus.RUNNING, waiting_for=None, started_at=at(2))
ENDED = replace(RUNNING, status=RunStatus.SUCCEEDED, finished_at=at(9))


def told(run: TargetRun, *acted: Acted) -> list[tuple[str, str | None, int | None]]:
    phases = [render_phase(phase) for phase in timeline(LAUNCHED, run, acted)]
    return [(phase["phase"], phase["action"], phase["duration_ms"]) for phase in phases]


def act(
    action: str, start: float, end: float | None, kind: str = "command", attempt: int = 1
) -> Acted:
    return Acted(7, action, kind, attempt, at(start), None if end is None else at(end))


def test_what_waits_is_in_the_queue_or_waits_for_a_slot() -> None:
    assert told(WAITING) == [("queue", None, None)]
    assert told(replace(WAITING, waiting_for=WaitingFor.SLOT)) == [("slot", None, None)]
    assert told(
        replace(WAITING, status=RunStatus.CANCELLED, waiting_for=None, finished_at=at(4))
    ) == [("queue", None, 4_000)]


def test_what_runs_connects_until_its_first_action_begins() -> None:
    assert told(RUNNING) == [("queue", None, 2_000), ("connect", None, None)]
    assert told(RUNNING, act("a", 3, None)) == [
        ("queue", None, 2_000),
        ("connect", None, 1_000),
        ("exec", "a", None),
    ]


def test_the_phases_of_a_run_that_has_ended_follow_each_other() -> None:
    assert told(
        ENDED, act("a", 3, 5), act("b", 5, 6, attempt=1), act("b", 6, 8, "file_transfer", attempt=2)
    ) == [
        ("queue", None, 2_000),
        ("connect", None, 1_000),
        ("exec", "a", 2_000),
        ("exec", "b", 1_000),
        ("transfer", "b", 2_000),
        ("commit", None, 1_000),
    ]


def test_a_login_that_was_waited_for_is_told_apart_from_the_way_there() -> None:
    entered = replace(act("a", 5, 6), auth_at=at(3), entered_at=at(4.5))
    assert told(RUNNING, entered, act("b", 6, 8)) == [
        ("queue", None, 2_000),
        ("connect", None, 1_000),
        ("auth", None, 1_500),
        ("exec", "a", 1_000),
        ("exec", "b", 2_000),
    ]


def test_a_login_that_another_run_began_counts_from_the_claim() -> None:
    entered = replace(act("a", 5, 6), auth_at=at(1), entered_at=at(4))
    assert told(RUNNING, entered)[1:3] == [("connect", None, 0), ("auth", None, 2_000)]


def test_clocks_that_differ_make_no_time_run_backwards() -> None:
    assert told(ENDED, act("a", 1, 10)) == [
        ("queue", None, 2_000),
        ("exec", "a", 9_000),
        ("commit", None, 0),
    ]


def test_an_unreachable_run_was_in_the_queue_only() -> None:
    assert told(replace(ENDED, status=RunStatus.UNREACHABLE)) == [("queue", None, 2_000)]
