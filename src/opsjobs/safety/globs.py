"""Globs as regular expressions that take linear time, however many stars they have.

What stands between two stars is looked for once, from the left, and never again: the first place is as good as any later one.
"""

from __future__ import annotations

import re
from functools import lru_cache

from opsjobs.safety.symbolic_words import ANY, STAR

LITERALS_MAX = 200
"""Characters of a glob beside its stars; no name of a command and no path of a rule is as long."""
_RUN = re.compile(f"[{STAR}{ANY}]+")


def wildcards(word: str) -> int:
    """How many runs of wildcards a word has; a run is one, however long it is."""
    return len(_RUN.findall(word)) if STAR in word or ANY in word else 0


def normal(word: str) -> str:
    """The same glob with one star for each run: `*?**` -> `?*`."""
    return _RUN.sub(lambda run: ANY * run[0].count(ANY) + (STAR if STAR in run[0] else ""), word)


@lru_cache(maxsize=2048)
def matching(word: str) -> re.Pattern[str] | None:
    """What matches (`fullmatch`) the texts that a glob may be, in which a wildcard is no slash; None if it is too long for any."""
    plain = normal(word)
    if len(plain) - plain.count(STAR) > LITERALS_MAX:
        return None
    segments = (_expression(segment, "[^/]", r"(?=/|\Z)") for segment in plain.split("/"))
    return re.compile("/".join(segments), re.DOTALL)


@lru_cache(maxsize=2048)
def beginning(word: str, *, longest: bool) -> re.Pattern[str]:
    """What matches the shortest, or the longest, beginning of a text that a glob fits; its wildcards stand for slashes, too."""
    return re.compile(_expression(normal(word), ".", "", longest=longest), re.DOTALL)


def _expression(word: str, any_: str, end: str, *, longest: bool = True) -> str:
    first, *rest = ("".join(any_ if c == ANY else re.escape(c) for c in piece) for piece in word.split(STAR))
    if not rest:
        return first + end
    *middle, last = rest
    # Atomic: where a piece was found it stays. Only the last one goes for the end.
    once = "".join(f"(?>{any_}*?{piece})" for piece in middle if piece)
    star = f"{any_}*" if longest else f"{any_}*?"
    return f"{first}{once}{star}{last}{end}"
