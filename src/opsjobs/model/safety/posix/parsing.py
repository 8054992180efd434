"""Bash's grammar: the tree of a script, and its texts."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

_LANGUAGE = Language(tree_sitter_bash.language())
# The service's own values, `${target.labels.env}`: no shell knows such a name, and what is put in is quoted as one word.
_OURS = re.compile(r"\$\{[A-Za-z_][\w-]*(?:\.[\w-]+)+\}")
# The grammar loses track of a bare name within a word: `rm$IFS-rf$IFS/`.
_BARE = re.compile(r"(?<![\\$])\$([A-Za-z_]\w*)")


class Script:
    """A parsed text: nodes, and the bytes that they are of."""

    def __init__(self, text: str) -> None:
        text = _OURS.sub("${OPSJOBS_VALUE}", text)
        self._parse(text)
        if self._loses_track():
            self._parse(_BARE.sub(r"${\1}", text))

    def _parse(self, text: str) -> None:
        self.source = text.encode()
        self.root = Parser(_LANGUAGE).parse(self.source).root_node

    def _loses_track(self) -> bool:
        return self.root.has_error or re.search(rb"[^\s\"'=({/:]\$[A-Za-z_]", self.source) is not None

    def text(self, node: Node) -> str:
        """What is written there."""
        return self.source[node.start_byte : node.end_byte].decode(errors="replace")

    def between(self, start: int, end: int) -> str:
        """What is written between two bytes."""
        return self.source[start:end].decode(errors="replace")

    def faults(self) -> Iterator[Node]:
        """The first places that the grammar does not understand."""
        if self.root.has_error:
            yield from _faults(self.root)


def _faults(node: Node) -> Iterator[Node]:
    if node.type == "ERROR" or node.is_missing:
        yield node
        return
    for child in node.children:
        if child.has_error or child.is_missing:
            yield from _faults(child)
