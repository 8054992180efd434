r"""Undo quotes of a shell: `$'\x72m'`, and the escapes of printf and `echo -e`."""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|0?[0-7]{1,3}|c.|.)", re.DOTALL
)
_NAMED = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_IN_DOUBLE = re.compile(r'\\([\\"$`]|\n)')
UNICODE_MAX = 0x10FFFF


def ansi_c(text: str) -> str:
    """Return the text inside `$'…'` with its escapes undone."""
    return _ESCAPE.sub(_character, text)


def double(text: str) -> str:
    """Return the text inside double quotes; a backslash escapes only special characters."""
    if "\\" not in text:
        return text
    return _IN_DOUBLE.sub(lambda found: "" if found[1] == "\n" else found[1], text)


def _character(found: re.Match[str]) -> str:
    said = found[1]
    if said[0] in "xuU" and len(said) > 1:
        return _character_at(int(said[1:], 16))
    if said[0] in "01234567":
        return _character_at(int(said, 8) & 0xFF)
    if said[0] == "c" and len(said) > 1:
        return _character_at(ord(said[1]) & 0x1F)
    return _NAMED.get(said, said)


def _character_at(number: int) -> str:
    return chr(number) if number <= UNICODE_MAX and not 0xD800 <= number <= 0xF8FF else "\ufffd"
