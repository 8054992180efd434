"""Compile globs to regular expressions that match in linear time, with any stars.

A piece between two stars is searched once, from the left, without backtracking: its first match is
sufficient.
"""

from __future__ import annotations

import re
from functools import lru_cache

from opsjobs.safety.symbolic_words import ANY, STAR

LITERALS_MAX = 200
"""Characters of a glob, stars excepted; no command name or rule's path is as long."""
_RUN = re.compile(f"[{STAR}{ANY}]+")


def wildcards(word: str) -> int:
    """Count the runs of wildcards in a word; a run counts once, however long it is."""
    return len(_RUN.findall(word)) if STAR in word or ANY in word else 0


def normal(word: str) -> str:
    """Return the glob with one star for each run of wildcards: `*?**` -> `?*`."""
    return _RUN.sub(lambda run: ANY * run[0].count(ANY) + (STAR if STAR in run[0] else ""), word)


@lru_cache(maxsize=2048)
def matching(word: str) -> re.Pattern[str] | None:
    """Return a pattern for `fullmatch` of the texts that the glob may match.

    A wildcard never matches a slash. None if the glob is too long to match any name.
    """
    plain = normal(word)
    if len(plain) - plain.count(STAR) > LITERALS_MAX:
        return None
    segments = (_expression(segment, "[^/]", r"(?=/|\Z)") for segment in plain.split("/"))
    return re.compile("/".join(segments), re.DOTALL)


@lru_cache(maxsize=2048)
def beginning(word: str, *, longest: bool) -> re.Pattern[str]:
    """Return a pattern for the shortest, or longest, prefix that the glob matches.

    Its wildcards match slashes, too.
    """
    return re.compile(_expression(normal(word), ".", "", longest=longest), re.DOTALL)


def _expression(word: str, any_: str, end: str, *, longest: bool = True) -> str:
    first, *rest = (
        "".join(any_ if c == ANY else re.escape(c) for c in piece) for piece in word.split(STAR)
    )
    if not rest:
        return first + end
    *middle, last = rest
    # Atomic groups: a match of a piece is final. Only the last piece must reach the end.
    once = "".join(f"(?>{any_}*?{piece})" for piece in middle if piece)
    star = f"{any_}*" if longest else f"{any_}*?"
    return f"{first}{once}{star}{last}{end}"
