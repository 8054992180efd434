"""Retries of an action: which errors are tried again, how often, and how long is waited before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

from pydantic import Field, field_validator

from opsjobs.model.api_model import ApiModel, Duration, Pause
from opsjobs.model.draft_error import fault
from opsjobs.model.execution import ErrorCode

NEVER = frozenset(
    {
        ErrorCode.LOST,
        ErrorCode.POISON,
        ErrorCode.HOST_KEY,
        ErrorCode.AUTH_FAILED,
        ErrorCode.SAFETY_BLOCKED,
        ErrorCode.TARGET_CHANGED,
        ErrorCode.CANCELLED,
        ErrorCode.INTERNAL,
    }
)
"""What is never tried again by itself: it would do harm, or come out the same."""

USUAL = (ErrorCode.CONNECT_TIMEOUT, ErrorCode.CONNECTION_REFUSED, ErrorCode.CONNECTION_LOST)
ATTEMPTS_MAX = 101
FACTOR = 2.0


class RetryPolicy(ApiModel):
    """How often an action is started in all, for which errors, and with which pauses between.

    Before attempt n + 1 is waited: constant `base`; linear `base` times n; exponential `base` times `factor` to the power of
    n - 1 (`factor` None: the service's RETRY_BACKOFF_BASE); never more than `max`. `jitter` takes a random part of up to half
    of it away, so that many targets do not come back at once.
    """

    max_attempts: int = Field(default=1, ge=1, le=ATTEMPTS_MAX)
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    base: Pause = 1.0
    factor: float | None = Field(default=None, ge=1, le=100)
    max: Duration = 300.0
    jitter: bool = True
    on: list[ErrorCode] = Field(default=list(USUAL), max_length=len(ErrorCode))

    @field_validator("on")
    @classmethod
    def _may_be_tried_again(cls, codes: Sequence[ErrorCode]) -> list[ErrorCode]:
        for position, code in enumerate(codes):
            if code in NEVER:
                raise fault("never_retried", f"{code.value} is never tried again: take it out", position)
        return list(dict.fromkeys(codes))

    def decide(self, code: ErrorCode, attempt: int, random: Random, *, usual_factor: float = FACTOR) -> float | None:
        """Seconds to wait before attempt `attempt` + 1, after number `attempt` (from 1) ended with `code`; None: no more."""
        if attempt >= self.max_attempts or code not in self.on:
            return None
        pause = self.pause(attempt, usual_factor)
        return pause * (1 - random.random() / 2) if self.jitter else pause

    def pause(self, attempt: int, usual_factor: float = FACTOR) -> float:
        """Seconds after attempt number `attempt`, without jitter."""
        match self.backoff:
            case "constant":
                pause = self.base
            case "linear":
                pause = self.base * attempt
            case _:
                # At most 100 ** 100: a float holds that, and `max` cuts it.
                pause = self.base * (self.factor or usual_factor) ** (attempt - 1)
        return min(pause, self.max)


def frozen(retry: Mapping[str, Any], *, attempts: int, factor: float) -> dict[str, Any]:
    """A written policy as an execution keeps it: with no more than `attempts`, and the service's factor where it names none."""
    kept = {**retry, "max_attempts": min(retry["max_attempts"], attempts)}
    return {**kept, "factor": factor} if retry["factor"] is None else kept
