"""Paths in the kernel's reading, and matching of words against the paths in rules.

Globs become regular expressions that match in linear time, with any stars: a piece between two
stars is searched once, from the left, without backtracking. Its first match is sufficient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

from opsjobs.safety.symbolic_words import ANY, HOME, LATER, MAYBE_EMPTY, OUTSIDE, SOMETHING, STAR

_UNKNOWN = re.compile(f"[{MAYBE_EMPTY}{SOMETHING}{OUTSIDE}]")
_WILD = {"*": "[^/]*", "?": "[^/]", STAR: "[^/]*", ANY: "[^/]"}
_ALL = re.compile(f"[.{ANY}]*{STAR}[{STAR}{ANY}]*")
"""A glob that matches nearly every name: `*`, `.??*`."""
_PATH_MAX = 4_096
"""No kernel accepts a longer path; of one only the part below a folder counts."""
_CLIMBS = 3
"""So many `..` in a row are taken to lead to the root, from any folder."""


def normal(path: str, cwd: str | None = None) -> str:
    """Return one spelling for many: `//etc/./x/../` -> `/etc`.

    `cwd`: the folder that a relative path starts from, as far as it is known.
    """
    if not path:
        return path
    if path[0] not in "/" + HOME and cwd is not None:
        path = f"{cwd}/{path}"
    if "//" not in path and "/." not in path and path[0] != "." and not path.endswith("/"):
        return path
    parts: list[str] = []
    climbed = 0
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            climbed += 1
    if path[0] == "/" or (climbed >= _CLIMBS and path[0] == "."):
        return "/" + "/".join(parts)
    return "/".join([".."] * climbed + parts) or "."


def readings(word: str, cwd: str | None = None) -> Iterator[str]:
    """Return the paths that a word refers to.

    They are the word itself, and for `/etc/*` also the folder that it empties.
    """
    path = normal(word, cwd)
    yield path
    head, slash, tail = path.rpartition("/")
    if slash and _ALL.fullmatch(tail):
        yield head or "/"
    elif _ALL.fullmatch(path) and cwd is None:
        yield "."


def paths_if_empty(word: str, cwd: str | None = None) -> Iterator[str]:
    """Return the paths that result if the parts that may be empty are empty: `…/` -> `/`.

    None if no part may be empty.
    """
    if MAYBE_EMPTY in word and (left := word.replace(LATER, "").replace(MAYBE_EMPTY, "")):
        yield from readings(left, cwd)


@cache
def _plain(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns without wildcards."""
    return tuple(pattern for pattern in patterns if "*" not in pattern and "?" not in pattern)


@cache
def _expression(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return one expression for a whole set; only the rules have sets, so there are few."""
    return re.compile("|".join(_text(pattern) for pattern in patterns), re.DOTALL)


def _text(pattern: str) -> str:
    deep = pattern.endswith("/**")
    text = (pattern[:-3] if deep else pattern).replace("~", HOME)
    # A star matches within one segment.
    return "".join(_WILD.get(c, re.escape(c)) for c in text) + ("/.+" if deep else "")


def may_be(path: str, patterns: tuple[str, ...]) -> bool:
    """Return True if the path may be one of these patterns.

    `/etc` matches itself, `/home/*` one segment, `/etc/**` everything below. A glob in the path
    matches as every name that it may expand to; an unknown part matches no name.
    """
    if _expression(patterns).fullmatch(path[:_PATH_MAX]):
        return True
    if STAR not in path and ANY not in path:
        return False
    slashes = path.count("/")
    meant = [pattern for pattern in _plain(patterns) if pattern.count("/") == slashes]
    globbed = compile_glob(path) if meant else None
    return globbed is not None and any(globbed.fullmatch(pattern) for pattern in meant)


def is_unknown(word: str) -> bool:
    """Return True if nothing of the word is known."""
    return bool(word) and not _UNKNOWN.sub("", word)


LITERALS_MAX = 200
"""Characters of a glob, stars excepted; no command name or rule's path is as long."""
_RUN = re.compile(f"[{STAR}{ANY}]+")


def wildcards(word: str) -> int:
    """Count the runs of wildcards in a word; a run counts once, however long it is."""
    return len(_RUN.findall(word)) if STAR in word or ANY in word else 0


def collapse_stars(word: str) -> str:
    """Return the glob with one star for each run of wildcards: `*?**` -> `?*`."""
    return _RUN.sub(lambda run: ANY * run[0].count(ANY) + (STAR if STAR in run[0] else ""), word)


@lru_cache(maxsize=2048)
def compile_glob(word: str) -> re.Pattern[str] | None:
    """Return a pattern for `fullmatch` of the texts that the glob may match.

    A wildcard never matches a slash. None if the glob is too long to match any name.
    """
    plain = collapse_stars(word)
    if len(plain) - plain.count(STAR) > LITERALS_MAX:
        return None
    segments = (_glob_expression(segment, "[^/]", r"(?=/|\Z)") for segment in plain.split("/"))
    return re.compile("/".join(segments), re.DOTALL)


@lru_cache(maxsize=2048)
def compile_prefix(word: str, *, longest: bool) -> re.Pattern[str]:
    """Return a pattern for the shortest, or longest, prefix that the glob matches.

    Its wildcards match slashes, too.
    """
    return re.compile(_glob_expression(collapse_stars(word), ".", "", longest=longest), re.DOTALL)


def _glob_expression(word: str, any_: str, end: str, *, longest: bool = True) -> str:
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
