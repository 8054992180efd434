"""Parse PowerShell, after repairing the syntax that the grammar does not support."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tree_sitter_powershell
from tree_sitter import Language, Node

from opsjobs.safety.budget import Budget
from opsjobs.safety.grammar import parsed

_LANGUAGE = Language(tree_sitter_powershell.language())
# Words without quotes that PowerShell accepts and the grammar does not: `$env:TEMP\\x`, `Name,Id`,
# `--flag=1`, `100MB`. Strings stay.
_BARE = re.compile(
    r"""(?P<stays>\#.*|"(?:[^"`]|`.|"")*"|'(?:[^']|'')*')"""
    r"""|(?P<path>(?<![\w.\])$])\$(?:\w+:)?\w+(?:[\\/][^\s"'`;|(){},]*)+)"""
    r"""|(?P<flag>(?<=\s)(?:--[\w-]+(?:=[^\s"';|(){}]*)?|-\w+[:=][^\s"'$;|(){}@]+))"""
    r"""|(?P<size>(?<![\w.])\d+)(?:[kmgtp]b)\b"""
    r"""|(?P<item>(?<=[\s,])[A-Za-z*][\w:\\./*-]*(?=[ \t]*,)"""
    r"""|(?<=,)[A-Za-z*][\w:\\./*-]*|(?<=,[ \t])[A-Za-z*][\w:\\./*-]*)""",
    re.IGNORECASE,
)
_REPAIRED_BYTES_MAX = 32 << 10
"""The longest text that is repaired.

A text of more commands is not read to its end anyway, and an invalid text takes long to read.
"""
_PARAM = re.compile(r"\bparam\s*\(", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])(\d+)[kmgtp]b\b", re.IGNORECASE)
_OPENS = {'@"': '"@', "@'": "'@", "<#": "#>"}


def understood(text: str, budget: Budget) -> tuple[bytes, Node]:
    """Return the text as it was parsed, in bytes, and its tree. Raises Spent."""
    source = text.encode()
    root = parsed(_LANGUAGE, source, budget)
    if root.has_error and len(source) <= _REPAIRED_BYTES_MAX:
        repaired = "\n".join(_repaired(_broken(text).split("\n"))).encode()
        other = parsed(_LANGUAGE, repaired, budget)
        if not other.has_error:
            return repaired, other
    return source, root


def _broken(text: str) -> str:
    """Add a new line after each `param(…)`, which only the grammar needs."""
    pieces, at = [], 0
    for found in _PARAM.finditer(text):
        if found.start() < at:
            continue  # each letter is read once
        end, open_ = found.end(), 1
        while end < len(text) and open_:
            open_ += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        pieces += [text[at:end], "\n"]
        at = end
    return "".join((*pieces, text[at:]))


def _repaired(lines: list[str]) -> Iterator[str]:
    """Quote bare words line by line, except in here-strings and block comments."""
    end = ""
    for line in lines:
        if end:
            end = "" if end in line else end
            yield line
            continue
        end = next(
            (
                close
                for begin, close in _OPENS.items()
                if begin in line and close not in line.partition(begin)[2]
            ),
            "",
        )
        yield line if end else _BARE.sub(_quoted, line)


def _quoted(match: re.Match[str]) -> str:
    if match["stays"] is not None:
        return _SIZE.sub(r"\1", match[0]) if "$(" in match[0] else match[0]
    if match["size"] is not None:
        return match["size"]
    return f'"{match[0]}"' if match["path"] is not None else f"'{match[0]}'"
