"""How many connections a second one host is asked for: a bucket of tokens each, filled by the clock."""

from __future__ import annotations

from collections.abc import Hashable

from opsjobs.clock import Clock


class Rate:
    """At most `a_second` for each host over time, and as many (at least one) at once after a pause; 0 = no limit."""

    def __init__(self, a_second: float, clock: Clock) -> None:
        self._a_second = a_second
        self._burst = max(a_second, 1.0)
        self._clock = clock
        # When the bucket of a host will be full again: how much it lacks now is what is left until then, times the rate.
        self._full_at: dict[Hashable, float] = {}

    async def wait(self, host: Hashable) -> None:
        """Take a token, as soon as there is one, in the order of asking."""
        if self._a_second <= 0:
            return
        seconds = self.take(host)
        if seconds > 0:
            await self._clock.sleep(seconds)

    def take(self, host: Hashable) -> float:
        """Take a token, now or in so many seconds."""
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(host, now), now) + 1.0 / self._a_second
        self._full_at[host] = full_at
        return max(0.0, full_at - now - self._burst / self._a_second)

    def forget(self) -> None:
        """Drop the buckets that are full: they are as those of hosts never seen."""
        now = self._clock.monotonic()
        self._full_at = {host: at for host, at in self._full_at.items() if at > now}
