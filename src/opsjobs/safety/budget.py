"""How much work one text may cost: the model has no clock, so it counts steps."""

from __future__ import annotations

from collections.abc import Iterable

TEXT_BYTES_MAX = 64 << 10
STEPS_MAX = 20_000
"""Some 50 ms on a slow core, 2.5 µs a step; a script of 4 KB takes about a fifth of it."""
CHARACTERS_A_STEP = 256
"""Of a text that is copied, searched or cut by a function that is linear in it."""
CHARACTERS_MAX = 64 << 10
"""Of one word: what puts texts together makes none that is longer."""
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

    def read(self, characters: int, times: int = 1) -> None:
        """Spend what it costs to go over so many characters. Raises Spent."""
        self.spend(characters * times // CHARACTERS_A_STEP)


def check_size(characters: int) -> None:
    """Raises Spent if a text that is about to be made is too long."""
    if characters > CHARACTERS_MAX:
        raise Spent


def replaced(text: str, old: str, new: str, count: int = -1) -> str:
    """`str.replace`, but raises Spent before it makes a text that is too long."""
    if len(new) > len(old):
        found = text.count(old) if count < 0 else min(text.count(old), count)
        check_size(len(text) + found * (len(new) - len(old)))
    return text.replace(old, new, count)


def filled_in(text: str, place: str, words: Iterable[str]) -> str:
    """Each of the words put in the next of the places, `%s` or `{}`. Raises Spent as above."""
    first, *pieces = text.split(place)
    made, size = [first], len(text)
    given = iter(words)
    for piece in pieces:
        word = next(given, place)
        check_size(size := size + len(word))
        made += (word, piece)
    return "".join(made)
