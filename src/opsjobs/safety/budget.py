"""A bound on the work for one text, counted in steps because the model has no clock."""

from __future__ import annotations

from collections.abc import Iterable

TEXT_BYTES_MAX = 64 << 10
STEPS_MAX = 20_000
"""Some 50 ms on a slow core, 2.5 µs a step; a script of 4 KB takes about a fifth of it."""
CHARACTERS_A_STEP = 256
"""Characters per step when a text is copied, searched or cut by a linear function."""
CHARACTERS_MAX = 64 << 10
"""The longest word; functions that join texts never build a longer one."""
DEPTH_MAX = 8
"""The deepest nesting of programs: `sudo sh -c "ssh web-1 'sh -c …'"`."""


class Spent(Exception):
    """The text costs more than the budget allows; the rest of it was not read."""


class Budget:
    """A countdown of steps, shared with the programs inside the program."""

    def __init__(self, steps: int = STEPS_MAX) -> None:
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        """Count the steps down. Raises Spent if none are left."""
        self._left -= steps
        if self._left < 0:
            raise Spent

    def read(self, characters: int, times: int = 1) -> None:
        """Spend the cost of reading that many characters, `times` times. Raises Spent."""
        self.spend(characters * times // CHARACTERS_A_STEP)


def check_size(characters: int) -> None:
    """Raise Spent if a text that is about to be built is too long."""
    if characters > CHARACTERS_MAX:
        raise Spent


def replaced(text: str, old: str, new: str, count: int = -1) -> str:
    """Return `str.replace`, but raise Spent before building a text that is too long."""
    if len(new) > len(old):
        found = text.count(old) if count < 0 else min(text.count(old), count)
        check_size(len(text) + found * (len(new) - len(old)))
    return text.replace(old, new, count)


def filled_in(text: str, place: str, words: Iterable[str]) -> str:
    """Insert each word at the next `%s` or `{}`. Raises Spent if the text gets too long."""
    first, *pieces = text.split(place)
    made, size = [first], len(text)
    given = iter(words)
    for piece in pieces:
        word = next(given, place)
        check_size(size := size + len(word))
        made += (word, piece)
    return "".join(made)
