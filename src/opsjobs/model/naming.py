"""The characters of names: no two different names may look alike.

Also the names of hosts."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterator
from functools import cache, partial
from typing import Annotated

from pydantic import AfterValidator, Field

from opsjobs.model import text_patterns

_CATEGORIES = {
    "Cc": "it is a control character",
    "Cf": "it cannot be seen, or changes the direction of the text",
    "Cs": "it is half a character",
    "Co": "it has no meaning that all share",
    "Cn": "Unicode does not know it",
    "Zl": "it ends the line",
    "Zp": "it ends the paragraph",
    "Zs": "it looks like a blank",
}
# Invisible characters whose category does not show it: fillers, joiners, variation selectors.
_UNSEEN = (
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x2800,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
)
_LOOKS_LIKE = {
    "\u02d7": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2043": "-", "\u2212": "-",
    "\u2044": "/", "\u2215": "/", "\u29f8": "/",
    "\u2236": ":", "\ua789": ":", "\u201a": ",", "\u2024": ".", "\u2223": "|",
    "\u02bc": "'", "\u02cb": "`", "\u2217": "*",
}  # fmt: skip
# Scripts with letters that look like those of another one of these.
_ALIKE = (
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "ARMENIAN",
    "CHEROKEE",
    "COPTIC",
    "LISU",
    "GEORGIAN",
    "GOTHIC",
    "DESERET",
    "OLD",
    "WARANG",
)
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def check_name(text: str) -> str:
    r"""Return the name in Unicode's composed form (NFC). Raises ValueError for a bad character.

    >>> check_name("Zoe\u0308") == check_name("Zo\u00eb")
    True"""
    name = unicodedata.normalize("NFC", text)
    for character in name:
        if (why := _fault(character)) is not None:
            raise ValueError(
                f"the name {name[:40]!a} has the character {_in_words(character)}: {why}. Take it "
                "out"
            )
    if name != name.strip():
        raise ValueError(f"the name {name[:40]!a} begins or ends with a blank: take it away")
    if name and unicodedata.category(name[0]).startswith("M"):
        raise ValueError(
            f"the name {name[:40]!a} begins with {_in_words(name[0])}, which belongs to a letter "
            "before it"
        )
    for word in _split_words(name):
        _check_scripts(name, word)
    return name


Name = Annotated[
    str, Field(min_length=1, max_length=200, pattern=text_patterns.NAME), AfterValidator(check_name)
]
"""A name of a target, group or credential.

It has no comma or slash, so that lists and paths of names stay unambiguous."""


Title = Annotated[str, AfterValidator(check_name)]
"""A name for display only, or one that may contain the separators of name lists."""


Composed = Annotated[str, AfterValidator(partial(unicodedata.normalize, "NFC"))]
"""A reference, by name or otherwise, in the composed form of stored names."""


def check_host(host: str) -> str:
    """Return the host if it is an IP address or a host name; else raise ValueError.

    A host never starts with `-`, so that no program reads it as an option."""
    labels = host.rstrip(".").split(".")
    if not _is_address(host) and (
        len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels)
    ):
        raise ValueError(f"{host!r} is neither an IP address nor a host name")
    return host


Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(check_host)]


def is_clean(text: str) -> bool:
    """Return True if `check_name` would return the name unchanged."""
    try:
        return check_name(text) == text
    except ValueError:
        return False


def _fault(character: str) -> str | None:
    if character.isascii():
        return None if character.isprintable() else _CATEGORIES["Cc"]
    if ord(character) in _UNSEEN:
        return _CATEGORIES["Cf"]
    if (why := _CATEGORIES.get(unicodedata.category(character))) is not None:
        return why
    alike = _LOOKS_LIKE.get(character) or unicodedata.normalize("NFKC", character)
    return f"it looks like {alike!r}" if len(alike) == 1 and alike.isascii() else None


def _is_address(host: str) -> bool:
    address, percent, scope = host.partition("%")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return not percent or _SCOPE.fullmatch(scope) is not None


def _split_words(name: str) -> Iterator[str]:
    word = ""
    for character in name:
        if character.isalpha():
            word += character
        elif word and not unicodedata.category(character).startswith("M"):
            yield word
            word = ""
    if word:
        yield word


def _check_scripts(name: str, word: str) -> None:
    found: dict[str, str] = {}
    for letter in word:
        if (script := _script(letter)) is not None:
            found.setdefault(script, letter)
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise ValueError(
            f"the name {name[:40]!a} has letters of different alphabets in one word that look "
            f"alike: {_in_words(first)} is "
            f"{one.capitalize()}, {_in_words(second)} is {other.capitalize()}. Write the word in "
            "one alphabet"
        )


@cache
def _script(letter: str) -> str | None:
    """Return the alphabet of a letter if another alphabet looks like it.

    Python's Unicode data have no scripts, but character names start with them."""
    script = unicodedata.name(letter, "").partition(" ")[0]
    return script if script in _ALIKE else None


def _in_words(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '(no name)')}"
