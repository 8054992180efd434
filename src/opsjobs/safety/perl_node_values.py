"""Compute the value of an argument in Perl or Node, if the text determines it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from opsjobs.safety.budget import Budget, check_size
from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY

# One that is not closed goes to the end, so that each letter is looked at once.
STRING = (
    r"""(?:"((?:[^"\\]|\\.)*+)(?:"|\Z)|'((?:[^'\\]|\\.)*+)(?:'|\Z)|`((?:[^`\\]|\\.)*+)(?:`|\Z))"""
)
_STRING = re.compile(STRING, re.DOTALL)
_PIECES = re.compile(
    STRING + r"|[^\s,;()\[\]{}.+\"'`]++(?:\[[^\]]{0,99}+\])?"
    r"(?:\.\w++(?:\[[^\]]{0,99}+\])?(?:\(\d*+\))?(?:\[[^\]]{0,99}+\])?)*+|[,;.+()\[\]{}]",
    re.DOTALL,
)
_ASSIGNED = {
    "perl": re.compile(r"(?:\b(?:my|our|local)\s+)?\$(\w+)\s*=(?![=~>])\s*([^;\n]{1,2000})"),
    "node": re.compile(r"\b(?:const|let|var)\s+(\w+)\s*=(?![=>])\s*([^;\n]{1,2000})"),
}
_TAKEN = {
    "perl": re.compile(r"\b(?:my|our)\s*+\(([^)]{0,999}+)\)\s*+=\s*+(@ARGV|@_)"),
    "node": re.compile(
        r"\b(?:const|let|var)\s*+\[([^\]]{0,999}+)\]\s*+=\s*+(process\.argv(?:\.slice\(2\))?)"
    ),
}
_ARGUMENT = re.compile(
    r"\$ARGV\[(-?\d+)\]|process\.argv\[(\d+)\]|process\.argv\.slice\(2\)\[(\d+)\]"
)
_WITHIN = {
    "perl": re.compile(r"\$ARGV\[\d+\]|\$\{?(\w+)\}?"),
    "node": re.compile(r"\$\{([^{}]{0,999}+)\}"),
}
_DEPTH_MAX = 4
_CHARACTERS_A_STEP = 16


class PerlNodeValues:
    """The values of variables and arguments in a Perl or Node program.

    `arguments`: those of the program, None if they are not known. `is_file`: True if the program is
    a file, as its name is then an argument, too.
    """

    def __init__(
        self,
        language: str,
        text: str,
        arguments: Sequence[str] | None,
        budget: Budget,
        *,
        is_file: bool,
    ) -> None:
        self._language = language
        self._budget = budget
        self._arguments = arguments
        self._is_file = is_file
        self._assigned = {found[1]: found[2] for found in _ASSIGNED[language].finditer(text)}
        for found in _TAKEN[language].finditer(text):
            from_ = 2 if found[2] == "process.argv" else 0
            for n, name in enumerate(found[1].split(",")):
                place = (
                    f"$ARGV[{n}]" if language == "perl" else f"process.argv.slice(2)[{n - from_}]"
                )
                if (plain := name.strip().lstrip("$")) and (found[2] != "@_" and n >= from_):
                    self._assigned[plain] = place

    def arguments(self, text: str) -> list[str]:
        """Return the arguments of a call that begins here; items of a list in it are words, too."""
        self._budget.spend(len(text) // _CHARACTERS_A_STEP)
        return [self._text(list(expression), 0) for expression in _expressions(text)]

    def _text(self, pieces: Sequence[str], depth: int) -> str:
        made, size = list[str](), 0
        for piece in pieces:
            self._budget.spend()
            made.append(self._piece(piece, depth))
            check_size(size := size + len(made[-1]))
        return "".join(made)

    def _piece(self, piece: str, depth: int) -> str:
        string = _STRING.fullmatch(piece)
        if string is not None:
            plain = next(group for group in string.groups() if group is not None)
            inner = (
                plain
                if piece[0] == "'" or (piece[0] == '"' and self._language == "node")
                else self._put_in(plain, depth)
            )
            return re.sub(r"\\([\\\"'`$])", r"\1", inner)
        found = _ARGUMENT.fullmatch(piece)
        if found is not None:
            return self._argument(found)
        if self._language == "perl" and piece == "shift":
            return self._numbered(0)
        expression = self._assigned.get(piece.lstrip("$"))
        if expression is None or depth >= _DEPTH_MAX:
            return MAYBE_EMPTY
        self._budget.spend(len(expression) // _CHARACTERS_A_STEP)
        first = next(_expressions(expression), ())
        return self._text(first, depth + 1)

    def _put_in(self, text: str, depth: int) -> str:
        made, size, at = list[str](), len(text), 0
        for found in _WITHIN[self._language].finditer(text):
            self._budget.spend()
            piece = self._piece((found[1] or found[0]).strip(), depth + 1)
            check_size(size := size + len(piece))
            made += (text[at : found.start()], piece)
            at = found.end()
        return "".join((*made, text[at:]))

    def _argument(self, found: re.Match[str]) -> str:
        if found[2] is None:
            return self._numbered(int(found[1] or found[3]))
        at = int(found[2])
        return self._numbered(
            at - 2
            if self._is_file or self._arguments is None or at > len(self._arguments)
            else at - 1
        )

    def _numbered(self, at: int) -> str:
        if self._arguments is None:
            return LATER
        return self._arguments[at] if 0 <= at < len(self._arguments) else ""


def _expressions(text: str) -> Iterator[tuple[str, ...]]:
    """The pieces of each argument, up to the end of the call; `.` and `+` put them together."""
    found: list[str] = []
    open_ = 0
    for match in _PIECES.finditer(text):
        piece = match[0]
        if piece in "([{":
            open_ += 1
        elif piece in ")]}":
            open_ -= 1
            if open_ < 0:
                break
        elif piece == ";":
            break
        elif piece == ",":
            if found:
                yield tuple(found)
            found = []
        elif piece not in ".+":
            found.append(piece)
    if found:
        yield tuple(found)
