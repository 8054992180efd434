"""Shell quoting: a value as one literal word of the target's shell."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Shell = Literal["posix", "cmd", "powershell"]
Quote = Callable[[str], str]

# A caret after each % keeps what follows from being the name of a variable: one before the closing
# % would not, as cmd ignores it behind a modifier (%A:~0,1^%).
_CMD_SPECIAL = re.compile(r'[()%!^"<>&|]|(?<=%).', re.DOTALL)
_TRAILING_BACKSLASHES = re.compile(r'(\\*)("|$)')
_POSIX_SPECIAL = re.compile(r"['\\]")
_CONTROL = re.compile(r"[\x00-\x1f]")
# PowerShell treats typographic quotes as quotes.
_POWERSHELL_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")


class Unquotable(ValueError):
    """The value cannot be quoted for this shell."""


def quote_for(shell: Shell) -> Quote:
    """Return the quoting function of this shell; it raises Unquotable."""
    return {"posix": posix, "cmd": cmd, "powershell": powershell}[shell]


def posix(value: str) -> str:
    r"""Quote for POSIX shells and fish.

    Backslashes are outside of the quotes, where all of these shells read them in the same way.

        >>> posix("it's"), posix("a\\b")
        ("'it'\\''s'", "'a'\\\\'b'")"""
    if "\x00" in value:
        raise Unquotable("no command can be given a NUL character")
    return "'" + _POSIX_SPECIAL.sub(r"'\\\g<0>'", value) + "'"


def cmd(value: str) -> str:
    """Quote for cmd.exe: quotes for the called program, and carets for cmd's own syntax."""
    if _CONTROL.search(value):
        raise Unquotable(
            "cmd.exe cannot be given a line break or another control character in a word"
        )
    word = _TRAILING_BACKSLASHES.sub(lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return _CMD_SPECIAL.sub(r"^\g<0>", f'"{word}"')


def powershell(value: str) -> str:
    """Quote for PowerShell in single quotes, in which only quotes are special, and doubled."""
    if "\x00" in value:
        raise Unquotable("no command can be given a NUL character")
    return "'" + _POWERSHELL_QUOTES.sub(r"\1\1", value) + "'"
