"""The policy of an execution: concurrency, waves, when it stops by itself, and retries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.action import CheckAction
from opsjobs.model.api_model import ApiModel, Duration, Pause
from opsjobs.model.approvers import ApprovalPolicy
from opsjobs.model.draft_error import fault
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.spool_identity import Durability
from opsjobs.model.target import Name

CHECK_KEY = "gate-check"
_SHARE = re.compile(r"(\d{1,3})(?:\.(\d{1,3}))?%")

Share = Annotated[str, Field(pattern=text_patterns.SHARE)]
Amount = Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | Share
"""A count, or a share such as "20%"."""


def amount_of(amount: int | str, total: int) -> int:
    """Return the number that an amount is of `total`: a count itself, a share rounded up.

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
    `approval`: the approval that is required before an execution starts."""

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
    notify: list[Any] = Field(default_factory=list)

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

    @field_validator("notify")
    @classmethod
    def _nobody_is_told_yet(cls, notify: Sequence[Any]) -> list[Any]:
        if notify:
            raise fault(
                "not_supported_yet",
                "notifications are not part of this version: leave notify empty",
            )
        return []
