"""Unknown fields of a request body, and the known field that each one probably means."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

NAME_CHARACTERS_MAX = 64
ABBREVIATION_CHARACTERS_MIN = 3


@dataclass(frozen=True, slots=True)
class UnknownField:
    """The placeholder for the value of an unknown field; `fields` are the known ones."""

    name: str
    fields: Collection[str]

    @property
    def near(self) -> str | None:
        """The field that was probably meant; computed only if it is shown."""
        return nearest(self.name, self.fields)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is most similar, or that is abbreviated; None if none is.

    >>> nearest("dest", ["source", "destination"])
    'destination'
    >>> nearest("cmd", ["cwd", "command"])
    'command'
    """
    if len(name) > NAME_CHARACTERS_MAX:
        return None
    plain = _plain(name)
    spelt = {_plain(one): one for one in known}
    if plain in spelt:
        return spelt[plain]
    if len(plain) >= ABBREVIATION_CHARACTERS_MIN:
        longer = [one for key, one in spelt.items() if _abbreviates(plain, key)]
        if len(longer) == 1:
            return longer[0]
    close = get_close_matches(plain, spelt, n=1)
    return spelt[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _abbreviates(short: str, name: str) -> bool:
    """Return True if the short name abbreviates the other one.

    The other name starts with the same letter, and has all of its letters in order."""
    letters = iter(name)
    return (
        short[0] == name[:1]
        and len(short) < len(name)
        and all(letter in letters for letter in short)
    )
