"""Notices steps of the database's clock: each renewal compares its move with that of our own monotonic clock."""

from __future__ import annotations

STEP_SECONDS = 1.0
"""A move that differs by more is a step, not the time that an answer took."""


class DatabaseClock:
    """What the database's clock should show, by the last answer that told its time."""

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None
        """By how much it is ahead of our monotonic clock: at least and at most, as an answer takes some time."""

    def observe(self, now: float, *, sent_at: float, received_at: float) -> float:
        """Take in the database's time, asked and answered at these monotonic times. Return by how much it stepped, or 0."""
        least, most = now - received_at, now - sent_at
        before, self._ahead = self._ahead, (least, most)
        if before is None:
            return 0.0
        if least - before[1] > STEP_SECONDS:
            return least - before[1]
        if before[0] - most > STEP_SECONDS:
            return most - before[0]
        return 0.0

    def expected(self, monotonic: float) -> float | None:
        """Return the database's time at a monotonic time, as seconds since 1970; None if it was never told."""
        return None if self._ahead is None else monotonic + sum(self._ahead) / 2
