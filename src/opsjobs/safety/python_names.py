"""Resolve names of a Python module: imports, assignments, loops and parameters.

Also those of the standard library: the results of plain functions and methods on texts.
"""

from __future__ import annotations

import ast
import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice

from opsjobs.safety.budget import Budget, filled_in, replaced
from opsjobs.safety.constant_folding import decoded
from opsjobs.safety.symbolic_words import (
    HOME,
    MAYBE_EMPTY,
    MEANINGS_MAX,
    STAR,
    cleared,
    is_known,
    parse_number,
)

WALK_PARTS = 3
"""A folder, the names of folders in it, and the names of files."""
ANY_NAME = STAR
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = tuple[str, str]
"""A function, and a parameter of it."""


class PythonNames:
    """The names of one module. `nodes`: all nodes of its tree."""

    def __init__(self, tree: ast.AST, budget: Budget) -> None:
        self.nodes: Sequence[ast.AST] = list(ast.walk(tree))
        budget.spend(len(self.nodes))
        self._budget = budget
        self._imports: dict[str, str] = {}
        self._assigned: dict[str, list[ast.expr]] = {}
        self._functions: dict[str, _Function] = {}
        self._parameters: dict[_Scope, list[ast.expr]] = {}
        self._scopes: dict[int, _Scope] = {}
        self._asked: set[str] = set()
        for node in self.nodes:
            self._collect(node)
        if self._functions:
            for node in self.nodes:
                if isinstance(node, ast.Call):
                    self._call(node)

    def assigned_values(self, node: ast.Name) -> list[ast.expr]:
        """Return all expressions that the text assigns to a name.

        For a parameter these are the arguments of the calls of its function.
        """
        scope = self._scopes.get(id(node))
        assigned = self._assigned.get(node.id, [])
        return (
            [*islice(chain(self._parameters.get(scope, ()), assigned), MEANINGS_MAX)]
            if scope is not None
            else assigned
        )

    def key(self, node: ast.Name) -> _Scope:
        """Return a key that is equal for all uses of one variable."""
        return self._scopes.get(id(node), ("", node.id))

    def alias(self, name: str, dotted: Callable[[ast.AST], str | None]) -> str:
        """Return the name that a name of a module or a function is an alias of."""
        if name in self._imports:
            return self._imports[name]
        given = self._assigned.get(name, [])
        if (
            len(given) == 1
            and isinstance(given[0], ast.Name | ast.Attribute | ast.Call)
            and name not in self._asked
        ):
            self._asked.add(name)
            found = dotted(given[0])
            self._asked.discard(name)
            return found or name
        return name

    def _collect(self, node: ast.AST) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Assign(targets, value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target, _, value) | ast.NamedExpr(target, value) if (
                value is not None
            ):
                self._assign(target, value)
            case ast.AugAssign(ast.Name(name), ast.Add(), value):
                self._assigned.setdefault(name, []).append(ast.Constant(MAYBE_EMPTY))
            case (
                ast.For(target, items)
                | ast.AsyncFor(target, items)
                | ast.comprehension(target, items)
            ):
                self._loop(target, items)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._define(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                self._imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            else:
                first = alias.name.partition(".")[0]
                self._imports[alias.asname or first] = alias.name if alias.asname else first

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._assigned.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            for one, assigned in zip(target.elts, value.elts, strict=False):
                self._assign(one, assigned)

    def _loop(self, target: ast.expr, items: ast.expr) -> None:
        """Record a loop: its variable is one of the items, `*items`."""
        if isinstance(target, ast.Name):
            self._assign(target, ast.Starred(items))
        elif isinstance(items, ast.List | ast.Tuple | ast.Set):
            for item in items.elts:
                self._assign(target, item)
        elif isinstance(target, ast.Tuple) and _is_walk(items) and len(target.elts) == WALK_PARTS:
            folder, *names = target.elts
            self._assign(folder, ast.Starred(items))
            for listed in names:
                self._assign(listed, ast.Tuple([ast.Constant(ANY_NAME)]))

    def _define(self, function: _Function) -> None:
        self._functions[function.name] = function
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = {argument.arg for argument in (*arguments, *filter(None, (function.args.vararg,)))}
        for argument, default in _defaults(function.args):
            self._parameters.setdefault((function.name, argument), []).append(default)
        if names:
            inner = list(ast.walk(function))
            self._budget.spend(len(inner) // 4)
            # Outer functions precede inner ones, whose scopes then replace theirs.
            self._scopes.update(
                {
                    id(n): (function.name, n.id)
                    for n in inner
                    if isinstance(n, ast.Name) and n.id in names
                }
            )

    def _call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Name(name) | ast.Attribute(_, name):
                function = self._functions.get(name)
            case _:
                return
        if function is None:
            return
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        if function.args.vararg is not None:
            rest = node.args[len(names) :]
            self._parameters.setdefault((name, function.args.vararg.arg), []).append(
                ast.Tuple(rest)
            )
        if names[:1] in (["self"], ["cls"]) and isinstance(node.func, ast.Attribute):
            names.pop(0)
        for parameter, value in zip(names, node.args, strict=False):
            given = ast.Constant(MAYBE_EMPTY) if isinstance(value, ast.Starred) else value
            self._parameters.setdefault((name, parameter), []).append(given)
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._parameters.setdefault((name, keyword.arg), []).append(keyword.value)


def _is_walk(items: ast.expr) -> bool:
    return isinstance(items, ast.Call) and (
        (isinstance(items.func, ast.Attribute) and items.func.attr in ("walk", "fwalk"))
        or (isinstance(items.func, ast.Name) and items.func.id == "walk")
    )


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    places = [*arguments.posonlyargs, *arguments.args]
    for argument, default in zip(reversed(places), reversed(arguments.defaults), strict=False):
        yield argument.arg, default
    for argument, of in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if of is not None:
            yield argument.arg, of


_CHARACTERS = 0x110000
SYSTEM = {
    "sys.executable": "python3",
    "os.sep": "/",
    "os.path.sep": "/",
    "os.devnull": "/dev/null",
    "os.curdir": ".",
    "os.pardir": "..",
    "signal.SIGKILL": "9",
    "signal.SIGTERM": "15",
    "signal.SIGHUP": "1",
}
"""The values of names of the standard library."""
METHODS: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(
        ("decode", "encode", "resolve", "absolute", "as_posix", "expanduser"),
        lambda text: text.replace("~", HOME, 1) if text[:1] == "~" else text,
    ),
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
}
"""Methods of a text without arguments."""
ARGUMENTS = frozenset({"replace", "format", "joinpath", "rstrip", "removesuffix", "removeprefix"})
"""Methods of a text with arguments."""


def call_method(method: str, text: str, arguments: Sequence[str]) -> str:
    """Return the result of such a method; MAYBE_EMPTY if it cannot be computed."""
    if method == "format":
        return filled_in(text, "{}", arguments)
    if method == "joinpath":
        return "/".join((text.rstrip("/"), *arguments))
    if not is_known(text) or not all(is_known(word) for word in arguments):
        return MAYBE_EMPTY
    if method == "replace":
        return replaced(text, arguments[0], arguments[1]) if len(arguments) > 1 else MAYBE_EMPTY
    return {
        "rstrip": text.rstrip,
        "removesuffix": text.removesuffix,
        "removeprefix": text.removeprefix,
    }[method](arguments[0])


def _hex(words: list[str]) -> str:
    try:
        return cleared(bytes.fromhex(words[0]).decode())
    except ValueError:
        return MAYBE_EMPTY


def _base64(words: list[str]) -> str:
    return decoded(words[0]) or MAYBE_EMPTY


def _chr(words: list[str]) -> str:
    number = parse_number(words[0])
    known = number is not None and 0 <= number < _CHARACTERS
    return cleared(chr(number)) if number is not None and known else MAYBE_EMPTY


def _codec(words: list[str]) -> str:
    return codecs.decode(words[0], "rot13") if len(words) > 1 and "rot" in words[1] else MAYBE_EMPTY


FUNCTIONS: Mapping[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(
        (
            f"base64.{n}"
            for n in ("b64decode", "standard_b64decode", "decodebytes", "urlsafe_b64decode")
        ),
        _base64,
    ),
    **dict.fromkeys(("bytes.fromhex", "binascii.unhexlify", "bytearray.fromhex"), _hex),
    "chr": _chr,
    "codecs.decode": _codec,
}
"""Functions by their full names, with imports resolved."""
