"""Where in a script of PowerShell something stands, and what that gives it: parameters of a function or of the script, `$_`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tree_sitter import Node

from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY

SCRIPT = ""
"""The scope of the script itself; a function's is its name."""
_EACH = frozenset({"foreach-object", "%", "foreach", "where-object", "?", "where"})


@dataclass
class Scopes:
    """`parameters`: of each scope, in their order, lower case. `scope`, `items`: of what is looked at now.

    `is_open`: whether nobody knows what the script is given.
    """

    parameters: dict[str, list[str]] = field(default_factory=dict)
    defaults: dict[tuple[str, str], Node] = field(default_factory=dict)
    scope: str = SCRIPT
    is_open: bool = False
    items: Sequence[str] = ()
    _given: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _fed: dict[int, Sequence[str]] = field(default_factory=dict)

    def declare(self, scope: str, name: str, default: Node | None) -> None:
        """A parameter of a function, or of the script."""
        self.parameters.setdefault(scope, []).append(name)
        if default is not None:
            self.defaults[scope, name] = default

    def bind(self, scope: str, words: Sequence[str]) -> None:
        """What it is called with: `-Path X`, `-Path:X`, or by place; what is over is `$args`."""
        names = self.parameters.get(scope, [])
        free = list(names)
        rest: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            option, colon, _ = word.lower().partition(":")
            named = [name for name in names if len(option) > 1 and option[:1] == "-" and name.startswith(option[1:])]
            if named:
                if named[0] in free:
                    free.remove(named[0])
                if colon:
                    self._give(scope, named[0], word.partition(":")[2])
                elif waiting and not waiting[0].startswith("-"):
                    self._give(scope, named[0], waiting.pop(0))
            else:
                rest.append(word)
        for name, word in zip(free, rest, strict=False):
            self._give(scope, name, word)
        for word in rest[len(free) :]:
            self._give(scope, "args", word)

    def _give(self, scope: str, name: str, value: str) -> None:
        self._given.setdefault((scope, name), []).append(value)

    def feed(self, command: Node, name: str, fed: Sequence[str] | None) -> None:
        """What `$_` is in the blocks of a command that is fed."""
        elements = command.child_by_field_name("command_elements")
        if fed and name in _EACH and elements is not None:
            self._fed.update({node.start_byte: fed for node in elements.named_children})

    def enter(self, node: Node) -> None:
        """From now on it is about this one."""
        self.scope, self.items = SCRIPT, ()
        if not self.parameters and not self._fed:
            return
        parent = node.parent
        while parent is not None and self.scope == SCRIPT:
            if parent.type == "function_statement":
                self.scope = name_of(parent)
            elif parent.start_byte in self._fed and not self.items and parent.type == "array_literal_expression":
                self.items = self._fed[parent.start_byte]
            parent = parent.parent

    def of(self, name: str) -> list[str] | None:
        """The values of a parameter here, but for its default; None where there is no parameter of that name."""
        for scope in dict.fromkeys((self.scope, SCRIPT)):
            if (given := self._given.get((scope, name))) is not None:
                return given
            is_open = scope == SCRIPT and self.is_open
            if name in self.parameters.get(scope, ()) or (is_open and name == "args"):
                return [LATER if is_open else MAYBE_EMPTY]
        return None

    def default(self, name: str) -> Node | None:
        """What a parameter is where it is not given."""
        return self.defaults.get((self.scope, name)) or self.defaults.get((SCRIPT, name))


def name_of(function: Node) -> str:
    """The name of a function, lower case."""
    name = next((c for c in function.named_children if c.type == "function_name"), None)
    return (name.text or b"").decode(errors="replace").lower() if name is not None else SCRIPT
