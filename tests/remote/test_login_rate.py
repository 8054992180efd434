"""The rate limit of connects per host."""

from __future__ import annotations

from opsjobs.clock import TurnedClock
from opsjobs.remote.ssh.pool import Rate


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    rate = Rate(4, TurnedClock())
    assert [rate.take("web-1") for _ in range(7)] == [0, 0, 0, 0, 0.25, 0.5, 0.75]


def test_a_pause_fills_the_bucket_again_and_no_further() -> None:
    clock = TurnedClock()
    rate = Rate(2, clock)
    assert [rate.take("web-1") for _ in range(3)] == [0, 0, 0.5]
    clock.turn(60)
    assert [rate.take("web-1") for _ in range(3)] == [0, 0, 0.5]


def test_hosts_have_a_bucket_each_and_full_ones_are_forgotten() -> None:
    clock = TurnedClock()
    rate = Rate(1, clock)
    assert [rate.take(host) for host in ("web-1", "web-2", "web-1")] == [0, 0, 1]
    clock.turn(1)
    rate.forget()
    assert list(rate._full_at) == ["web-1"]


async def test_no_rate_is_no_wait() -> None:
    rate = Rate(0, TurnedClock())
    for _ in range(1000):
        await rate.wait("web-1")
