"""Conditions: a small typed language, parsed to a tree once and never evaluated as Python.

    target.labels.env == "prod" and not (actions.check.exit_code in [0, 3])

Names are `parameters.NAME`, `target.name|host|platform`, `target.labels.KEY`,
`execution.id|number`, `job.name`, `run.attempt` and
`actions.KEY.exit_code|stdout|status|outputs.NAME`; a part that is not a plain word is written
`["so"]`. A missing value is null. Operators are `and`, `or`, `not`, `in`, comparisons and `matches
"PATTERN"`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

CHARACTERS_MAX = 4_096


class Fault(ValueError):
    """An invalid condition: the error, and its character position (from 0)."""

    def __init__(self, at: int, words: str) -> None:
        super().__init__(f"at character {at + 1}: {words}")
        self.at = at
        self.words = words


@dataclass(frozen=True, slots=True)
class ExpressionToken:
    """A token."""

    kind: str
    """One of word, number, text, sign and end."""
    text: str
    at: int
    value: Any = None
    """The value of a number or a text."""


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_]))
    | (?P<word>[A-Za-z0-9_](?:[A-Za-z0-9_/-]*[A-Za-z0-9_])?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def tokens(text: str) -> list[ExpressionToken]:
    """Return all tokens, with `end` as the last. Raises Fault."""
    if len(text) > CHARACTERS_MAX:
        raise Fault(CHARACTERS_MAX, f"it is longer than {CHARACTERS_MAX} characters")
    found: list[ExpressionToken] = []
    at = 0
    while not found or found[-1].kind != "end":
        token, at = _token(text, at)
        found.append(token)
    return found


def _token(text: str, at: int) -> tuple[ExpressionToken, int]:
    match = _TOKEN.match(text, at)
    if match is None:
        at += len(text[at:]) - len(text[at:].lstrip())
        raise Fault(
            at, f"{text[at : at + 10]!r} is neither a name, a number, a text in quotes nor a sign"
        )
    kind = match.lastgroup or "end"
    token_text = match[kind]
    return ExpressionToken(
        kind, token_text, match.start(kind), _value(kind, token_text)
    ), match.end()


def _value(kind: str, token_text: str) -> Any:
    if kind == "number":
        return float(token_text) if "." in token_text else int(token_text)
    if kind == "text":
        return re.sub(
            r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token_text[1:-1], flags=re.DOTALL
        )
    return None


__all__ = [
    "CHARACTERS_MAX",
    "DEPTH_MAX",
    "NODES_MAX",
    "Expression",
    "Fault",
    "NameScope",
    "Unfit",
    "ValueKind",
    "parse",
]

DEPTH_MAX = 20
NODES_MAX = 200


class ValueKind(StrEnum):
    """The type of a value; `any` if it is known only at run time."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    LIST = "list"
    NULL = "null"
    ANY = "any"


class Unfit(Exception):
    """The types of this run's values do not suit the condition; the message states how."""


Matcher = Callable[[str], object]


def _no_patterns(_: str) -> Matcher:
    raise ValueError("no pattern can be compiled here")


@dataclass(frozen=True, slots=True)
class NameScope:
    """The names that a condition may use."""

    parameters: Mapping[str, ValueKind] | None = None
    """The types of parameters, by name; None: any parameter."""
    actions: Collection[str] | None = None
    """The keys of actions that have ended before; None: any."""
    pattern: Callable[[str], Matcher] = _no_patterns
    """Compiles the pattern of `matches`, or raises ValueError."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled condition. `names`: all names that it reads, part by part."""

    text: str
    names: frozenset[tuple[str, ...]]
    _root: _Node

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return True if the condition holds for these values (nested mappings). Raises Unfit."""
        return _truth(self._root, values)


@dataclass(frozen=True, slots=True)
class _Node:
    kind: ValueKind
    at: int
    value: Callable[[Mapping[str, Any]], Any]


def parse(text: str, scope: NameScope) -> Expression:
    """Parse a condition and check it as far as possible before a run.

    Raises Fault with the position of the error."""
    return _Parser(text, scope).whole()


_SYSTEM: Mapping[tuple[str, ...], ValueKind] = {
    ("target", "name"): ValueKind.TEXT,
    ("target", "host"): ValueKind.TEXT,
    ("target", "platform"): ValueKind.TEXT,
    ("execution", "id"): ValueKind.NUMBER,
    ("execution", "number"): ValueKind.NUMBER,
    ("job", "name"): ValueKind.TEXT,
    ("run", "attempt"): ValueKind.NUMBER,
}
_OF_ACTION: Mapping[str, ValueKind] = {
    "exit_code": ValueKind.NUMBER,
    "stdout": ValueKind.TEXT,
    "status": ValueKind.TEXT,
}
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class _Parser:
    def __init__(self, text: str, scope: NameScope) -> None:
        self._text = text
        self._scope = scope
        self._tokens = tokens(text)
        self._at = 0
        self._nodes = 0
        self._depth = 0
        self._names: set[tuple[str, ...]] = set()

    def whole(self) -> Expression:
        root = self._any_of()
        if self._next.kind != "end":
            raise Fault(self._next.at, f"{self._next.text!r} was not expected here")
        _wants_truth(root)
        return Expression(self._text, frozenset(self._names), root)

    @property
    def _next(self) -> ExpressionToken:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> ExpressionToken | None:
        token = self._next
        if token.kind in ("word", "sign") and token.text in texts:
            self._at += 1
            return token
        return None

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            found = self._next.text or "the end"
            raise Fault(self._next.at, f"{sign!r} was expected here, not {found!r}")

    def _node(self, kind: ValueKind, at: int, value: Callable[[Mapping[str, Any]], Any]) -> _Node:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise Fault(at, f"it has more than {NODES_MAX} parts")
        return _Node(kind, at, value)

    def _any_of(self) -> _Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Fault(self._next.at, f"it is nested more than {DEPTH_MAX} deep")
        left = self._all_of()
        while token := self._take("or"):
            left = self._both(
                left, self._all_of(), token.at, lambda a, b, v: _truth(a, v) or _truth(b, v)
            )
        self._depth -= 1
        return left

    def _all_of(self) -> _Node:
        left = self._not()
        while token := self._take("and"):
            left = self._both(
                left, self._not(), token.at, lambda a, b, v: _truth(a, v) and _truth(b, v)
            )
        return left

    def _both(
        self,
        left: _Node,
        right: _Node,
        at: int,
        join: Callable[[_Node, _Node, Mapping[str, Any]], bool],
    ) -> _Node:
        _wants_truth(left)
        _wants_truth(right)
        return self._node(ValueKind.BOOLEAN, at, lambda values: join(left, right, values))

    def _not(self) -> _Node:
        negations: list[ExpressionToken] = []
        while token := self._take("not"):
            negations.append(token)
        node = self._comparison()
        for token in negations:
            node = self._negated(node, token.at)
        return node

    def _negated(self, node: _Node, at: int) -> _Node:
        _wants_truth(node)
        return self._node(ValueKind.BOOLEAN, at, lambda values: not _truth(node, values))

    def _comparison(self) -> _Node:
        left = self._operand()
        if token := self._take("==", "!="):
            return self._equal(left, self._operand(), token)
        if token := self._take(*_ORDERS):
            return self._ordered(left, self._operand(), token)
        if token := self._take("matches"):
            return self._matches(left, token)
        if self._next.text == "not" and self._tokens[self._at + 1].text == "in":
            self._at += 1
            return self._negated(self._inside(left, self._tokens[self._at]), left.at)
        return (
            self._inside(left, self._next)
            if self._next.text == "in" and self._next.kind == "word"
            else left
        )

    def _equal(self, left: _Node, right: _Node, token: ExpressionToken) -> _Node:
        _comparable(left, right, token.at)
        wanted = token.text == "=="
        return self._node(
            ValueKind.BOOLEAN, token.at, lambda v: _same(left.value(v), right.value(v)) is wanted
        )

    def _ordered(self, left: _Node, right: _Node, token: ExpressionToken) -> _Node:
        _comparable(left, right, token.at)
        for side in (left, right):
            if side.kind in (ValueKind.BOOLEAN, ValueKind.LIST, ValueKind.NULL):
                raise Fault(
                    side.at, f"{token.text!r} compares numbers or texts, and this is a {side.kind}"
                )
        compare = _ORDERS[token.text]
        return self._node(
            ValueKind.BOOLEAN, token.at, lambda v: _in_order(left.value(v), right.value(v), compare)
        )

    def _inside(self, left: _Node, token: ExpressionToken) -> _Node:
        self._at += 1
        right = self._operand()
        if right.kind not in (ValueKind.LIST, ValueKind.TEXT, ValueKind.ANY):
            raise Fault(
                right.at, f"behind 'in' stands a list or a text, and this is a {right.kind}"
            )
        if right.kind is ValueKind.TEXT and left.kind not in (ValueKind.TEXT, ValueKind.ANY):
            raise Fault(left.at, f"only a text can be in a text, and this is a {left.kind}")
        return self._node(
            ValueKind.BOOLEAN, token.at, lambda v: _within(left.value(v), right.value(v))
        )

    def _matches(self, left: _Node, token: ExpressionToken) -> _Node:
        pattern = self._next
        if pattern.kind != "text":
            raise Fault(pattern.at, "behind 'matches' stands a pattern in quotes")
        if left.kind not in (ValueKind.TEXT, ValueKind.ANY):
            raise Fault(left.at, f"only a text can match a pattern, and this is a {left.kind}")
        self._at += 1
        try:
            matcher = self._scope.pattern(pattern.value)
        except ValueError as wrong:
            raise Fault(pattern.at, f"the pattern cannot be used: {wrong}") from None
        return self._node(ValueKind.BOOLEAN, token.at, lambda v: _matched(left.value(v), matcher))

    def _operand(self) -> _Node:
        token = self._next
        if self._take("("):
            node = self._any_of()
            self._expect(")")
            return node
        if self._take("["):
            return self._list(token.at)
        if token.kind in ("text", "number"):
            self._at += 1
            return self._constant(token.value, token.at)
        if token.kind == "word" and token.text in ("true", "false", "null"):
            self._at += 1
            return self._constant(
                {"true": True, "false": False, "null": None}[token.text], token.at
            )
        if token.kind == "word" and token.text not in ("and", "or", "not", "in", "matches"):
            return self._name()
        found = repr(token.text) if token.text else "the end"
        raise Fault(token.at, f"a value was expected here, not {found}")

    def _constant(self, value: Any, at: int) -> _Node:
        return self._node(_kind_of(value), at, lambda _: value)

    def _list(self, at: int) -> _Node:
        items: list[_Node] = []
        while self._take("]") is None:
            if items:
                self._expect(",")
            items.append(self._operand())
        return self._node(ValueKind.LIST, at, lambda values: [item.value(values) for item in items])

    def _name(self) -> _Node:
        at = self._next.at
        name = (self._next.text, *self._parts())
        kind = self._kind_of_name(name, at)
        self._names.add(name)
        return self._node(kind, at, lambda values: _look_up(values, name))

    def _parts(self) -> Iterator[str]:
        self._at += 1
        while True:
            if self._take("."):
                if self._next.kind not in ("word", "number"):
                    raise Fault(self._next.at, "a name was expected behind the point")
                yield self._next.text
                self._at += 1
            elif self._next.text == "[" and self._tokens[self._at + 1].kind == "text":
                yield self._tokens[self._at + 1].value
                self._at += 2
                self._expect("]")
            else:
                return

    def _kind_of_name(self, name: tuple[str, ...], at: int) -> ValueKind:
        match name:
            case ("parameters", parameter):
                known = self._scope.parameters
                if known is not None and parameter not in known:
                    raise Fault(at, f"the job has no parameter {parameter!r}")
                return ValueKind.ANY if known is None else known[parameter]
            case ("target", "labels", _):
                return ValueKind.TEXT
            case ("actions", key, *rest):
                return self._kind_of_result(key, rest, at)
            case _ if name in _SYSTEM:
                return _SYSTEM[name]
        raise Fault(at, f"there is no value {'.'.join(name)!r}")

    def _kind_of_result(self, key: str, rest: list[str], at: int) -> ValueKind:
        if self._scope.actions is not None and key not in self._scope.actions:
            raise Fault(at, f"no action {key!r} has ended before this one")
        if len(rest) == 2 and rest[0] == "outputs":
            return ValueKind.ANY
        if len(rest) == 1 and rest[0] in _OF_ACTION:
            return _OF_ACTION[rest[0]]
        raise Fault(at, f"of an action there are {', '.join(_OF_ACTION)} and outputs.NAME")


def _wants_truth(node: _Node) -> None:
    if node.kind not in (ValueKind.BOOLEAN, ValueKind.ANY, ValueKind.NULL):
        raise Fault(node.at, f"expected true or false here, found a {node.kind}")


def _comparable(left: _Node, right: _Node, at: int) -> None:
    kinds = {left.kind, right.kind} - {ValueKind.ANY, ValueKind.NULL}
    if len(kinds) > 1:
        raise Fault(at, f"a {left.kind} and a {right.kind} cannot be compared")


def _truth(node: _Node, values: Mapping[str, Any]) -> bool:
    value = node.value(values)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Unfit(f"expected true or false, found the {_kind_of(value)} {_shorten(value)}")


def _kind_of(value: Any) -> ValueKind:
    match value:
        case None:
            return ValueKind.NULL
        case bool():
            return ValueKind.BOOLEAN
        case int() | float():
            return ValueKind.NUMBER
        case str():
            return ValueKind.TEXT
        case list() | tuple():
            return ValueKind.LIST
    return ValueKind.ANY


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) is isinstance(right, bool)


def _in_order(left: Any, right: Any, compare: Callable[[Any, Any], bool]) -> bool:
    if left is None or right is None:
        return False
    kinds = {_kind_of(left), _kind_of(right)}
    if kinds not in ({ValueKind.NUMBER}, {ValueKind.TEXT}):
        raise Unfit(
            f"{_shorten(left)} and {_shorten(right)} cannot be put in order: both must be numbers, "
            "or both texts"
        )
    return compare(left, right)


def _within(item: Any, whole: Any) -> bool:
    if (item is None and isinstance(whole, str)) or whole is None:
        return False
    if isinstance(whole, str):
        if not isinstance(item, str):
            raise Unfit(f"{_shorten(item)} is not text, so it cannot be part of one")
        return item in whole
    if not isinstance(whole, list | tuple):
        raise Unfit(f"{_shorten(whole)} is neither a list nor a text, so nothing is in it")
    return any(_same(item, other) for other in whole)


def _matched(text: Any, matcher: Matcher) -> bool:
    if text is None:
        return False
    if not isinstance(text, str):
        raise Unfit(f"{_shorten(text)} is not text, so no pattern matches it")
    try:
        return bool(matcher(text))
    except ValueError as costly:
        raise Unfit(str(costly)) from None


def _look_up(values: Mapping[str, Any], name: tuple[str, ...]) -> Any:
    found: Any = values
    for part in name:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
