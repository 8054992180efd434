"""The seed's older form of a job is accepted, and the present form is unchanged."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.action import JobType
from opsjobs.model.job import JobDraft, RunDraft, modernised

OLD: dict[str, Any] = {
    "name": "restart",
    "job_type": "command",
    "target_ids": [1, 2],
    "timeout_seconds": 60,
    "priority": 7,
    "actions": [
        {
            "action_type": "command",
            "action_order": 2,
            "action_name": "second",
            "action_parameters": {"command": "b"},
        },
        {
            "action_type": "command",
            "action_order": 1,
            "action_name": "first",
            "timeout_seconds": 5,
            "action_parameters": {"command": "a"},
        },
    ],
}


def test_the_older_shape_is_the_same_job() -> None:
    body = {**OLD, "job_type": "composite"}
    draft = JobDraft.model_validate(body)
    assert [(a.key, a.command, a.timeout) for a in draft.actions] == [
        ("first", "a", 5),
        ("second", "b", None),
    ]
    assert draft.targets.ids == ["1", "2"]
    assert (draft.policy.timeout, draft.policy.priority) == (60, 7)
    assert body["actions"] is OLD["actions"], "what the caller gave is not written to"
    assert "action_order" in OLD["actions"][0]


def test_targets_said_twice_are_refused() -> None:
    with pytest.raises(ValidationError, match="target_ids and targets say the same"):
        JobDraft.model_validate({**OLD, "targets": {"ids": ["3"]}})


def test_a_policy_that_is_written_today_wins_over_nothing_and_keeps_its_own_words() -> None:
    new = modernised({"policy": {"max_parallel": 3}, "timeout_seconds": 9})
    assert new == {"policy": {"max_parallel": 3, "timeout": 9}}


def test_unknown_words_stay_for_the_validation_to_refuse() -> None:
    with pytest.raises(ValidationError, match="nonsense"):
        RunDraft.model_validate(
            {"actions": [{"type": "command", "command": "true"}], "nonsense": 1}
        )


def test_where_both_spellings_say_something_todays_wins() -> None:
    draft = JobDraft.model_validate({**OLD, "job_type": "composite", "policy": {"timeout": 3}})
    assert (draft.policy.timeout, draft.policy.priority) == (3, 7)


MODERN = some.fixed_dictionaries(
    {
        "actions": some.lists(
            some.fixed_dictionaries(
                {"type": some.just("command"), "command": some.text(min_size=1)}
            ),
            min_size=1,
        )
    },
    optional={
        "targets": some.just({"ids": ["1"]}),
        "policy": some.just({"timeout": "5m"}),
        "reason": some.text(),
    },
)


@given(MODERN)
def test_todays_shape_is_left_as_it_is(body: dict[str, Any]) -> None:
    assert modernised(body) == body


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(),
    lambda inner: (
        some.lists(inner)
        | some.dictionaries(some.text() | some.sampled_from([*OLD, *OLD["actions"][0]]), inner)
    ),
    max_leaves=8,
)


@given(some.dictionaries(some.sampled_from([*OLD, *OLD["actions"][0], "targets", "policy"]), JSON))
def test_any_body_is_a_job_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(ValidationError):
        assert JobDraft.model_validate(body).actions


def test_actions_get_keys_and_a_type_and_no_key_twice() -> None:
    draft = JobDraft.model_validate(
        {"name": "a", "actions": [{"command": "x"}, {"command": "y", "key": "why"}]}
    )
    assert [a.key for a in draft.actions] == ["step-1", "why"]
    assert draft.job_type is JobType.COMPOSITE
    with pytest.raises(ValidationError, match="two actions have the key 'step-2'"):
        JobDraft.model_validate(
            {"name": "a", "actions": [{"command": "x", "key": "step-2"}, {"command": "y"}]}
        )
    with pytest.raises(ValidationError, match="job_type is script"):
        JobDraft.model_validate({"name": "a", "job_type": "script", "actions": [{"command": "x"}]})


def test_the_older_number_of_retries_is_one_less_than_the_attempts() -> None:
    draft = JobDraft.model_validate({**OLD, "job_type": "composite", "max_retries": 3})
    assert draft.policy.retry is not None
    assert draft.policy.retry.max_attempts == 4
    action = {"action_type": "command", "max_retries": 0, "action_parameters": {"command": "a"}}
    first = RunDraft.model_validate({"actions": [action]}).actions[0]
    assert first.retry is not None
    assert first.retry.max_attempts == 1
    said = JobDraft.model_validate(
        {**OLD, "job_type": "composite", "maxRetries": 3, "policy": {"retry": {"max_attempts": 2}}}
    )
    assert said.policy.retry is not None
    assert said.policy.retry.max_attempts == 2
