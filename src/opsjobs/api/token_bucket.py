"""Token buckets, one per caller, in the memory of this process.

They are refilled by the clock and removed once full.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from opsjobs.clock import Clock

BURST_SECONDS = 4
"""Burst size: after a pause, the refill of this many seconds can be taken at once."""
ROUNDING_SECONDS = 1e-6

Who = TypeVar("Who", bound=Hashable)


class TokenBuckets(Generic[Who]):
    """Token buckets by caller.

    A full bucket equals that of an unseen caller and is removed. `kept`: the maximum number of
    separate buckets; new callers beyond it share one bucket, so that a client with a million
    addresses does not get a million buckets.
    """

    def __init__(self, a_second: int, clock: Clock, *, kept: int) -> None:
        self._a_second = a_second
        self._clock = clock
        self._kept = kept
        # When each bucket will be full again: the tokens it lacks now are the time until then times
        # the rate. Ordered by last use: a bucket unused for BURST_SECONDS is full, so full buckets
        # come first and are cheap to remove.
        self._full_at: dict[Who | None, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, who: Who) -> float:
        """Take a token and return 0.0; if there is none, return the seconds until there is one."""
        if not self._a_second:
            return 0.0
        now = self._clock.monotonic()
        self._forget(now)
        key = who if who in self._full_at or len(self._full_at) < self._kept else None
        full_at = max(self._full_at.get(key, now), now) + 1 / self._a_second
        if (early := full_at - now - BURST_SECONDS) > ROUNDING_SECONDS:
            return early
        self._put(key, full_at)
        return 0.0

    def give_back(self, who: Who) -> None:
        """Put back a token that was taken in error."""
        key = who if who in self._full_at else None
        if key in self._full_at:
            self._put(key, self._full_at[key] - 1 / self._a_second)

    def _put(self, key: Who | None, full_at: float) -> None:
        self._full_at.pop(key, None)
        self._full_at[key] = full_at

    def _forget(self, now: float) -> None:
        while self._full_at and self._full_at[first := next(iter(self._full_at))] <= now:
            del self._full_at[first]
