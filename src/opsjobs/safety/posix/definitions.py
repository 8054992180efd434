"""Collect the definitions of a script: variables, functions, aliases and exports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from tree_sitter import Node

from opsjobs.safety.budget import Budget, filled_in
from opsjobs.safety.posix.parsing import Script
from opsjobs.safety.posix.values import PosixValues
from opsjobs.safety.posix.variables import Assigned, VariableFrame, shifts_in
from opsjobs.safety.symbolic_words import MAYBE_EMPTY, is_known

DECLARED_MAX = 20
ALL = "*"
"""In place of a name: every variable is exported."""
_NODES_A_STEP = 2
"""Visiting a node takes about half the time of other steps."""
_PRELOADS = frozenset(
    {"LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "PROMPT_COMMAND", "PERL5OPT", "PYTHONSTARTUP"}
)
_HISTORY = "HIST"
"""The prefix of the variables that control a shell's history."""
_TESTED = re.compile(r"\$\{?([A-Za-z_]\w*)")


class Definitions:
    """The definitions of a script, collected before anything is run.

    So an assignment counts wherever it appears. Variables go into `values`.
    """

    def __init__(self, script: Script, values: PosixValues, budget: Budget) -> None:
        self._script = script
        self._values = values
        self._budget = budget
        self.functions: dict[str, Node] = {}
        """The functions by name."""
        self.aliases: dict[str, list[str]] = {}
        """The texts of each alias."""
        self.exports: set[str] = set()
        """The names of exported variables."""
        self.preloads: list[Node] = []
        """Assignments that make programs load something."""
        self.histories: list[Node] = []
        """Assignments that control the history of the shell."""
        self._shifts: int | None = None

    def collect(self, root: Node) -> None:
        """Record all definitions below a node."""
        collectors: dict[str, Callable[[Node], None]] = {
            "variable_assignment": self._assigned,
            "for_statement": self._looped,
            "select_statement": self._looped,
            "function_definition": self._function,
            "command": self._defines,
            "test_command": self._tested,
            "declaration_command": self._declares,
        }
        waiting = [root]
        while waiting:
            node = waiting.pop()
            collect = collectors.get(node.type)
            if collect is not None:
                collect(node)
            if node.named_child_count:
                children = node.named_children
                self._budget.spend((len(children) + 1) // _NODES_A_STEP)
                waiting += reversed(children)

    def _function(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        if name is not None:
            self.functions[self._script.text(name)] = node

    def _tested(self, node: Node) -> None:
        text = self._script.text(node)
        self._budget.read(len(text))
        self._values.variables.checked.update(_TESTED.findall(text))

    def _assigned(self, node: Node) -> None:
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        if name is None:
            return
        plain = self._script.text(name)
        if plain in _PRELOADS:
            self.preloads.append(node)
        if plain.startswith(_HISTORY):
            self.histories.append(node)
        adds = any(c.type == "+=" for c in node.children)
        if name.type == "subscript":
            self._values.variables.give(plain.partition("[")[0], Assigned(None, (MAYBE_EMPTY,)))
        else:
            self._values.variables.give(plain, Assigned(value, ("",), adds))

    def _declares(self, node: Node) -> None:
        """Record `export X`, `declare -x X`, and `declare -n X=Y`, which makes X an alias of Y."""
        text = self._script.text(node)
        self._budget.read(len(text))
        words = text.split(maxsplit=DECLARED_MAX)
        letters = "".join(word for word in words[1:] if word[:1] == "-")
        if words[0] == "export" or "x" in letters:
            self.exports.update(word.partition("=")[0] for word in words[1:] if word[:1] != "-")
        if "n" in letters and words[0] != "export":
            for name, _, of in (word.partition("=") for word in words[1:]):
                self._values.variables.refer(name, of.strip("\"'"))

    def _looped(self, node: Node) -> None:
        variable = node.child_by_field_name("variable")
        if variable is None:
            return
        name = self._script.text(variable)
        values = node.children_by_field_name("value")
        if not values:
            self._values.variables.give(name, Assigned(None, (MAYBE_EMPTY,)))
        for value in values:
            self._values.variables.give(name, Assigned(value, items=True))

    def _defines(self, node: Node) -> None:
        """Record definitions by commands: `alias`, `read`, `set --`, `mapfile`, `printf -v`."""
        name = node.child_by_field_name("name")
        called = self._script.text(name) if name is not None else ""
        if called not in (
            "alias",
            "read",
            "mapfile",
            "readarray",
            "printf",
            "set",
            "getopts",
            "let",
        ):
            return
        words = self._values.argvs(
            [
                c
                for c in node.named_children
                if c.type not in ("herestring_redirect", "file_redirect")
            ]
        )[0]
        if called == "alias":
            for key, equals, value in (word.partition("=") for word in words[1:]):
                if equals:
                    self.aliases.setdefault(key, []).append(value)
        elif called == "set":
            self._set(words)
        elif called == "printf":
            if words[1:2] == ["-v"] and len(words) > 3:
                self._values.variables.give(
                    words[2], Assigned(None, tuple(self._formatted(words[3:])))
                )
        else:
            fed = next((c for c in node.named_children if c.type == "herestring_redirect"), None)
            value = (
                self._values.herestring(fed).rstrip("\n")
                if fed is not None and called == "read"
                else MAYBE_EMPTY
            )
            for word in (w for w in words[1:] if w.isidentifier()):
                self._values.variables.give(
                    word, Assigned(None, (value, *value.split()) if is_known(value) else (value,))
                )

    def _set(self, words: Sequence[str]) -> None:
        """Record the effect of `set -- a b` or `set -a`."""
        if "--" in words:
            if self._shifts is None:
                self._shifts = shifts_in(self._script.text(self._script.root))
            self._values.variables.positional.append(
                VariableFrame(tuple(words[words.index("--") + 1 :]), self._shifts)
            )
        elif "-a" in words or "allexport" in words:
            self.exports.add(ALL)

    @staticmethod
    def _formatted(words: Sequence[str]) -> Iterator[str]:
        text = filled_in(words[0], "%s", words[1:])
        yield text if "%" not in text else MAYBE_EMPTY
