"""Bash's grammar: the tree of a script, and its texts."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

import tree_sitter_bash
from tree_sitter import Language, Node

from opsjobs.safety.budget import Budget, Spent
from opsjobs.safety.grammar import find_too_complex, parsed

_LANGUAGE = Language(tree_sitter_bash.language())
# Values of the service, `${target.labels.env}`: no shell has such names, and the value is
# inserted as one quoted word.
_OURS = re.compile(r"\$\{[A-Za-z_][\w-]*(?:\.[\w-]+)+\}")
# The grammar fails on a bare name after other text in a word: `$A/$B/`, `rm$IFS-rf`. Adding braces
# changes nothing.
_BARE = re.compile(r"(?<![\\$])\$([A-Za-z_]\w*)")
_OURS_OR_BARE = re.compile(f"{_OURS.pattern}|{_BARE.pattern}")
_BEHIND = re.compile(r"[^\s\"'=({\\$]\$[A-Za-z_]")


EXCERPT_BYTES_MAX = 2_000
_WORD_BYTES_MAX = 256
_BEGINNINGS_MAX = 6
_BACKSLASH = ord("\\")
_BETWEEN_COMMANDS = frozenset({"\n", ";", "&", ";;"})
_BEHIND_COMMANDS = (b";", b"&", b"|")
# If a text ends within `$'it\'s'`, the grammar takes its first part for a whole word.
_HALF_A_WORD = re.compile(rb"\$'[^']*\\'")
# The first line with more than a comment, if it is a short one.
_FIRST_LINE = re.compile(rb"(?:\s*+#[^\n]*+\n)*+\s*+[^\n]{0,256}\n")


class Script:
    """A parsed text: its nodes, its bytes, and the original text of each node."""

    def __init__(self, text: str, budget: Budget) -> None:
        self._written = text.encode()
        self._budget = budget
        self._moved: list[tuple[int, int]] = []
        if _BEHIND.search(text):
            self._parse(_OURS_OR_BARE, None)
            return
        self._parse(_OURS, "${OPSJOBS_VALUE}")
        if self.root.has_error:
            self._parse(_OURS_OR_BARE, None)

    def _parse(self, pattern: re.Pattern[str], to: str | None) -> None:
        text, pieces, at, size = self._written.decode(), [], 0, 0
        self._moved = []
        for found in pattern.finditer(text):
            new = to or (f"${{{found[1]}}}" if found[1] else "${OPSJOBS_VALUE}")
            pieces += [text[at : found.start()], new]
            size += len(pieces[-2].encode()) + len(new.encode())
            grown = self._moved[-1][1] if self._moved else 0
            self._moved.append((size, grown + len(new.encode()) - len(found[0].encode())))
            at = found.end()
        plain = "".join((*pieces, text[at:]))
        self.source = plain.encode()
        # A byte is a character nearly always: then nothing has to be decoded.
        self._plain = plain if len(plain) == len(self.source) else None
        self.root = parsed(_LANGUAGE, self.source, self._budget)

    def original_text(self, node: Node) -> str:
        """Return the original text of the node, cut to its first part if it is long."""
        start, end = self._origin(node.start_byte), self._origin(node.end_byte)
        return self._written[start : min(end, start + EXCERPT_BYTES_MAX)].decode(errors="replace")

    def _origin(self, byte: int) -> int:
        at = bisect_right(self._moved, byte, key=lambda moved: moved[0])
        return byte - self._moved[at - 1][1] if at else byte

    def text(self, node: Node) -> str:
        """Return the text of the node."""
        if self._plain is not None:
            return self._plain[node.start_byte : node.end_byte]
        return self.source[node.start_byte : node.end_byte].decode(errors="replace")

    def first_word(self, node: Node) -> str:
        """Return the first word of the node's text, if that word is a short one."""
        words = self.between(
            node.start_byte, min(node.end_byte, node.start_byte + _WORD_BYTES_MAX)
        ).split(maxsplit=1)
        return words[0] if words else ""

    def between(self, start: int, end: int) -> str:
        """Return the text between two byte positions."""
        if self._plain is not None:
            return self._plain[start:end]
        return self.source[start:end].decode(errors="replace")

    def complete_bytes(self) -> int:
        """Return the length of the original text before the first command with a fault."""
        if not self.root.has_error:
            return len(self._written)
        for child in self.root.children:
            # Without a node around them, the words of a command are faults, too.
            is_whole = child.is_named or child.type in _BETWEEN_COMMANDS
            if not is_whole or child.is_missing or any(_faults(child)):
                return self._origin(child.start_byte)
        return 0 if self.root.type == "ERROR" else len(self._written)

    def faults(self) -> Iterator[Node]:
        """Return the first places that the grammar does not understand."""
        if self.root.has_error:
            yield from _faults(self.root)


def beginnings(text: str, *, is_costly: bool, was_read: bool) -> Iterator[Script]:
    """Return the complete commands at the beginning of a text, and ever fewer of them.

    A shell runs a line after it has read all of it. So all are in lines before the first place
    that the grammar does not understand. `is_costly`: the whole text costs too much, which says
    nothing of what a shell makes of its lines, so they may also be in the same line. `was_read`:
    this text was the whole one, so all of it is not tried again. None if the grammar has found
    them in the whole text, too.
    """
    source = text.encode()
    if not is_costly and not _is_torn(Script(text, Budget()).root):
        return
    too_complex = find_too_complex(source)
    size = len(source) if too_complex is None else too_complex
    if is_costly and was_read and too_complex is None:
        size //= 2
    if (half := _HALF_A_WORD.search(source, 0, size)) is not None:
        size = source.rfind(b"\n", 0, half.start()) + 1
    line = _FIRST_LINE.match(source, 0, size)
    for tries_left in range(_BEGINNINGS_MAX, -1, -1):
        size = _end_of_commands(source, size, within_lines=is_costly)
        if (not size or not tries_left) and line is not None:
            size, line = _end_of_commands(source, line.end(), within_lines=False), None
        if not size:
            return
        try:
            beginning = Script(source[:size].decode(errors="replace"), Budget())
        except Spent:
            size //= 2
            continue
        if (complete := beginning.complete_bytes()) < size:
            size = complete or size // 2
            continue
        yield beginning
        size //= 2


def _is_torn(root: Node) -> bool:
    """Return True if lines may be without the nodes of their commands."""
    return root.type == "ERROR" or any(
        child.type == "ERROR" and child.start_point[0] != child.end_point[0]
        for child in root.children
    )


def _end_of_commands(source: bytes, before: int, *, within_lines: bool) -> int:
    """Return the last place up to this one at which a command may end."""
    line = _find_last(b"\n", source, 0, before) + 1
    if not within_lines:
        return line
    mark = max(_find_last(mark, source, line, before) for mark in _BEHIND_COMMANDS)
    return line if mark < 0 else line + len(source[line:mark].rstrip(b";&| "))


def _find_last(mark: bytes, source: bytes, start: int, before: int) -> int:
    """Return the last place of the mark that has no backslash before it; -1 if there is none."""
    at = source.rfind(mark, start, before)
    while at > 0 and source[at - 1] == _BACKSLASH:
        at = source.rfind(mark, start, at)
    return at


def _faults(node: Node) -> Iterator[Node]:
    if (
        node.type == "ERROR"
        and node.text == b"$"
        and node.parent is not None
        and node.parent.type == "concatenation"
    ):
        return  # `name=~a\\(b$\\)`: with no name behind it, it is a letter
    if node.type == "ERROR" or node.is_missing:
        yield node
        return
    for child in node.children:
        if child.has_error or child.is_missing:
            yield from _faults(child)
