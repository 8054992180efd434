"""Retries of an action: which errors, how many attempts, and the back-off between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

from pydantic import Field, field_validator

from opsjobs.model.api_model import ApiModel, Duration, Pause
from opsjobs.model.execution import ErrorCode
from opsjobs.model.validation_errors import fault

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
"""The errors that are never retried automatically: a retry would do harm, or not help."""

USUAL = (ErrorCode.CONNECT_TIMEOUT, ErrorCode.CONNECTION_REFUSED, ErrorCode.CONNECTION_LOST)
ATTEMPTS_MAX = 101
FACTOR = 2.0


class RetryPolicy(ApiModel):
    """The total number of attempts of an action, the retried errors, and the back-off.

    The pause before attempt n + 1 is: constant `base`; linear `base` times n; exponential `base`
    times `factor` to the power of n - 1 (`factor` None: the service's RETRY_BACKOFF_BASE); never
    more than `max`. `jitter` subtracts a random part of up to half of it, so that many targets do
    not retry at once."""

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
                raise fault(
                    "never_retried", f"{code.value} is never tried again: take it out", position
                )
        return list(dict.fromkeys(codes))

    def decide(
        self, code: ErrorCode, attempt: int, random: Random, *, usual_factor: float = FACTOR
    ) -> float | None:
        """Return the seconds to wait before attempt `attempt` + 1; None: no retry.

        Attempt number `attempt` (from 1) ended with `code`."""
        if attempt >= self.max_attempts or code not in self.on:
            return None
        pause = self.pause(attempt, usual_factor)
        return pause * (1 - random.random() / 2) if self.jitter else pause

    def pause(self, attempt: int, usual_factor: float = FACTOR) -> float:
        """Return the seconds to wait after attempt number `attempt`, without jitter."""
        match self.backoff:
            case "constant":
                pause = self.base
            case "linear":
                pause = self.base * attempt
            case _:
                # At most 100 ** 100, which a float can hold; `max` limits it.
                pause = self.base * (self.factor or usual_factor) ** (attempt - 1)
        return min(pause, self.max)


def frozen(retry: Mapping[str, Any], *, attempts: int, factor: float) -> dict[str, Any]:
    """Return a policy as it is stored with an execution.

    It has at most `attempts` attempts, and the service's factor if it names none."""
    capped = {**retry, "max_attempts": min(retry["max_attempts"], attempts)}
    return {**capped, "factor": factor} if retry["factor"] is None else capped
