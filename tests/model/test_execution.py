"""States, allowed transitions, and the status of an execution from its runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opsjobs.model.execution import (
    FINAL_RUN_STATUSES,
    MOVES,
    CancelProof,
    ErrorCode,
    ExecutionStatus,
    RunStatus,
    moment,
    verdict,
)

COUNTS = some.dictionaries(some.sampled_from(FINAL_RUN_STATUSES), some.integers(0, 3))


def test_what_has_ended_moves_no_more_and_everything_else_can_end() -> None:
    assert set(MOVES) == set(RunStatus)
    for status, moves in MOVES.items():
        assert status.final == (not moves)
        assert status not in moves
    assert MOVES[RunStatus.RUNNING] > set(FINAL_RUN_STATUSES)
    assert RunStatus.SUCCEEDED not in MOVES[RunStatus.WAITING]


@pytest.mark.parametrize(
    ("counts", "cancel_asked", "expected"),
    [
        ({}, False, "completed"),
        ({}, True, "completed"),
        ({"succeeded": 2}, False, "completed"),
        ({"succeeded": 2}, True, "completed"),
        ({"succeeded": 1, "cancelled": 1}, True, "cancelled"),
        ({"succeeded": 1, "failed": 1}, False, "partial"),
        ({"failed": 1, "cancelled": 1}, True, "cancelled"),
        ({"failed": 2}, True, "failed"),
        ({"timeout": 2}, False, "timeout"),
        ({"timeout": 1, "lost": 1}, False, "failed"),
        ({"unreachable": 1}, False, "failed"),
    ],
)
def test_the_verdict_says_what_a_person_would(
    counts: dict[str, int], cancel_asked: bool, expected: str
) -> None:
    given_counts = {RunStatus(name): n for name, n in counts.items()}
    assert verdict(given_counts, cancel_asked=cancel_asked) is ExecutionStatus(expected)


@given(COUNTS, some.booleans())
def test_the_verdict_is_final_and_completed_means_that_all_succeeded(
    counts: dict[RunStatus, int], cancel_asked: bool
) -> None:
    found = verdict(counts, cancel_asked=cancel_asked)
    assert found.final
    assert (found is ExecutionStatus.COMPLETED) == (
        sum(counts.values()) == counts.get(RunStatus.SUCCEEDED, 0)
    )
    if found is ExecutionStatus.CANCELLED:
        assert cancel_asked


@given(some.sampled_from(ErrorCode))
def test_every_error_ends_a_run_and_only_lost_output_as_a_success(code: ErrorCode) -> None:
    assert code.run_status.final
    succeeded = code.run_status is RunStatus.SUCCEEDED
    assert succeeded == (code is ErrorCode.OUTPUT_INCOMPLETE), "the exit status is known to be good"


def test_unknown_is_never_called_unreachable() -> None:
    assert ErrorCode.LOST.run_status is RunStatus.LOST
    assert ErrorCode.CONNECTION_LOST.run_status is RunStatus.UNREACHABLE
    assert {p.value for p in CancelProof} == {
        "never_started",
        "killed",
        "already_finished",
        "unreachable",
    }


def test_moments_are_spelt_in_utc_with_milliseconds() -> None:
    assert moment(datetime(2026, 1, 2, 3, 4, 5, 6_999, UTC)) == "2026-01-02T03:04:05.006Z"
    assert moment(None) is None
