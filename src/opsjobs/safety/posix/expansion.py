"""Expand `${…}`: defaults, pieces and replacements of a known value."""

from __future__ import annotations

import re
from collections.abc import Callable

from opsjobs.safety.budget import Budget, check_size, replaced
from opsjobs.safety.globs import beginning, wildcards
from opsjobs.safety.symbolic_words import (
    MAYBE_EMPTY,
    SOMETHING,
    SPLIT,
    is_known,
    mark_special,
    parse_number,
)

_SHAPE = re.compile(
    r"\$\{([!#]?)([A-Za-z_]\w*|[0-9]{1,9}|[@*#?$!0-])(\[[^\]]*\])?(.*)\}\Z", re.DOTALL
)
_PIECE = re.compile(r":\s*(-?[0-9]{1,9}|\(-?[0-9]{1,9}\))\s*(?::\s*(-?[0-9]{1,9}))?\Z")
_CASES: dict[str, Callable[[str], str]] = {
    "^^": str.upper,
    ",,": str.lower,
    "^": str.capitalize,
    ",": lambda v: v[:1].lower() + v[1:],
}

Lookup = Callable[[str], list[str]]
_SEARCHED_MAX = 1_000
"""Characters of a value in which a glob is looked for at every place."""


def expanded(
    text: str,
    lookup: Lookup,
    default: Callable[[], list[str]],
    slash: Callable[[str], bool],
    budget: Budget,
) -> list[str]:
    """Return the values of one `${…}`, as written in `text`.

    `lookup`: the values of a name; `default`: those of the word after `:-`;
    `slash`: whether a name's value begins with `/`.
    """
    budget.read(len(text))
    found = _SHAPE.match(text)
    if found is None:
        return [MAYBE_EMPTY]
    sigil, name, index, rest = found.groups()
    if sigil == "#":
        return [SOMETHING]
    values = lookup(name)
    if sigil == "!":
        return [
            v
            for value in values
            for v in (lookup(value) if value.isidentifier() else [MAYBE_EMPTY])
        ]
    if index and index not in ("[@]", "[*]"):
        values = _element(values, index[1:-1])
    if not rest:
        return values
    budget.read(sum(map(len, values)))
    return _operated(rest, values, default, slash(name), budget)


def _element(values: list[str], index: str) -> list[str]:
    at = parse_number(index)
    if at is None or at < 0:
        return [MAYBE_EMPTY]
    return [
        (parts[at] if at < len(parts) else "") for value in values for parts in [value.split(SPLIT)]
    ]


def _operated(
    rest: str, values: list[str], default: Callable[[], list[str]], absolute: bool, budget: Budget
) -> list[str]:
    head = rest[:2] if rest[0] == ":" and rest[1:2] in tuple("-=?+") else rest[:1]
    if head in (":-", "-", ":=", "="):
        unset = any(MAYBE_EMPTY in v or not v for v in values)
        return list(
            dict.fromkeys(
                [*(v for v in values if v and v != MAYBE_EMPTY), *(default() if unset else [])]
            )
        ) + ([SOMETHING] if MAYBE_EMPTY in values else [])
    if head in (":+", "+"):
        return [*default(), ""]
    if head in (":?", "?"):
        return [v.replace(MAYBE_EMPTY, SOMETHING) for v in values]
    piece = _PIECE.match(rest)
    if piece is not None:
        return _pieces(values, int(piece[1].strip("()")), piece[2], absolute)
    return [_changed(value, rest, budget) for value in values]


def _pieces(values: list[str], at: int, length: str | None, absolute: bool) -> list[str]:
    if absolute and at == 0 and length == "1":
        return ["/"]
    count = None if length is None else int(length)
    return [_piece(v, at, count) if is_known(v) else MAYBE_EMPTY for v in values]


def _piece(value: str, at: int, length: int | None) -> str:
    start = max(len(value) + at, 0) if at < 0 else at
    if length is None:
        return value[start:]
    return value[start : start + length] if length >= 0 else value[start:length]


def _changed(value: str, rest: str, budget: Budget) -> str:
    if not is_known(value):
        # The result of trimming an unknown value is a part of it, which may be empty, too.
        return MAYBE_EMPTY
    if rest in _CASES:
        return _CASES[rest](value)
    if rest[0] in "#%":
        return _trimmed(value, rest)
    if rest[0] == "/" and "/" in rest[1:]:
        return _replaced(value, rest, budget)
    return value if rest[0] == "@" else MAYBE_EMPTY


def _glob(pattern: str) -> str | None:
    """Return the pattern as a glob; None if it contains a value of the script."""
    if "$" in pattern or "`" in pattern:
        return None
    return mark_special(pattern.replace('"', "").replace("'", ""))


def _trimmed(value: str, rest: str) -> str:
    longest = rest[:2] in ("##", "%%")
    glob = _glob(rest[2:] if longest else rest[1:])
    if glob is None:
        return MAYBE_EMPTY
    if rest[0] == "#":
        return value[_length(value, glob, longest) :]
    return value[: len(value) - _length(value[::-1], glob[::-1], longest)]


def _length(value: str, glob: str, longest: bool) -> int:
    """Return the length of the prefix that matches the glob."""
    found = beginning(glob, longest=longest).match(value)
    return 0 if found is None else found.end()


def _replaced(value: str, rest: str, budget: Budget) -> str:
    every = rest.startswith("//")
    old, _, new = rest[2 if every else 1 :].partition("/")
    glob = _glob(old.lstrip("#%"))
    if not glob or "$" in new or "`" in new:
        return MAYBE_EMPTY
    new, count = new.strip("\"'"), -1 if every else 1
    if not wildcards(glob):
        return replaced(value, glob, new, count)
    if len(value) > _SEARCHED_MAX:
        return MAYBE_EMPTY
    budget.read(len(value), len(value))  # a position without a match reads to the end
    made = beginning(glob, longest=True).sub(lambda _: new, value, count=max(count, 0))
    check_size(len(made))
    return made
