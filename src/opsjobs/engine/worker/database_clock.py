"""Detect steps of the database's clock: compare each renewal with our monotonic clock."""

from __future__ import annotations

STEP_SECONDS = 1.0
"""A difference over this is a clock step; a smaller one may be the time of an answer."""


class DatabaseClock:
    """Estimates what the database's clock shows now, from its last answer."""

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None
        """Least and greatest possible offset from our monotonic clock; an answer takes time."""

    def observe(self, now: float, *, sent_at: float, received_at: float) -> float:
        """Record the database's time and return by how many seconds its clock stepped, or 0.

        `sent_at` and `received_at` are monotonic times of the query and its answer.
        """
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
        """Return the database's Unix time at a monotonic time; None before the first answer."""
        return None if self._ahead is None else monotonic + sum(self._ahead) / 2
