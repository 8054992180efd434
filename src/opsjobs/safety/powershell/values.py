"""Compute PowerShell expressions, if the text determines their values.

A value is a list of texts, as its arrays are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tree_sitter import Node

from opsjobs.safety.budget import Budget, check_size, replaced
from opsjobs.safety.powershell.methods import (
    METHODS,
    STATIC,
    character,
    contents,
    formatted,
    string_of,
)
from opsjobs.safety.powershell.names import CONSTANTS, ENVIRONMENT, SCRIPT, Scopes, name_of
from opsjobs.safety.powershell.parsing import understood
from opsjobs.safety.question import UNKNOWN_INPUTS, ProgramInputs
from opsjobs.safety.symbolic_words import LATER, MAYBE_EMPTY, SOMETHING, is_known, parse_number

_UNKNOWN = [MAYBE_EMPTY]
_ITEMS_MAX = 512
_TEXTS_MAX = 16
_SEEN_BYTES_MAX = 2_000
_PATTERN_STEPS = 40
"""The cost of compiling an expression for a name."""
_LISTS = frozenset({"get-childitem", "gci", "ls", "dir"})
_TEXT_MAX = 64 << 10
_VARIABLE = re.compile(
    r"`(.)|\$\((?:[^()]|\([^()]*\))*\)|\$(?:\{([^}]+)\}|((?:\w+:)?\w+))", re.DOTALL
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "", "a": "", "b": "", "f": "", "v": "", "e": ""}
_BACKTICK = re.compile(r"`(\r?\n|.)", re.DOTALL)
_PLACE = re.compile(r"\{(\d+)[^}]*\}")


class PowerShellValues:
    """A parsed script with its variables; each has every value that the text gives it."""

    def __init__(self, text: str, budget: Budget, given: ProgramInputs = UNKNOWN_INPUTS) -> None:
        self.source, self.root = understood(text, budget)
        self.scopes = Scopes()
        self._given = given
        self._budget = budget
        self._assigned: dict[str, list[Node]] = {}
        self._asked: set[str] = set()
        self._kinds: dict[str, Callable[[Node], list[str]]] = {
            "string_literal": self._string,
            "variable": lambda node: self.variable(self.text(node)),
            "additive_expression": self._added,
            "additive_argument_expression": self._added,
            "format_expression": self._formatted,
            "format_argument_expression": self._formatted,
            "comparison_expression": self._compared,
            "comparison_argument_expression": self._compared,
            "array_literal_expression": self._list_items,
            "argument_expression_list": self._list_items,
            "parenthesized_expression": self._parenthesised,
            "sub_expression": self._parenthesised,
            "array_expression": self._parenthesised,
            "expression_with_unary_operator": self._unary,
            "cast_expression": self._unary,
            "invokation_expression": self._invoked,
            "integer_literal": lambda node: [self.text(node)],
            "generic_token": lambda node: self.expansions(self.text(node)),
            "range_expression": self._range,
            "element_access": self._element,
            "member_access": self._member,
            "command": self._compute_output,
        }

    def text(self, node: Node) -> str:
        """Return the text of the node."""
        return self.source[node.start_byte : node.end_byte].decode(errors="replace")

    def beginning(self, node: Node) -> str:
        """Return the text of the node, cut to its first part if it is long, for excerpts."""
        return self.source[
            node.start_byte : min(node.end_byte, node.start_byte + _SEEN_BYTES_MAX)
        ].decode(errors="replace")

    def nodes(self) -> Iterator[Node]:
        """Return all nodes, from the top."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            self._budget.spend()
            yield node
            waiting += reversed(node.named_children)

    def spend(self) -> None:
        """Count a step. Raises Spent if none are left."""
        self._budget.spend()

    def assigned(self, name: str) -> list[Node]:
        """Return the expressions that are assigned to `$name`, or that a loop over it reads."""
        return self._assigned.get(name, [])

    def define(self, node: Node) -> None:
        """Record one `$x = …`, `foreach ($x in …)`, or parameter."""
        children = node.named_children
        match node.type:
            case "assignment_expression" if children:
                self._assign(self.text(children[0]), node.child_by_field_name("value"))
            case "foreach_statement" if len(children) > 1:
                self._assign(self.text(children[0]), children[1])
            case "script_parameter":
                self._parameter(node)

    def _assign(self, written: str, value: Node | None) -> None:
        name = written.strip().lower()
        if value is not None and name.startswith("$"):
            self._assigned.setdefault(name.strip("${}"), []).append(value)

    def _parameter(self, node: Node) -> None:
        variable = next((c for c in node.named_children if c.type == "variable"), None)
        default = next(
            (c for c in node.named_children if c.type == "script_parameter_default"), None
        )
        owner = node.parent
        while owner is not None and owner.type != "function_statement":
            owner = owner.parent
        if variable is not None:
            value = (
                default.named_children[-1]
                if default is not None and default.named_children
                else None
            )
            self.scopes.declare(
                name_of(owner) if owner is not None else SCRIPT,
                self.text(variable).lower().strip("${}"),
                value,
            )

    def begin(self) -> None:
        """Bind the script's own arguments, once its parameters are known."""
        if self._given.arguments is not None:
            self.scopes.bind(SCRIPT, self._given.arguments)

    def evaluate(self, node: Node) -> list[str]:
        """Return the items of the node's value; one MAYBE_EMPTY if it is unknown."""
        while True:
            self._budget.spend()
            inner = node.named_children
            if (
                len(inner) == 1
                and node.type.endswith(("_expression", "pipeline", "pipeline_chain"))
                and node.type
                not in (
                    *(
                        "parenthesized_expression",
                        "sub_expression",
                        "array_expression",
                        "expression_with_unary_operator",
                        "cast_expression",
                    ),
                    "invokation_expression",
                )
            ):
                node = inner[0]
                continue
            kind = self._kinds.get(node.type)
            found = (kind(node) if kind is not None else _UNKNOWN)[:_ITEMS_MAX]
            size = sum(map(len, found))
            check_size(size // _TEXTS_MAX)
            self._budget.read(size)
            return found

    def one(self, node: Node) -> str:
        """Return the node's value as one text."""
        return " ".join(self.evaluate(node))[:_TEXT_MAX]

    def variable(self, written: str) -> list[str]:
        """Return the values of `$name`."""
        name = written.lower().lstrip("$@").strip("{}")
        scope, colon, rest = name.partition(":")
        if scope == "env" and colon:
            asked = written.partition(":")[2].strip("{}")
            return list(self._given.variables(asked)) or [ENVIRONMENT.get(rest, MAYBE_EMPTY)]
        name = rest if colon else name
        if name == "_" and self.scopes.items:
            return list(self.scopes.items)
        given = self._assigned.get(name, [])
        parameter = self.scopes.look_up(name)
        if (not given and parameter is None) or name in self._asked:
            return [CONSTANTS.get(name, MAYBE_EMPTY)]
        self._asked.add(name)
        default = self.scopes.default(name)
        nodes = [
            *given[:16],
            *((default,) if default is not None and parameter is not None else ()),
        ]
        found = [*(parameter or ()), *(text for node in nodes for text in self.evaluate(node))]
        self._asked.discard(name)
        return list(dict.fromkeys(found))

    def _element(self, node: Node) -> list[str]:
        """Return the values of an index such as `$args[0]`."""
        of, at = node.named_children[0], self.one(node.named_children[-1])
        items = self.evaluate(of)
        index = parse_number(at)
        if index is None:
            return [*items, MAYBE_EMPTY]
        if not all(is_known(item) for item in items):
            return items if items == [LATER] else _UNKNOWN
        return [items[index]] if -len(items) <= index < len(items) else _UNKNOWN

    def _member(self, node: Node) -> list[str]:
        """Return the values of a member; `$_.FullName` has those of `$_`."""
        of = node.named_children[0]
        is_path = self.text(node).lower().endswith((".fullname", ".name", ".pspath", ".path"))
        return (
            self.evaluate(of)
            if is_path and self.text(of) == "$_" and self.scopes.items
            else _UNKNOWN
        )

    def table(self, written: str) -> list[str]:
        """Return the entries of a table, `@name`, as parameters with their values."""
        found: list[str] = []
        for node in self._assigned.get(written.lower().lstrip("@"), ()):
            waiting = [node]
            while waiting:
                part = waiting.pop()
                self._budget.spend()
                if part.type == "hash_entry" and len(part.named_children) > 1:
                    found += [
                        f"-{self.text(part.named_children[0]).strip(chr(39) + chr(34))}",
                        *self.evaluate(part.named_children[1]),
                    ]
                else:
                    waiting += reversed(part.named_children)
        return found or [SOMETHING]

    def expanded(self, text: str) -> str:
        """Return the text with its variables replaced and its backticks undone."""
        if "$" not in text and "`" not in text:
            return text
        made, size, at = list[str](), len(text), 0
        for found in _VARIABLE.finditer(text):
            self._budget.spend()
            piece = self._part(found)
            check_size(size := size + len(piece))
            made += (text[at : found.start()], piece)
            at = found.end()
        return "".join((*made, text[at:]))

    def expansions(self, text: str) -> list[str]:
        """Return the expansions of a text, one of whose variables may have several values."""
        names = [found[2] or found[3] for found in _VARIABLE.finditer(text)] if "$" in text else []
        many = next((name for name in names if name and len(self.variable(name)) > 1), None)
        if many is None:
            return [self.expanded(text)]
        self._budget.spend(_PATTERN_STEPS)
        variable = re.compile(rf"\$\{{?{re.escape(many)}\}}?(?!\w)")
        values = [
            value.replace("$", "").replace("\\", "\\\\") for value in self.variable(many)[:16]
        ]
        check_size(len(text) + text.count("$") * max(map(len, values)))
        return [self.expanded(variable.sub(value, text)) for value in values]

    def _part(self, match: re.Match[str]) -> str:
        if match[1] is not None:
            return _ESCAPES.get(match[1], "" if match[1] == "\n" else match[1])
        name = match[2] or match[3]
        if name is None:
            return MAYBE_EMPTY
        values = self.variable(name)
        return values[0] if len(values) == 1 else MAYBE_EMPTY

    def _string(self, node: Node) -> list[str]:
        text = self.text(node)
        if text.startswith("@"):
            body = text[2:-2].strip("\r\n")
            return self.expansions(body) if text[1] == '"' else [body]
        if text[:1] in ("'", "\u2018", "\u2019"):
            return [text[1:-1].replace("''", "'")]
        return self.expansions(text[1:-1].replace('""', '"'))

    def _added(self, node: Node) -> list[str]:
        if any(c.type == "-" for c in node.children):
            return _UNKNOWN
        left, *rest = [self.evaluate(c) for c in node.named_children]
        for right in rest:
            left = ["".join((*left, *right))] if len(left) == 1 else [*left, *right]
        return left

    def _formatted(self, node: Node) -> list[str]:
        values = [c for c in node.named_children if c.type != "format_operator"]
        if len(values) != 2:
            return _UNKNOWN
        return [formatted([self.one(values[0]), *self.evaluate(values[1])])]

    def _compared(self, node: Node) -> list[str]:
        parts = node.named_children
        if len(parts) != 3:
            return _UNKNOWN
        left = self.evaluate(parts[0])
        operator = self.text(parts[1]).lower()
        right = self.evaluate(parts[2])
        if operator == "-join":
            between = "".join(right)
            check_size(len(between) * len(left) + sum(map(len, left)))
            return [between.join(left)]
        if (
            operator in ("-replace", "-creplace", "-ireplace")
            and right
            and all(is_known(t) for t in (*left, *right))
        ):
            pattern = right[0]
            to = right[1] if len(right) > 1 else ""
            return (
                [replaced(text, pattern, to) for text in left]
                if re.fullmatch(r"[\w\s~#@!%&=:;,<>-]+", pattern)
                else _UNKNOWN
            )
        if operator in ("-split", "-csplit", "-isplit") and right:
            return [
                piece
                for text in left
                for piece in (text.split(right[0]) if right[0] else list(text))
            ]
        return _UNKNOWN

    def _list_items(self, node: Node) -> list[str]:
        return [text for child in node.named_children for text in self.evaluate(child)]

    def _parenthesised(self, node: Node) -> list[str]:
        inner = node.named_children
        while len(inner) == 1 and inner[0].type in ("statement_list", "pipeline", "pipeline_chain"):
            inner = inner[0].named_children
        if len(inner) == 1 and inner[0].type == "command":
            return self._compute_output(inner[0])
        return self.evaluate(inner[0]) if len(inner) == 1 else _UNKNOWN

    def _compute_output(self, command: Node) -> list[str]:
        name = command.child_by_field_name("command_name")
        elements = command.child_by_field_name("command_elements")
        called = self.text(name).lower() if name is not None else ""
        if called in ("get-command", "gcm") and elements is not None:
            return [
                w
                for c in elements.named_children
                if c.type != "command_argument_sep"
                for w in self.evaluate(c)
            ]
        if called in _LISTS and elements is not None:
            return contents(
                [
                    w
                    for c in elements.named_children
                    if c.type != "command_argument_sep"
                    for w in self.of_word(c)
                ]
            )
        if called not in ("write-output", "echo", "write") or elements is None:
            return _UNKNOWN
        return [
            w
            for c in elements.named_children
            if c.type not in ("command_argument_sep", "command_parameter")
            for w in self.evaluate(c)
        ]

    def of_word(self, node: Node) -> list[str]:
        """Return the values of a command's word: a parameter as written, any other by its value."""
        return [self.text(node)] if node.type == "command_parameter" else self.evaluate(node)

    def _unary(self, node: Node) -> list[str]:
        source, inner = self.text(node).lower().lstrip(), node.named_children
        if not inner:
            return _UNKNOWN
        items = self.evaluate(inner[-1])
        if source.startswith(("[char", "[system.char")):
            return [character(item) for item in items]
        if source.startswith("-join"):
            return ["".join(items)]
        if source.startswith(("[string", "+", ",", "[array")):
            return items
        return _UNKNOWN if not source.startswith("[") or len(inner) < 2 else items

    def _range(self, node: Node) -> list[str]:
        ends = [parse_number(self.one(c)) for c in node.named_children]
        numbers = [end for end in ends if end is not None]
        if len(ends) != 2 or len(numbers) != 2:
            return _UNKNOWN
        first, last = numbers
        return (
            [str(n) for n in range(first, last + 1)] if 0 <= last - first < _ITEMS_MAX else _UNKNOWN
        )

    # --- methods

    def method(self, node: Node) -> tuple[str, Node | None, list[str]]:
        """Return a call's name, the node of its object, and its arguments.

        The name is `type::member` or `.member`, in lower case.
        """
        of = node.named_children[0] if node.named_children else None
        member = next((c for c in node.named_children if c.type == "member_name"), None)
        arguments = next((c for c in node.named_children if c.type == "argument_list"), None)
        name = (
            self.one(member.named_children[0])
            if member is not None and member.named_children
            else ""
        )
        if member is not None and (not name or not is_known(name)):
            name = self.text(member).strip("'\"")
        kind = (
            self.text(of).lower().strip("[]").removeprefix("system.")
            if of is not None and of.type == "type_literal"
            else ""
        )
        texts = (
            [t for c in arguments.named_children for t in self.evaluate(c)]
            if arguments is not None
            else []
        )
        return f"{kind}::{name.lower()}" if kind else f".{name.lower()}", of, texts

    def _invoked(self, node: Node) -> list[str]:
        name, of, arguments = self.method(node)
        static = STATIC.get(name)
        if static is not None:
            return [static(arguments)] if arguments else _UNKNOWN
        if name.endswith("getstring") and arguments and of is not None:
            return [string_of(arguments[0], self.text(of).lower())]
        if of is None or of.type == "type_literal":
            return _UNKNOWN
        method = METHODS.get(name)
        return [
            method(text, arguments) if method is not None and is_known(text) else MAYBE_EMPTY
            for text in self.evaluate(of)
        ]
