"""Buckets of tokens, one for each who asks, in the memory of this process: filled by the clock, forgotten when full again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from opsjobs.clock import Clock

BURST_SECONDS = 4
"""After a pause as many are taken at once as otherwise in so many seconds."""
ROUNDING_SECONDS = 1e-6

Who = TypeVar("Who", bound=Hashable)


class Buckets(Generic[Who]):
    """A full bucket is as that of somebody never seen, and is forgotten. `kept`: how many are told apart at a time; newcomers beyond
    that have one bucket together, so that whoever has a million addresses has not a million buckets.
    """

    def __init__(self, a_second: int, clock: Clock, *, kept: int) -> None:
        self._a_second = a_second
        self._clock = clock
        self._kept = kept
        # When a bucket will be full again: what it lacks now is what is left until then, times the rate. In the order of last use:
        # who has not asked for BURST_SECONDS has a full one, so full ones stand in front, and letting go of them costs nothing.
        self._full_at: dict[Who | None, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, who: Who) -> float:
        """Take a token: 0.0. Where there is none, none is taken: in how many seconds there will be one."""
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
        """What was taken was taken in error."""
        key = who if who in self._full_at else None
        if key in self._full_at:
            self._put(key, self._full_at[key] - 1 / self._a_second)

    def _put(self, key: Who | None, full_at: float) -> None:
        self._full_at.pop(key, None)
        self._full_at[key] = full_at

    def _forget(self, now: float) -> None:
        while self._full_at and self._full_at[first := next(iter(self._full_at))] <= now:
            del self._full_at[first]
