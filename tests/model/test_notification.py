"""Rules of notifications: what they may say, and which event of an execution's end they name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.notification import (
    JobOutcome,
    NotificationEvent,
    NotificationRule,
    events_of,
    outcome_of,
)

RULE = {"channel": "email", "to": ["ada@example.org"]}


def rule(**fields: Any) -> NotificationRule:
    return NotificationRule.model_validate({**RULE, **fields})


def test_a_rule_names_failures_and_recoveries_unless_it_says_otherwise() -> None:
    made = rule()
    assert made.on == [NotificationEvent.FAILED, NotificationEvent.RECOVERED]
    assert NotificationRule.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("body", "code", "at"),
    [
        ({"to": ["ada"]}, "not_an_address", ["to", 0]),
        ({"to": ["ada@example.org", "a b@example.org"]}, "not_an_address", ["to", 1]),
        ({"to": ["ada@example.org,ben@example.org"]}, "not_an_address", ["to", 0]),
        ({"to": ["zoë@example.org"]}, "not_an_address", ["to", 0]),
        ({"channel_id": "3"}, "not_of_this_type", ["channel_id"]),
        ({"subject": "${job.nam}"}, "unknown_name", []),
        ({"text": "${}"}, "unknown_name", []),
    ],
)
def test_what_a_rule_may_not_say_is_refused_at_its_place(
    body: dict[str, Any], code: str, at: list[object]
) -> None:
    with pytest.raises(ValidationError) as refused:
        rule(**body)
    error = refused.value.errors()[0]
    assert (error["type"], error["ctx"]["at"]) == (code, at)


@pytest.mark.parametrize(
    "body",
    [
        {"to": []},
        {"to": ["ada@example.org\nBcc: ben@example.org"]},
        {"to": [f"a{n}@example.org" for n in range(21)]},
        {"on": []},
        {"on": ["paused"]},
        {"channel": "pigeon"},
        {"subject": "two\nlines"},
        {"quiet": {"digest": "10s"}},
        {"quiet": {"max_per_hour": 0}},
        {"quiet": {"max_per_hour": "3"}},
        {"nobody": True},
    ],
)
def test_limits_of_a_rule(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**body)


def test_a_changed_rule_has_another_key() -> None:
    assert rule().key == rule(on=["recovered", "failed", "failed"]).key
    assert rule().key != rule(quiet={"max_per_hour": 3}).key


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (ExecutionStatus.COMPLETED, JobOutcome.OK),
        (ExecutionStatus.PARTIAL, JobOutcome.FAILED),
        (ExecutionStatus.FAILED, JobOutcome.FAILED),
        (ExecutionStatus.TIMEOUT, JobOutcome.FAILED),
        (ExecutionStatus.CANCELLED, None),
        (ExecutionStatus.REJECTED, None),
    ],
)
def test_an_end_has_an_outcome_unless_a_person_stopped_it(
    status: ExecutionStatus, outcome: JobOutcome | None
) -> None:
    assert outcome_of(status) is outcome


def test_only_a_success_after_a_failure_is_a_recovery() -> None:
    ok, failed = JobOutcome.OK, JobOutcome.FAILED
    completed, recovered = NotificationEvent.COMPLETED, NotificationEvent.RECOVERED
    assert list(events_of(ok, None)) == [completed]
    assert list(events_of(ok, ok)) == [completed]
    assert list(events_of(ok, failed)) == [recovered, completed]
    assert list(events_of(failed, failed)) == [NotificationEvent.FAILED]


def test_one_end_is_one_message_of_a_rule_that_names_both_events() -> None:
    happened = events_of(JobOutcome.OK, JobOutcome.FAILED)
    assert rule(on=["completed"]).find_event(happened) is NotificationEvent.COMPLETED
    assert rule(on=["completed", "recovered"]).find_event(happened) is NotificationEvent.RECOVERED
    assert rule(on=["failed"]).find_event(happened) is None
