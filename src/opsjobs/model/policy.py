"""The policy of an execution, and its results: the waves and the plan.

The policy limits concurrency and failures and defines retries. The strategy is its waves, the
failures they may have, and their gates. The plan is the runs, their order, and the number of
concurrent runs."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.access import ApprovalPolicy
from opsjobs.model.action import CheckAction
from opsjobs.model.action_base import CHECK_KEY
from opsjobs.model.api_model import ApiModel, Duration, Pause
from opsjobs.model.errors import Invalid
from opsjobs.model.naming import Name
from opsjobs.model.notification import NotificationRules
from opsjobs.model.program import Durability
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.target import Target
from opsjobs.model.validation_errors import fault

_SHARE = re.compile(r"(\d{1,3})(?:\.(\d{1,3}))?%")

Share = Annotated[str, Field(pattern=text_patterns.SHARE)]
Amount = Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | Share
"""A count, or a share such as "20%"."""


def amount_of(amount: int | str, total: int) -> int:
    """Return an amount of `total` as a number: a count itself, a share rounded up.

    >>> amount_of("10%", 41), amount_of(3, 41)
    (5, 3)"""
    if isinstance(amount, int):
        return amount
    found = _SHARE.fullmatch(amount)
    assert found is not None, "an amount that is no number is a share: its pattern was checked"
    whole, part = found.groups(default="")
    # Computed with integers, in thousandths of a percent: 0.07 of 100 is 7, not 8.
    return -(-int(whole + part.ljust(3, "0")) * total // 100_000)


def _thousandths(share: str) -> int:
    return amount_of(share, 100_000)


class WaveGate(ApiModel):
    """The gate between two waves.

    `check` runs on the targets of the wave that has ended, `confirm` waits for a resume.
    `pause_on_fail`: an execution whose check failed, or in which more runs failed than `max_fail`
    allows, is paused instead of stopped. Without `check` and `max_fail` it has no effect."""

    confirm: bool = False
    check: CheckAction | None = None
    pause_on_fail: bool = False

    @model_validator(mode="after")
    def _set_check_key(self) -> WaveGate:
        if self.check is not None and self.check.key != CHECK_KEY:
            object.__setattr__(self, "check", self.check.model_copy(update={"key": CHECK_KEY}))
        return self


class Policy(ApiModel):
    """The policy of a job's executions.

    `timeout` limits the whole execution, `max_parallel` the concurrent runs. `waves`: cumulative
    counts or shares of the targets; each wave starts after the one before has ended and `gate` has
    opened. `max_fail`: how many runs may fail (a share: of the wave) before nothing more starts.
    `priority` 10 is served before 1: an execution's share of a busy zone is proportional to it.
    `on_lost`: the handling of a run whose command has an unknown outcome: ask (it ends `lost`),
    retry (once it has certainly stopped), dead_letter (`dead`). `exclusive`: names of locks that
    only one execution holds at a time. `hold_offline`: how long to wait for an unreachable target.
    `approval`: the approval that is required before an execution starts. `notify`: the rules of
    notifications; None: those of the installation's default."""

    timeout: Duration | None = None
    max_parallel: int | None = Field(default=None, ge=1, le=10_000)
    waves: list[Amount] = Field(default_factory=list, max_length=100)
    gate: WaveGate | None = None
    max_fail: Amount | None = None
    order: str = Field(default="inventory", pattern=text_patterns.ORDER)
    priority: int = Field(default=5, ge=1, le=10)
    retry: RetryPolicy | None = None
    on_lost: Literal["ask", "retry", "dead_letter"] = "ask"
    durable: Durability = "auto"
    exclusive: list[Name] = Field(default_factory=list, max_length=16)
    hold_offline: Pause = 0.0
    approval: ApprovalPolicy | None = None
    notify: NotificationRules | None = None

    @field_validator("waves")
    @classmethod
    def _grow_to_all(cls, waves: Sequence[int | str]) -> list[int | str]:
        for kind in (int, str):
            amounts = [(i, w) for i, w in enumerate(waves) if isinstance(w, kind)]
            sizes = [w if isinstance(w, int) else _thousandths(w) for _, w in amounts]
            for (position, wave), size, before in zip(amounts, sizes, [0, *sizes], strict=False):
                if size <= before:
                    raise fault(
                        "waves_shrink",
                        f"{wave} is no more than before it: waves are cumulative, and grow",
                        position,
                    )
                if isinstance(wave, str) and size > 100_000:
                    raise fault("not_a_share", f"{wave} is more than all", position)
        if waves and (not isinstance(waves[-1], str) or _thousandths(waves[-1]) != 100_000):
            raise fault(
                "last_wave",
                f'the last wave is all targets: write "100%", not {waves[-1]}',
                len(waves) - 1,
            )
        return list(waves)

    @field_validator("max_fail")
    @classmethod
    def _at_most_all(cls, amount: int | str | None) -> int | str | None:
        if isinstance(amount, str) and _thousandths(amount) > 100_000:
            raise fault("not_a_share", f"{amount} is more than all")
        return amount

    @field_validator("exclusive")
    @classmethod
    def _each_once(cls, names: Sequence[str]) -> list[str]:
        return sorted(set(names))


@dataclass(frozen=True, slots=True)
class Strategy:
    """The waves of an execution, and the conditions that stop or pause it between them."""

    sizes: Sequence[int]
    """The cumulative number of runs at the end of each wave; the last is all."""
    limits: Sequence[int] | None = None
    """The number of runs that may fail in each wave; None: all of them."""
    per_wave: bool = False
    """True if the failures of the wave count, else those of the execution count."""
    confirm: bool = False
    """True if a person opens the next wave."""
    checked: bool = False
    """True if a wave with a failed check does not open the next one."""
    pause_on_fail: bool = False
    """True to pause instead of stopping."""

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


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets by position, and the window."""

    targets: Sequence[Target]
    window: int
    """The number of runs that are ready or running at a time."""
    waves: Sequence[int] = ()
    """The cumulative numbers of targets of the waves; the last is all of them."""

    def wave_of(self, position: int) -> int:
        """Return the wave (from 0) of the target at this position (from 0)."""
        return bisect_right(self.waves, position)


def plan(
    policy: Policy,
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
    window = min(policy.max_parallel or default_parallel, len(targets))
    return Plan(in_order(policy, targets, seed), window, wave_ends(policy, len(targets)))


def wave_ends(policy: Policy, total: int) -> list[int]:
    """Return the cumulative sizes of the waves, without waves that would be empty.

    >>> wave_ends(Policy(waves=[1, "10%", "100%"]), 41)
    [1, 5, 41]"""
    ends: list[int] = []
    for wave in policy.waves:
        end = min(amount_of(wave, total), total)
        if end > (ends[-1] if ends else 0):
            ends.append(end)
    return ends if ends and ends[-1] == total else [*ends, total]


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key of a name that orders numbers by value.

    >>> sorted(["web-10", "web-2"], key=natural_key)
    ['web-2', 'web-10']"""
    pieces = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", name)
    return [(not piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def in_order(policy: Policy, targets: Sequence[Target], seed: int) -> list[Target]:
    """Return the targets in the order of `policy.order`; `inventory` keeps the given order."""
    match policy.order:
        case "name":
            return sorted(targets, key=lambda t: natural_key(t.name))
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
            # Targets without the label are last; the sort is stable.
            return sorted(targets, key=lambda t: (key not in t.labels, t.labels.get(key, "")))
