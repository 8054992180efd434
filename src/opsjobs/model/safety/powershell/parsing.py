"""PowerShell's grammar, and what it does not know of the language put right before it reads."""

from __future__ import annotations

import re

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

_LANGUAGE = Language(tree_sitter_powershell.language())
# Words without quotes that PowerShell takes and the grammar does not: `$env:TEMP\\x`, `Name,Id`, `--flag=1`. Strings and comments stay.
_BARE = re.compile(
    r"""(?P<stays><\#.*?\#>|\#[^\n]*|@"[ \t]*\n.*?\n"@|@'[ \t]*\n.*?\n'@|"(?:[^"`]|`.|"")*"|'(?:[^']|'')*')"""
    r"""|(?P<path>(?<![\w.\])$])\$(?:\w+:)?\w+(?:[\\/][^\s"'`;|(){},]*)+)"""
    r"""|(?P<flag>(?<=\s)(?:--[\w-]+(?:=[^\s"';|(){}]*)?|-\w+[:=][^\s"'$;|(){}@]+))"""
    r"""|(?P<size>(?<![\w.])\d+)(?:[kmgtp]b)\b"""
    r"""|(?P<item>(?<=[\s,])[A-Za-z*][\w:\\./*-]*(?=[ \t]*,)|(?<=,)[A-Za-z*][\w:\\./*-]*|(?<=,[ \t])[A-Za-z*][\w:\\./*-]*)""",
    re.DOTALL | re.IGNORECASE,
)


def parsed(text: str) -> tuple[bytes, Node]:
    """The text as it was understood, in bytes, and its tree."""
    source, root = _parsed(text)
    if root.has_error:
        repaired, other = _parsed(_BARE.sub(_quoted, text))
        if not other.has_error:
            return repaired, other
    return source, root


def _parsed(text: str) -> tuple[bytes, Node]:
    source = text.encode()
    return source, Parser(_LANGUAGE).parse(source).root_node


def _quoted(found: re.Match[str]) -> str:
    if found["stays"] is not None:
        return found[0]
    if found["size"] is not None:
        return found["size"]
    return f'"{found[0]}"' if found["path"] is not None else f"'{found[0]}'"
