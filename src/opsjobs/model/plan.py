"""The plan of an execution: its runs, their order, and the number of concurrent runs."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.model.errors import Invalid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.policy import Policy, amount_of
from opsjobs.model.target import Target


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets by position, and the window (runs ready or running at a time).

    `waves`: the cumulative numbers of targets of the waves; the last is all of them."""

    targets: Sequence[Target]
    window: int
    waves: Sequence[int] = ()

    def wave_of(self, position: int) -> int:
        """Return the wave (from 0) of the target at this position (from 0)."""
        return bisect_right(self.waves, position)


def plan(
    order: LaunchOrder,
    targets: Sequence[Target],
    *,
    default_parallel: int,
    max_targets: int,
    seed: int,
) -> Plan:
    """Return the plan of a launch on these resolved targets. Raises Invalid.

    `seed` feeds `order: random`."""
    if not targets:
        raise Invalid(
            "no_targets",
            "No target matches the selection: name ids, groups or a selector that fit known "
            "targets.",
        )
    if len(targets) > max_targets:
        raise Invalid(
            "too_many_targets",
            f"The selection has {len(targets)} targets, the limit is {max_targets}: narrow it, or "
            "raise MAX_TARGETS_PER_JOB.",
        )
    window = min(order.policy.max_parallel or default_parallel, len(targets))
    return Plan(
        in_order(order.policy, targets, seed), window, wave_ends(order.policy, len(targets))
    )


def wave_ends(policy: Policy, total: int) -> list[int]:
    """Return the cumulative sizes of the waves; a wave that would be empty is left out.

    >>> wave_ends(Policy(waves=[1, "10%", "100%"]), 41)
    [1, 5, 41]"""
    ends: list[int] = []
    for wave in policy.waves:
        end = min(amount_of(wave, total), total)
        if end > (ends[-1] if ends else 0):
            ends.append(end)
    return ends if ends and ends[-1] == total else [*ends, total]


def in_order(policy: Policy, targets: Sequence[Target], seed: int) -> list[Target]:
    """Return the targets in the order of `policy.order`; `inventory` keeps the given order."""
    match policy.order:
        case "name":
            return sorted(targets, key=lambda t: t.name)
        case "reverse":
            return list(reversed(targets))
        case "random":
            shuffled = list(targets)
            random.Random(seed).shuffle(shuffled)  # noqa: S311  an order, not a secret
            return shuffled
        case "inventory":
            return list(targets)
        case by:
            key = by.removeprefix("label:")
            # Targets without the label come last; the sort is stable.
            return sorted(targets, key=lambda t: (key not in t.labels, t.labels.get(key, "")))
