"""The waves, gates and limits that result from a policy."""

from __future__ import annotations

import pytest

from opsjobs.model.policy import Policy, Strategy, with_check

WAVES = [1, 5, 40]


def of(**policy: object) -> Strategy:
    return Strategy.from_policy(Policy.model_validate(policy), WAVES)


def test_a_strategy_knows_where_its_waves_end() -> None:
    assert of().sizes == [1, 5, 40]


@pytest.mark.parametrize(
    ("max_fail", "limits", "per_wave"),
    [
        (None, None, False),
        (0, [0, 0, 0], False),
        (7, [7, 7, 7], False),
        ("20%", [0, 0, 7], True),
        ("100%", [1, 4, 35], True),
    ],
)
def test_more_than_max_fail_is_more_than_the_limit(
    max_fail: object, limits: list[int] | None, per_wave: bool
) -> None:
    found = of(max_fail=max_fail)
    assert (found.limits, found.per_wave) == (limits, per_wave)


def test_plain_is_what_has_nothing_between_its_runs() -> None:
    assert Strategy.from_policy(Policy(), [2]).plain
    assert not Strategy.from_policy(Policy(), [1, 2]).plain
    assert not Strategy.from_policy(Policy(max_fail=3), [2]).plain


def test_a_check_is_the_last_action_and_a_barrier() -> None:
    policy = Policy.model_validate(
        {"gate": {"check": {"type": "command", "command": "curl -f localhost"}}}
    )
    first, check = with_check(policy, [{"key": "step-1", "type": "command"}])
    assert first == {"key": "step-1", "type": "command"}
    assert (check["key"], check["scope"], check["command"]) == (
        "gate-check",
        "barrier",
        "curl -f localhost",
    )
    assert with_check(Policy(), [{"key": "step-1"}]) == [{"key": "step-1"}]
