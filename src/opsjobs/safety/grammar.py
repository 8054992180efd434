"""Parse within a limit: error recovery of a grammar takes time quadratic in the length."""

from __future__ import annotations

import re
import sys

from tree_sitter import Language, Node, Parser, Point

from opsjobs.safety.budget import Budget, Spent

_PIECE_BYTES = 64
_READS_MAX = 20
"""Reads of each piece, on average.

A valid text is read once or twice; `|` 65,536 times is read 16 million times.
"""
_READS_FREE = 500
_READS_A_STEP = 4
_BYTES_A_LOOK = 16
"""Bytes for each progress report.

The grammar reports its progress every hundred steps: some 1,400 times in 64 KiB of everyday
commands.
"""
_NESTED_MAX = 300
_PIPES_MAX = 500
_PIPE = ord("|")
# A pipeline continues after a new line, and after a comment at the end of a line.
_PIPE_OR_END = re.compile(rb"\|(?:[|&\s\\]|#[^\n]*\n)*+|[;\n]")
_BRACKET = re.compile(rb"[(\[{]|[)\]}]")


def parsed(language: Language, source: bytes, budget: Budget) -> Node:
    """Return the root of the syntax tree. Raises Spent if the grammar reads again and again."""
    if find_too_complex(source) is not None:
        raise Spent
    reads, most = 0, _READS_FREE + _READS_MAX * len(source) // _PIECE_BYTES
    looks, most_looks = 0, _READS_FREE + len(source) // _BYTES_A_LOOK

    def piece(byte: int, _: Point) -> bytes:
        nonlocal reads
        reads += 1
        return source[byte : byte + _PIECE_BYTES] if reads <= most else b""

    def stops(_: int, __: bool) -> bool:
        nonlocal looks
        looks += 1
        return looks > most_looks

    try:
        root = Parser(language).parse(piece, encoding="utf8", progress_callback=stops).root_node
    except ValueError:  # it was stopped
        raise Spent from None
    if reads > most:
        raise Spent
    budget.spend(reads // _READS_A_STEP)
    most = sys.maxsize  # nodes read their texts, too, and wait forever for what does not come
    return root


def find_too_complex(source: bytes) -> int | None:
    """Return where the source is nested or piped more than real scripts are; None if nowhere."""
    found = [at for at in (_find_nested(source), _find_long_pipeline(source)) if at is not None]
    return min(found, default=None)


def _find_long_pipeline(source: bytes) -> int | None:
    """Return where a pipeline has as many stages as in real scripts, and has more.

    Each stage stays on the grammar's stack until the last one is read. If that one is wrong, the
    recovery is quadratic in the stack: 16,000 stages took 2 GB.
    """
    count = 0
    for found in _PIPE_OR_END.finditer(source):
        count = count + 1 if found[0][0] == _PIPE else 0
        if count > _PIPES_MAX:
            return found.start() + 1
    return None


def _find_nested(source: bytes) -> int | None:
    """Return where a bracket opens in more open ones than in real scripts.

    Each open bracket is a frame of the grammar's stack.
    """
    depth = 0
    for found in _BRACKET.finditer(source):
        depth = depth + 1 if found[0] in b"([{" else max(depth - 1, 0)
        if depth > _NESTED_MAX:
            return found.start()
    return None
