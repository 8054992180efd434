"""Pauses between retries, each twice as long as the one before, with jitter."""

from __future__ import annotations

import random

DOUBLINGS_MAX = 60
"""Cap on the counted doublings; the longest pause is reached long before it."""


class Backoff:
    """Exponential backoff with jitter, so that a fleet does not retry in step.

    The pauses are `first_seconds`, twice that, and so on, up to `longest_seconds`; each is
    shortened at random by up to the share `jitter`. `immediate`: the first retry has no pause, and
    those pauses begin with the second.
    """

    def __init__(
        self,
        first_seconds: float,
        longest_seconds: float,
        *,
        jitter: float = 0.5,
        immediate: bool = False,
    ) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._immediate = immediate
        self._retries = 0

    @property
    def is_first(self) -> bool:
        """True until the first pause since the last reset."""
        return self._retries == 0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt."""
        doublings = min(self._retries - self._immediate, DOUBLINGS_MAX)
        self._retries += 1
        if doublings < 0:
            return 0.0
        pause = min(self._first_seconds * 2.0**doublings, self._longest_seconds)
        return pause * random.uniform(1 - self._jitter, 1)  # noqa: S311  jitter, not a secret

    def reset(self) -> None:
        """Start over with the first pause: an attempt succeeded."""
        self._retries = 0
