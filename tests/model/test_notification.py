"""Rules of notifications: valid fields, the events of an end, and how often they are sent.

Quiet rules: only changes, digests, and a number of messages in any hour.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.notification import (
    JobOutcome,
    NotificationEvent,
    NotificationRule,
    QuietDecision,
    QuietState,
    decide,
    decide_digest,
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


NOW = datetime(2026, 11, 28, 21, 0, tzinfo=UTC)
FAILED, RECOVERED = NotificationEvent.FAILED, NotificationEvent.RECOVERED
APPROVAL = NotificationEvent.APPROVAL_NEEDED
SEND, HOLD, GATHER = QuietDecision.SEND, QuietDecision.HOLD, QuietDecision.GATHER


def quiet(**rules: Any) -> NotificationRule:
    return NotificationRule.model_validate(
        {"channel": "email", "to": ["ada@example.org"], "quiet": rules}
    )


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def test_without_quiet_rules_each_event_is_sent() -> None:
    state = QuietState()
    for minute in range(100):
        made = decide(quiet(), FAILED, state, after(minute), changed=False)
        assert (made.decision, made.held) == (SEND, 0)
        state = made.state
    assert state == QuietState()


def test_of_many_failures_only_the_first_and_the_recovery_are_sent() -> None:
    rule, state, decisions = quiet(only_changes=True), QuietState(), []
    for minute, (event, changed) in enumerate(
        [(FAILED, True), (FAILED, False), (FAILED, False), (RECOVERED, True), (FAILED, True)]
    ):
        made = decide(rule, event, state, after(minute), changed=changed)
        state = made.state
        decisions.append((made.decision, made.held, made.held_since))
    assert decisions == [
        (SEND, 0, None),
        (HOLD, 0, None),
        (HOLD, 0, None),
        (SEND, 2, after(1)),
        (SEND, 0, None),
    ]


def test_only_changes_does_not_hold_back_what_is_no_outcome() -> None:
    for event in (NotificationEvent.LATE, NotificationEvent.MISSED, APPROVAL, RECOVERED):
        made = decide(quiet(only_changes=True), event, QuietState(), NOW, changed=False)
        assert made.decision is SEND


def test_a_digest_is_due_a_period_after_the_first_event() -> None:
    rule = quiet(digest="1h")
    first = decide(rule, FAILED, QuietState(), NOW, changed=True)
    second = decide(rule, FAILED, first.state, after(40), changed=True)
    assert (first.decision, second.decision) == (GATHER, GATHER)
    assert second.state.digest_due_at == after(60)
    sent = decide_digest(rule, second.state, after(60))
    assert (sent.decision, sent.state.digest_due_at) == (SEND, None)


def test_a_needed_approval_waits_for_no_digest_and_no_hour() -> None:
    rule = quiet(digest="1h", max_per_hour=1)
    first = decide(rule, APPROVAL, QuietState(), NOW, changed=False)
    second = decide(rule, APPROVAL, first.state, after(1), changed=False)
    assert (first.decision, second.decision) == (SEND, SEND)


def test_more_than_n_in_an_hour_are_held_back_and_counted_in_the_next() -> None:
    rule, state = quiet(max_per_hour=2), QuietState()
    found = []
    for minute in (0, 10, 20, 59, 60, 61, 71):
        made = decide(rule, FAILED, state, after(minute), changed=True)
        state = made.state
        found.append((minute, made.decision, made.held, made.held_since))
    assert found == [
        (0, SEND, 0, None),
        (10, SEND, 0, None),
        (20, HOLD, 0, None),
        (59, HOLD, 0, None),
        (60, SEND, 2, after(20)),
        (61, HOLD, 0, None),
        (71, SEND, 1, after(61)),
    ]


def test_a_digest_waits_until_the_hour_has_room() -> None:
    rule = quiet(digest="1m", max_per_hour=1)
    state = decide(rule, APPROVAL, QuietState(), NOW, changed=False).state
    state = decide(rule, FAILED, state, after(1), changed=True).state
    waits = decide_digest(rule, state, after(2))
    assert (waits.decision, waits.state.digest_due_at) == (GATHER, after(60))
    assert decide_digest(rule, waits.state, after(60)).decision is SEND


@given(
    some.lists(some.tuples(some.integers(0, 600), some.booleans()), max_size=200),
    some.integers(1, 5),
    some.booleans(),
)
def test_in_no_hour_are_more_than_n_and_none_is_forgotten(
    steps: list[tuple[int, bool]], most: int, only_changes: bool
) -> None:
    rule = quiet(max_per_hour=most, only_changes=only_changes)
    state, now, sent, said = QuietState(), NOW, [], 0
    for seconds, changed in steps:
        now += timedelta(seconds=seconds)
        made = decide(rule, FAILED, state, now, changed=changed)
        state = made.state
        if made.decision is SEND:
            sent.append(now)
            said += made.held
    assert len(sent) + said + state.held == len(steps)
    for first, last in zip(sent, sent[most:], strict=False):
        assert last - first >= timedelta(hours=1)
