"""A plan: every target once, in the requested order.

As many run at a time as policy, service and targets allow.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opsjobs.model.errors import Invalid
from opsjobs.model.policy import Policy, in_order, plan, wave_ends
from opsjobs.model.target import Target, Transport


def machines(count: int) -> list[Target]:
    """Return targets web-1, web-2, …"""
    return [
        Target(str(n), f"web-{n}", f"10.0.0.{n}", 22, Transport.SSH) for n in range(1, count + 1)
    ]


def policy(**fields: object) -> Policy:
    return Policy.model_validate(fields)


def names(targets: object) -> list[str]:
    return [target.name for target in targets]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("inventory", ["web-2", "web-10", "web-1"]),
        ("name", ["web-1", "web-2", "web-10"]),
        ("reverse", ["web-1", "web-10", "web-2"]),
    ],
)
def test_targets_stand_in_the_order_asked_for(word: str, expected: list[str]) -> None:
    given_targets = [t for n in (2, 10, 1) for t in machines(10) if t.name == f"web-{n}"]
    assert names(in_order(Policy.model_validate({"order": word}), given_targets, 1)) == expected
    assert names(given_targets) == ["web-2", "web-10", "web-1"]


@given(some.integers(1, 40), some.integers(0, 2**32 - 1))
def test_a_random_order_holds_every_target_once_and_is_the_same_for_the_same_seed(
    count: int, seed: int
) -> None:
    policy = Policy(order="random")
    shuffled = in_order(policy, machines(count), seed)
    assert sorted(names(shuffled)) == sorted(names(machines(count)))
    assert shuffled == in_order(policy, machines(count), seed)


@pytest.mark.parametrize(
    ("asked", "default", "count", "window"),
    [(None, 50, 3, 3), (None, 50, 80, 50), (2, 50, 80, 2), (70, 50, 80, 70), (90, 50, 80, 80)],
)
def test_the_window_is_what_the_policy_or_the_service_says_and_never_more_than_the_targets(
    asked: int | None, default: int, count: int, window: int
) -> None:
    made = plan(
        policy(max_parallel=asked),
        machines(count),
        default_parallel=default,
        max_targets=100,
        seed=1,
    )
    assert (made.window, len(made.targets)) == (window, count)


@pytest.mark.parametrize(("count", "code"), [(0, "no_targets"), (5, "too_many_targets")])
def test_none_and_too_many_are_refused_with_words(count: int, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        plan(policy(), machines(count), default_parallel=50, max_targets=4, seed=1)
    assert refused.value.code == code
    assert plan(policy(), machines(4), default_parallel=50, max_targets=4, seed=1).window == 4


def test_waves_are_cumulative_shares_rounded_up_and_empty_ones_are_left_out() -> None:
    waves = Policy.model_validate({"waves": [1, "10%", "100%"]})
    assert wave_ends(waves, 41) == [1, 5, 41]
    assert wave_ends(waves, 10) == [1, 10]
    assert wave_ends(waves, 1) == [1]
    assert wave_ends(Policy(), 7) == [7]
    made = plan(
        policy(waves=[1, "50%", "100%"]), machines(4), default_parallel=50, max_targets=100, seed=1
    )
    assert [made.wave_of(position) for position in range(4)] == [0, 1, 2, 2]


@given(some.lists(some.integers(1, 60), unique=True, max_size=5), some.integers(1, 50))
def test_every_target_stands_in_one_wave(counts: list[int], total: int) -> None:
    ends = wave_ends(Policy.model_validate({"waves": [*sorted(counts), "100%"]}), total)
    assert ends[-1] == total
    assert ends == sorted(set(ends))


def test_order_by_a_label_puts_targets_without_it_last_and_keeps_equals_as_they_came() -> None:
    given_targets = [
        replace(t, labels={"rack": rack} if rack else {})
        for t, rack in zip(machines(4), ["b", "", "a", "b"], strict=True)
    ]
    assert names(in_order(Policy(order="label:rack"), given_targets, 1)) == [
        "web-3",
        "web-1",
        "web-4",
        "web-2",
    ]
