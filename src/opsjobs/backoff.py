"""Pauses between retries, each twice as long as the one before, with jitter."""

from __future__ import annotations

import random


class Backoff:
    """Exponential backoff with jitter, so that a fleet does not come back in step.

    The pauses are `first_seconds`, twice that, and so on, up to `longest_seconds`; each is
    shortened at random by up to half.
    """

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._pause_seconds = first_seconds

    @property
    def is_first(self) -> bool:
        """True until the first pause since the last reset."""
        return self._pause_seconds == self._first_seconds

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        pause = self._pause_seconds * random.uniform(0.5, 1)  # noqa: S311  jitter, not a secret
        self._pause_seconds = min(self._pause_seconds * 2, self._longest_seconds)
        return pause

    def reset(self) -> None:
        """Start over with the first pause: an attempt succeeded."""
        self._pause_seconds = self._first_seconds
