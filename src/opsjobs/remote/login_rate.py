"""The rate limit of connects per host: one token bucket each, filled by the clock."""

from __future__ import annotations

from collections.abc import Hashable

from opsjobs.clock import Clock


class Rate:
    """At most `a_second` connects to each host over time; a burst of as many after a pause.

    The burst is at least one; 0 means no limit.
    """

    def __init__(self, a_second: float, clock: Clock) -> None:
        self._a_second = a_second
        self._burst = max(a_second, 1.0)
        self._clock = clock
        # When the bucket of a host will be full again: it lacks the seconds from now until then,
        # times the rate.
        self._full_at: dict[Hashable, float] = {}

    async def wait(self, host: Hashable) -> None:
        """Wait for a token, first come, first served."""
        if self._a_second <= 0:
            return
        seconds = self.take(host)
        if seconds > 0:
            await self._clock.sleep(seconds)

    def take(self, host: Hashable) -> float:
        """Take a token; return the seconds until it is valid."""
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(host, now), now) + 1.0 / self._a_second
        self._full_at[host] = full_at
        return max(0.0, full_at - now - self._burst / self._a_second)

    def forget(self) -> None:
        """Drop the buckets that are full: they are like those of new hosts."""
        now = self._clock.monotonic()
        self._full_at = {host: at for host, at in self._full_at.items() if at > now}
