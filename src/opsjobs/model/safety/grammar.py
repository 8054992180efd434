"""Parsing within a bound: a grammar that tries to make sense of nonsense takes time by the square of its length."""

from __future__ import annotations

import re

from tree_sitter import Language, Node, Parser, Point

from opsjobs.model.safety.budget import Budget, Spent

_PIECE_BYTES = 64
_READS_MAX = 20
"""Of each piece, on average. A text that makes sense is read once or twice; `|` 65,536 times is read 16 million times."""
_READS_FREE = 500
_READS_A_STEP = 4
_NESTED_MAX = 300
_BRACKET = re.compile(rb"[(\[{]|[)\]}]")


def parsed(language: Language, source: bytes, budget: Budget) -> Node:
    """The root of its tree. Raises Spent where the grammar goes over the text again and again."""
    if _is_nested(source):
        raise Spent
    reads, most = 0, _READS_FREE + _READS_MAX * len(source) // _PIECE_BYTES

    def piece(byte: int, _: Point) -> bytes:
        nonlocal reads
        reads += 1
        return source[byte : byte + _PIECE_BYTES] if reads <= most else b""

    root = Parser(language).parse(piece, encoding="utf8").root_node
    if reads > most:
        raise Spent
    budget.spend(reads // _READS_A_STEP)
    return root


def _is_nested(source: bytes) -> bool:
    """More brackets open at once than anybody writes; each of them is a frame of the grammar's stack."""
    depth = 0
    for found in _BRACKET.finditer(source):
        depth = depth + 1 if found[0] in b"([{" else max(depth - 1, 0)
        if depth > _NESTED_MAX:
            return True
    return False
