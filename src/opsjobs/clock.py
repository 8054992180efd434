"""The clock of every component: the system's in production, advanced by hand in tests."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID


class Timer(Protocol):
    """A scheduled call that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the call; no effect once it was made."""


class Clock(Protocol):
    """Wall time for records, monotonic time for timeouts, and sleep."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for this time."""

    def later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call it in the running loop after this time."""


class SystemClock:
    """The system's clock."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this time."""
        await asyncio.sleep(seconds)

    def later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call it in the running loop after this time."""
        return asyncio.get_running_loop().call_later(seconds, call)


class TurnedClock:
    """A clock that a test advances; sleepers wake when they are due."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return self._now + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return the seconds that the clock was advanced so far."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock was advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._elapsed + seconds, waiter))
        await waiter

    def later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call it once the clock was advanced by this time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda done: None if done.cancelled() else call())
        self._sleepers.append((self._elapsed + seconds, waiter))
        return _Waiting(waiter)

    def turn(self, seconds: float) -> None:
        """Advance the clock and wake the sleepers that are due."""
        self._elapsed += seconds
        due = [w for at, w in self._sleepers if at <= self._elapsed]
        self._sleepers = [(at, w) for at, w in self._sleepers if at > self._elapsed]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)


class _Waiting:
    def __init__(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = waiter

    def cancel(self) -> None:
        self._waiter.cancel()


def uuid7(at: datetime) -> UUID:
    """Return a new UUIDv7 (RFC 9562): sorted by `at` to the millisecond, otherwise random."""
    milliseconds = int(at.timestamp() * 1000)
    value = (milliseconds << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (0x7 << 76)
    return UUID(int=value & ~(0x3 << 62) | (0x2 << 62))
