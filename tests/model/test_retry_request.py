"""Retry requests: the runs that they select, and valid bodies."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from opsjobs.model.execution import CancelProof, ErrorCode, RunStatus
from opsjobs.model.retry_request import DiscardDraft, PastRun, RetryDraft, ReviveDraft, Which
from opsjobs.model.run_views import TargetName

WEB_1 = TargetName("1", "web-1", "10.0.0.1")


def run(
    status: RunStatus, code: ErrorCode | None = None, proof: CancelProof | None = None
) -> PastRun:
    return PastRun(1, 1, WEB_1, "default", status, code, proof)


@pytest.mark.parametrize(
    ("past", "which"),
    [
        (run(RunStatus.SUCCEEDED), set()),
        (run(RunStatus.RUNNING), set()),
        (run(RunStatus.FAILED, ErrorCode.NONZERO_EXIT), {Which.FAILED}),
        (run(RunStatus.UNREACHABLE, ErrorCode.DNS), {Which.UNREACHABLE}),
        (run(RunStatus.LOST, ErrorCode.LOST), {Which.LOST}),
        (run(RunStatus.TIMEOUT, ErrorCode.COMMAND_TIMEOUT), set()),
        (
            run(RunStatus.TIMEOUT, ErrorCode.COMMAND_TIMEOUT, CancelProof.NEVER_STARTED),
            {Which.NOT_STARTED},
        ),
        (run(RunStatus.CANCELLED, ErrorCode.CANCELLED, CancelProof.KILLED), set()),
        (
            run(RunStatus.CANCELLED, ErrorCode.CANCELLED, CancelProof.NEVER_STARTED),
            {Which.NOT_STARTED},
        ),
        (run(RunStatus.SKIPPED), {Which.NOT_STARTED}),
        (run(RunStatus.BLOCKED, ErrorCode.SAFETY_BLOCKED), {Which.NOT_STARTED}),
        (run(RunStatus.DEAD, ErrorCode.NONZERO_EXIT), {Which.FAILED}),
        (run(RunStatus.DEAD, ErrorCode.CONNECTION_REFUSED), {Which.UNREACHABLE}),
        (run(RunStatus.DEAD, ErrorCode.LOST), {Which.LOST}),
        (run(RunStatus.DEAD, ErrorCode.POISON), {Which.LOST}),
    ],
    ids=lambda given: f"{given.status} {given.error_code}" if isinstance(given, PastRun) else "",
)
def test_a_run_is_retried_by_how_it_ended(past: PastRun, which: set[Which]) -> None:
    if past.status.final and past.status is not RunStatus.SUCCEEDED:
        which = which | {Which.UNSUCCESSFUL}
    assert {w for w in Which if past.fits(w)} == which


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"which": "failed", "targets": ["1"]},
        {"which": "all"},
        {"targets": []},
        {"targets": [True]},
    ],
)
def test_a_retry_says_one_thing(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetryDraft.model_validate(body)


def test_ids_of_targets_may_be_numbers() -> None:
    assert RetryDraft.model_validate({"targets": [7, "web-1"]}).targets == ["7", "web-1"]
    found = ReviveDraft.model_validate({"filter": {"job": 7, "target": 3}}).filter
    assert found is not None
    assert (found.job, found.target) == ("7", "3")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": [1], "filter": {}},
        {"ids": []},
        {"ids": [0]},
        {"filter": {"status": "failed"}},
        {"filter": {"error": "bad luck"}},
        {"filter": {"since": "2026-11-25T09:00:00"}},
        {"filter": {"nonsense": 1}},
    ],
)
def test_what_is_revived_is_said_by_ids_or_by_a_filter(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReviveDraft.model_validate(body)


def test_who_discards_says_why() -> None:
    with pytest.raises(ValidationError):
        DiscardDraft.model_validate({"ids": [1]})
    assert (
        DiscardDraft.model_validate({"ids": [1], "reason": "the machine is gone"}).reason
        == "the machine is gone"
    )
