"""A plan: which runs an execution will have, in which order, and how many at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from opsjobs.model.failures import Invalid
from opsjobs.model.job import LaunchOrder, Policy
from opsjobs.model.target import Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run where: targets by position, and the window (runs ready or running at a time)."""

    targets: Sequence[Target]
    window: int


def plan(order: LaunchOrder, targets: Sequence[Target], *, default_parallel: int, max_targets: int, seed: int) -> Plan:
    """The plan of a launch on these resolved targets; `seed` feeds `order: random`. Raises Invalid."""
    if not targets:
        raise Invalid("no_targets", "No target matches the selection: name ids, groups or a selector that fit known targets.")
    if len(targets) > max_targets:
        raise Invalid(
            "too_many_targets",
            f"The selection has {len(targets)} targets, the limit is {max_targets}: narrow it, or raise MAX_TARGETS_PER_JOB.",
        )
    return Plan(in_order(order.policy, targets, seed), min(order.policy.max_parallel or default_parallel, len(targets)))


def in_order(policy: Policy, targets: Sequence[Target], seed: int) -> list[Target]:
    """The targets as `policy.order` says; `inventory` is how they came."""
    match policy.order:
        case "name":
            return sorted(targets, key=lambda t: t.name)
        case "reverse":
            return list(reversed(targets))
        case "random":
            shuffled = list(targets)
            random.Random(seed).shuffle(shuffled)  # noqa: S311  an order, not a secret
            return shuffled
        case _:
            return list(targets)
