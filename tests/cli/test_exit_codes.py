"""Exit codes, as scripts rely on them."""

from __future__ import annotations

import pytest

from opsjobs.cli.errors import get_execution_exit_code, get_refusal_exit_code


@pytest.mark.parametrize(
    ("status", "interrupted", "code"),
    [
        ("completed", False, 0),
        ("completed", True, 0),
        ("partial", False, 3),
        ("failed", False, 3),
        ("cancelled", False, 3),
        ("rejected", False, 3),
        ("skipped", False, 3),
        ("timeout", False, 124),
        ("cancelled", True, 130),
    ],
)
def test_execution_statuses_have_exit_codes(status: str, interrupted: bool, code: int) -> None:
    assert get_execution_exit_code(status, interrupted=interrupted) == code


@pytest.mark.parametrize(
    ("status", "problem", "code"),
    [
        (401, "unauthorised", 5),
        (403, "forbidden", 5),
        (404, "job_not_found", 4),
        (409, "name_taken", 6),
        (412, "stale", 6),
        (422, "invalid", 2),
        (422, "unknown_target", 4),
        (422, "no_targets", 4),
        (422, "safety_blocked", 5),
        (429, "too_many", 1),
        (500, "internal", 1),
        (503, "", 1),
    ],
)
def test_refusals_have_exit_codes(status: int, problem: str, code: int) -> None:
    assert get_refusal_exit_code(status, problem) == code
