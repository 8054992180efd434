"""How much work one text may cost: the model has no clock, so it counts steps."""

from __future__ import annotations

TEXT_BYTES_MAX = 64 << 10
STEPS_MAX = 20_000
"""Some 50 ms on a slow core; a script of 4 KB takes about a fifth of it."""
DEPTH_MAX = 8
"""Programs within programs: `sudo sh -c "ssh web-1 'sh -c …'"`."""


class Spent(Exception):
    """The text costs more than it may: nobody has looked at the rest of it."""


class Budget:
    """Counts down; what is written within what is written shares it."""

    def __init__(self, steps: int = STEPS_MAX) -> None:
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        """Raises Spent where there is nothing left."""
        self._left -= steps
        if self._left < 0:
            raise Spent
