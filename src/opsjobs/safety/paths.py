"""Paths in the kernel's reading, and matching of words against the paths in rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from opsjobs.safety.globs import matching
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
    globbed = matching(path) if meant else None
    return globbed is not None and any(globbed.fullmatch(pattern) for pattern in meant)


def is_unknown(word: str) -> bool:
    """Return True if nothing of the word is known."""
    return bool(word) and not _UNKNOWN.sub("", word)
