"""Compute the results of .NET string methods, and of commands that list files."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from opsjobs.safety.budget import check_size, replaced
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, cleared, is_known, parse_number

_PLACE = re.compile(r"\{(\d{1,9})[^{}]*\}")
_NARROWS_NOT = {"-path", "-literalpath", "-force", "-recurse", "-directory", "-file"}


def contents(words: list[str]) -> list[str]:
    """Return all contents of the folders of `Get-ChildItem`, if no option filters them."""
    options = {w.lower() for w in words if w.startswith("-")}
    paths = [w for w in words if not w.startswith("-")]
    if options - _NARROWS_NOT or not paths:
        return [MAYBE_EMPTY]
    return [path if "*" in path else path.rstrip("\\/") + "\\*" for path in paths]


def _indexes(arguments: list[str]) -> list[int]:
    """Return the arguments as indexes; none if one of them is not an index."""
    numbers = [n for n in map(parse_number, arguments) if n is not None and n >= 0]
    return numbers if len(numbers) == len(arguments) else []


def _substring(text: str, arguments: list[str]) -> str:
    numbers = _indexes(arguments)
    if not numbers:
        return MAYBE_EMPTY
    start = numbers[0]
    return text[start : start + numbers[1] if len(numbers) > 1 else None]


def _insert(text: str, arguments: list[str]) -> str:
    at = _indexes(arguments[:1])
    return (
        text[: at[0]] + arguments[1] + text[at[0] :] if len(arguments) > 1 and at else MAYBE_EMPTY
    )


def _remove(text: str, arguments: list[str]) -> str:
    numbers = _indexes(arguments)
    if len(numbers) < 2:
        return MAYBE_EMPTY
    return text[: numbers[0]] + text[numbers[0] + numbers[1] :]


def _replace(text: str, arguments: list[str]) -> str:
    return (
        replaced(text, arguments[0], arguments[1])
        if len(arguments) > 1 and arguments[0]
        else MAYBE_EMPTY
    )


METHODS: dict[str, Callable[[str, list[str]], str]] = {
    ".replace": _replace,
    ".substring": _substring,
    ".insert": _insert,
    ".remove": _remove,
    **dict.fromkeys((".tolower", ".tolowerinvariant"), lambda text, _: text.lower()),
    **dict.fromkeys((".toupper", ".toupperinvariant"), lambda text, _: text.upper()),
    **dict.fromkeys((".trim", ".tostring", ".normalize"), lambda text, _: text.strip()),
}


def character(item: str) -> str:
    """Return the character of a code: `[char]65`."""
    try:
        number = int(item, 16) if item.lower().startswith("0x") else int(item)
    except ValueError:
        return item if len(item) == 1 else MAYBE_EMPTY
    return cleared(chr(number)) if 0 <= number < 0x110000 else MAYBE_EMPTY


def _bytes(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4)).decode("latin-1")
    except ValueError:
        return MAYBE_EMPTY


def string_of(text: str, encoding: str) -> str:
    """Return the text of bytes in an encoding; the bytes are letters of Latin-1 here."""
    if not is_known(text):
        return MAYBE_EMPTY
    try:
        return cleared(
            text.encode("latin-1").decode("utf-16-le" if "unicode" in encoding else "utf-8")
        )
    except UnicodeError:
        return MAYBE_EMPTY


def formatted(arguments: list[str]) -> str:
    """Return a formatted text: `"{0}-{1}" -f a, b`."""
    items = arguments[1:]
    places = [int(found[1]) for found in _PLACE.finditer(arguments[0])]
    check_size(len(arguments[0]) + sum(len(items[place]) for place in places if place < len(items)))
    return _PLACE.sub(
        lambda found: items[int(found[1])] if int(found[1]) < len(items) else "", arguments[0]
    )


def _join(arguments: list[str]) -> str:
    check_size(sum(map(len, arguments)) + len(arguments[0]) * len(arguments))
    return arguments[0].join(arguments[1:])


STATIC: dict[str, Callable[[list[str]], str]] = {
    "convert::frombase64string": lambda arguments: _bytes(arguments[0]),
    "string::join": _join,
    "string::concat": "".join,
    "string::new": "".join,
    "string::format": formatted,
}
