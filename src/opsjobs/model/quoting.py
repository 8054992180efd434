"""A value as one word of the target's shell: nothing in it is anything but itself there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Shell = Literal["posix", "cmd", "powershell"]
Quote = Callable[[str], str]

_CMD_SPECIAL = re.compile(r'[()%!^"<>&|]')
_TRAILING_BACKSLASHES = re.compile(r'(\\*)("|$)')
_POSIX_SPECIAL = re.compile(r"['\\]")
_CONTROL = re.compile(r"[\x00-\x1f]")
# PowerShell takes typographic quotes for quotes.
_POWERSHELL_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")


class Unquotable(ValueError):
    """The shell has no way to be given this value."""


def shell_of(platform: str) -> Shell:
    """The shell that reads a command on a target of this platform."""
    return "cmd" if platform == "windows" else "posix"


def quote_for(shell: Shell) -> Quote:
    """How this shell is given a value; the function raises Unquotable."""
    return {"posix": posix, "cmd": cmd, "powershell": powershell}[shell]


def posix(value: str) -> str:
    r"""For sh and its kin, and for fish: a backslash stands outside of the quotes, where all of them read it the same way.

    >>> posix("it's"), posix("a\\b")
    ("'it'\\''s'", "'a'\\\\'b'")
    """
    if "\x00" in value:
        raise Unquotable("no command can be given a NUL character")
    return "'" + _POSIX_SPECIAL.sub(r"'\\\g<0>'", value) + "'"


def cmd(value: str) -> str:
    """For cmd.exe: quoted for the program that gets it, and every character that cmd would read with a caret before it."""
    if _CONTROL.search(value):
        raise Unquotable("cmd.exe cannot be given a line break or another control character in a word")
    word = _TRAILING_BACKSLASHES.sub(lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return _CMD_SPECIAL.sub(r"^\g<0>", f'"{word}"')


def powershell(value: str) -> str:
    """For PowerShell: between single quotes nothing has a meaning but they themselves, which are doubled."""
    if "\x00" in value:
        raise Unquotable("no command can be given a NUL character")
    return "'" + _POWERSHELL_QUOTES.sub(r"\1\1", value) + "'"
