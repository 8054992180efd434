"""A cache with a time limit; concurrent callers share one fetch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from opsjobs.clock import Clock, Timer

Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    task: asyncio.Task[Value]
    ends: Timer | None = None


class TtlCache(Generic[Value]):
    """Values by key, limited in age and number; old values are dropped by a timer."""

    def __init__(self, clock: Clock, *, seconds: float, most: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value, fetched if needed. Errors of the fetch are raised, not cached."""
        entry = self._entries.get(key)
        if entry is None:
            # A task of its own: many may wait for it, and some of them may be cancelled.
            entry = self._entries[key] = _Entry(asyncio.create_task(_run(fetch)))
            entry.task.add_done_callback(lambda _: self._fetched(key, entry))
            while len(self._entries) > self._most:
                self._forget(next(iter(self._entries)))
        return await asyncio.shield(entry.task)

    def clear(self) -> None:
        """Drop all values."""
        for key in [*self._entries]:
            self._forget(key)

    def _fetched(self, key: Hashable, entry: _Entry[Value]) -> None:
        failed = entry.task.cancelled() or entry.task.exception() is not None
        if self._entries.get(key) is not entry:
            return
        if failed or self._seconds <= 0:
            del self._entries[key]
        else:
            entry.ends = self._clock.later(self._seconds, lambda: self._over(key, entry))

    def _over(self, key: Hashable, entry: _Entry[Value]) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _forget(self, key: Hashable) -> None:
        ends = self._entries.pop(key).ends
        if ends is not None:
            ends.cancel()


async def _run(fetch: Callable[[], Awaitable[Value]]) -> Value:
    return await fetch()
