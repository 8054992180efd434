"""Policies: waves that grow to all targets, amounts rounded up, safe retries."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from opsjobs.model.action_base import CHECK_KEY
from opsjobs.model.execution import ErrorCode
from opsjobs.model.policy import Policy, amount_of
from opsjobs.model.retry import NEVER, RetryPolicy


def test_the_contracts_sample_is_taken_and_written_back_the_same() -> None:
    body = {
        "timeout": "10m", "max_parallel": 50, "waves": [1, "10%", "100%"], "max_fail": "20%", "order": "inventory", "priority": 5,
        "retry": {"max_attempts": 3, "backoff": "exponential", "base": "1s", "factor": 2, "max": "5m", "jitter": True,
                  "on": ["connect_timeout", "connection_refused"]},
        "on_lost": "ask", "durable": "auto", "exclusive": ["web-lb"], "hold_offline": "0s", "notify": [],
    }  # fmt: skip
    made = Policy.model_validate(body)
    assert made.model_dump(mode="json") == {**body, "gate": None, "approval": None}
    assert Policy.model_validate(made.model_dump(mode="json")) == made


def test_a_gates_check_has_a_key_of_its_own() -> None:
    made = Policy.model_validate(
        {
            "gate": {
                "check": {"type": "script", "script": "true", "key": "mine"},
                "pauseOnFail": True,
            }
        }
    )
    assert made.gate is not None
    assert made.gate.check is not None
    assert (made.gate.check.key, made.gate.pause_on_fail) == (CHECK_KEY, True)


@pytest.mark.parametrize(
    ("body", "code", "at"),
    [
        ({"waves": [5, 5, "100%"]}, "waves_shrink", [1]),
        ({"waves": [0, "100%"]}, "waves_shrink", [0]),
        ({"waves": ["10%", 3, "9.5%", "100%"]}, "waves_shrink", [2]),
        ({"waves": [1, "10%"]}, "last_wave", [1]),
        ({"waves": [1]}, "last_wave", [0]),
        ({"waves": ["101%"]}, "not_a_share", [0]),
        ({"max_fail": "120%"}, "not_a_share", []),
        ({"retry": {"on": ["dns", "auth_failed"]}}, "never_retried", [1]),
    ],
)
def test_what_a_policy_may_not_say_is_refused_at_its_place(
    body: dict[str, Any], code: str, at: list[object]
) -> None:
    with pytest.raises(ValidationError) as refused:
        Policy.model_validate(body)
    error = refused.value.errors()[0]
    assert (error["type"], error["ctx"]["at"]) == (code, at)


@pytest.mark.parametrize(
    ("amount", "total", "found"),
    [
        ("10%", 41, 5),
        ("10%", 1, 1),
        ("100%", 7, 7),
        ("0%", 7, 0),
        ("0.07%", 10_000, 7),
        ("33.3%", 3, 1),
        (4, 2, 4),
    ],
)
def test_a_share_is_rounded_up(amount: int | str, total: int, found: int) -> None:
    assert amount_of(amount, total) == found


def test_the_same_lock_twice_is_one_and_locks_have_one_order() -> None:
    assert Policy(exclusive=["b", "a", "b"]).exclusive == ["a", "b"]


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    [("constant", [2, 2, 2, 2]), ("linear", [2, 4, 6, 7]), ("exponential", [2, 6, 7, 7])],
)
def test_pauses_grow_as_the_backoff_says_and_no_further_than_max(
    backoff: str, pauses: list[float]
) -> None:
    policy = RetryPolicy.model_validate(
        {"max_attempts": 5, "backoff": backoff, "base": 2, "factor": 3, "max": 7, "jitter": False}
    )
    code = ErrorCode.CONNECT_TIMEOUT
    assert [policy.decide(code, n, Random(1)) for n in range(1, 6)] == [*pauses, None]


def test_the_services_factor_counts_where_the_policy_names_none() -> None:
    policy = RetryPolicy(max_attempts=3, jitter=False)
    assert [
        policy.decide(ErrorCode.CONNECTION_LOST, 2, Random(1), usual_factor=f) for f in (2, 5)
    ] == [2, 5]


@given(
    some.sampled_from(ErrorCode),
    some.integers(1, 101),
    some.integers(0, 2**32),
    some.floats(0, 1e6),
    some.floats(1, 100),
)
def test_a_pause_is_between_half_of_it_and_max_and_only_for_what_is_named(
    code: ErrorCode, attempt: int, seed: int, base: float, factor: float
) -> None:
    policy = RetryPolicy(max_attempts=101, base=base, factor=factor, max=300)
    pause = policy.decide(code, attempt, Random(seed))
    if code in policy.on and attempt < 101:
        assert pause is not None
        assert policy.pause(attempt) / 2 <= pause <= policy.pause(attempt) <= 300
    else:
        assert pause is None


def test_what_would_do_harm_is_never_named() -> None:
    for code in ErrorCode:
        if code in NEVER:
            with pytest.raises(ValidationError, match="never tried again"):
                RetryPolicy(on=[code])
        else:
            RetryPolicy(on=[code])
