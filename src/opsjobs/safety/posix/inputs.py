"""Follow redirections of a command: `<`, `>`, heredocs, here-strings, `<(…)`."""

from __future__ import annotations

from collections.abc import Sequence

from tree_sitter import Node

from opsjobs.safety.paths import normal
from opsjobs.safety.posix.parsing import Script
from opsjobs.safety.posix.values import PosixValues
from opsjobs.safety.symbolic_words import SPLIT
from opsjobs.safety.trace import Io

_WRITES = {
    ">": "write",
    ">|": "write",
    "&>": "write",
    ">>": "append",
    "&>>": "append",
    "<>": "write",
    ">&": "write",
}

_ASSIGNED_MAX = 8
"""The most values of one variable that are followed."""


class Inputs:
    """The inputs and outputs of the commands of one script."""

    def __init__(self, script: Script, values: PosixValues) -> None:
        self._script = script
        self._values = values

    def heredoc(self, node: Node, io: Io) -> Io:
        """Return `io` with the input of a heredoc."""
        text = self._values.heredoc(node)
        writes = io.writes
        for child in node.named_children:
            if child.type == "file_redirect":
                writes = self.redirect(child, Io(writes=writes)).writes
        return Io(io.sources, lambda: text, writes, io.reads, io.feeders)

    def redirect(self, node: Node, io: Io) -> Io:
        """Return `io` with the effect of one redirection."""
        if node.type == "herestring_redirect":
            here_text = self._values.herestring(node)
            return Io(
                (*io.sources, *self._names_in(node)),
                lambda: here_text,
                io.writes,
                io.reads,
                io.feeders,
            )
        operator = next((c.type for c in node.children if not c.is_named), "")
        destination = node.child_by_field_name("destination")
        if destination is None:
            return io
        paths = [f for word in self._values.expand(destination) for f in word.split(SPLIT)]
        if operator == "<":
            sources = tuple(self._names_in(node))
            text = (
                self._values.pipeline_output(destination.named_children, None)
                if destination.type == "process_substitution"
                else None
            )
            fed = (lambda: text) if text is not None else io.text
            return Io(
                (*io.sources, *sources),
                fed,
                io.writes,
                () if sources else (*io.reads, *paths),
                io.feeders,
            )
        if operator in _WRITES and destination.type != "number":
            return Io(
                io.sources,
                io.text,
                (*io.writes, *((_WRITES[operator], p) for p in paths)),
                io.reads,
                io.feeders,
            )
        return io

    def _names_in(self, node: Node) -> list[str]:
        """Return the names of the commands below a node, which feed it."""
        found: list[str] = []
        waiting = list(node.named_children)
        while waiting:
            child = waiting.pop()
            self._values.budget.spend()
            if child.type == "command" and (name := child.child_by_field_name("name")) is not None:
                found += [normal(n).rpartition("/")[2] for n in self._values.expand(name)]
            waiting += child.named_children
        return found

    def behind_variables(self, words: Sequence[Node], io: Io) -> Io:
        """Add the commands that produced the values of the variables in these words as sources.

        `x=$(curl …); eval "$x"` has the source curl.
        """
        names: list[str] = []
        waiting = list(words)
        while waiting:
            node = waiting.pop()
            self._values.budget.spend()
            if node.type == "variable_name":
                for one in self._values.variables.given.get(self._script.text(node), ())[
                    :_ASSIGNED_MAX
                ]:
                    names += self._names_in(one.node) if one.node is not None else []
            waiting += node.named_children
        return Io((*io.sources, *names), io.text, io.writes, io.reads, io.feeders) if names else io

    def substituted(self, words: Sequence[Node], io: Io) -> Io:
        """Return `io` with the output of a substitution as its input: `sh <(…)`, `eval "$(…)"`."""
        self._values.budget.read(sum(w.end_byte - w.start_byte for w in words))
        inner = [
            w
            for w in words
            if w.type == "process_substitution"
            or "$(" in self._script.text(w)
            or "`" in self._script.text(w)
        ]
        if not inner:
            return io
        names = tuple(name for word in inner for name in self._names_in(word))
        text = io.text
        if (
            len(inner) == 1
            and inner[0].type == "process_substitution"
            and inner[0].children[0].type == "<("
        ):
            output = self._values.pipeline_output(inner[0].named_children, None)
            text = (lambda: output) if output is not None else text
        return Io((*io.sources, *names), text, io.writes, io.reads, io.feeders)
