"""The strategy of waves: their sizes, the failures they may have, and their gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.policy import CHECK_KEY, Policy, amount_of


@dataclass(frozen=True, slots=True)
class Strategy:
    """The waves of an execution, and what stops or pauses it between them.

    `sizes`: cumulative runs at the end of each wave, the last is all. `limits`: how many may fail
    in each wave; None = all of them. With `per_wave` the failures of the wave count, else those of
    the execution. `confirm`: a person opens the next wave. `checked`: a wave with a failed check
    does not open the next one. `pause_on_fail`: pause instead of stopping."""

    sizes: Sequence[int]
    limits: Sequence[int] | None = None
    per_wave: bool = False
    confirm: bool = False
    checked: bool = False
    pause_on_fail: bool = False

    @classmethod
    def from_policy(cls, policy: Policy, sizes: Sequence[int]) -> Strategy:
        """Return the policy's strategy for waves that end at these numbers of runs."""
        counts = [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]
        gate = policy.gate
        return cls(
            sizes=list(sizes),
            limits=_limits(policy.max_fail, counts),
            per_wave=isinstance(policy.max_fail, str),
            confirm=gate is not None and gate.confirm,
            checked=gate is not None and gate.check is not None,
            pause_on_fail=gate is not None and gate.pause_on_fail,
        )

    @property
    def plain(self) -> bool:
        """True if there are no waves, limits or checks."""
        return len(self.sizes) <= 1 and self.limits is None and not self.checked


def with_check(policy: Policy, actions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the actions followed by the gate's check.

    The check starts once all runs of the wave have reached it."""
    given = [dict(action) for action in actions]
    if policy.gate is None or policy.gate.check is None:
        return given
    check = policy.gate.check.model_dump(mode="json")
    return [*given, {**check, "key": CHECK_KEY, "scope": "barrier"}]


def _limits(max_fail: int | str | None, counts: Sequence[int]) -> list[int] | None:
    if max_fail is None:
        return None
    # A share is rounded down: more than 20 % of 7 runs are 2 of them.
    return [max_fail if isinstance(max_fail, int) else _floor(max_fail, count) for count in counts]


def _floor(share: str, total: int) -> int:
    # Computed with integers, in thousandths of a percent: 0.07 of 100 is 7, not 6.
    return amount_of(share, 100_000) * total // 100_000
