"""Compute Python expressions, if the text determines their values.

Strings are concatenated, decoded and passed on.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any

from opsjobs.safety.budget import Budget, check_size, filled_in
from opsjobs.safety.python_names import (
    ANY_NAME,
    ARGUMENTS,
    FUNCTIONS,
    METHODS,
    SYSTEM,
    PythonNames,
    call_method,
)
from opsjobs.safety.question import UNKNOWN_INPUTS, ProgramInputs
from opsjobs.safety.symbolic_words import (
    HOME,
    LATER,
    MAYBE_EMPTY,
    MEANINGS_MAX,
    SOMETHING,
    STAR,
    cleared,
    is_known,
    join_parts,
)

_TEXT_MAX = 64 << 10
_UNKNOWN = [MAYBE_EMPTY]
_JOINED = frozenset(
    {
        "str",
        "os.fspath",
        "os.path.normpath",
        "os.path.abspath",
        "shlex.quote",
        "pathlib.Path",
        "os.path.join",
    }
)
_FULL = frozenset({"tempfile.mkdtemp", "os.getcwd", "tempfile.gettempdir", "tempfile.mktemp"})
_HOMES = frozenset({"os.path.expanduser", "pathlib.Path.home", "pathlib.Path.home()"})
_ENVIRONMENT = frozenset({"os.getenv", "os.environ.get", "os.environ.pop", "os.environ.setdefault"})
_LISTS = frozenset({"os.listdir", "os.scandir"})
_WALKS = frozenset({"os.walk", "os.fwalk"})


class PythonValues:
    """The values of a module's expressions: all that the text allows, MEANINGS_MAX at most."""

    def __init__(
        self, names: PythonNames, budget: Budget, given: ProgramInputs = UNKNOWN_INPUTS
    ) -> None:
        self._names = names
        self._budget = budget
        self._given = given
        self._asked: set[tuple[str, str]] = set()
        self._kinds: dict[type, Callable[[Any], list[str]]] = {
            ast.Constant: lambda node: [_constant(node.value)],
            ast.JoinedStr: lambda node: join_parts(self.texts(part) for part in node.values),
            ast.FormattedValue: lambda node: self.texts(node.value),
            ast.BinOp: lambda node: self._operated(node.left, node.op, node.right),
            ast.BoolOp: lambda node: [text for value in node.values for text in self.texts(value)],
            ast.IfExp: lambda node: [*self.texts(node.body), *self.texts(node.orelse)],
            ast.Name: self._variable,
            ast.Attribute: self._attribute,
            ast.Call: self._evaluate_call,
            ast.Subscript: self._sliced,
            ast.Starred: lambda node: self.items(node.value) or _UNKNOWN,
            ast.UnaryOp: lambda node: [
                f"-{text}" if isinstance(node.op, ast.USub) else MAYBE_EMPTY
                for text in self.texts(node.operand)
            ],
            ast.NamedExpr: lambda node: self.texts(node.value),
        }

    def dotted(self, node: ast.AST) -> str | None:
        """Return the dotted name of a callee, imports resolved: `sh.rmtree` -> `shutil.rmtree`.

        None if the expression is not a name.
        """
        self._budget.spend()
        match node:
            case ast.Name(name):
                return self._names.alias(name, self.dotted)
            case ast.Attribute(value, attribute):
                left = self.dotted(value)
                return f"{left}.{attribute}" if left is not None else None
            case ast.Call(ast.Name("getattr"), [of, name, *_]):
                left, right = self.dotted(of), self.text(name)
                return f"{left}.{right}" if left is not None and is_known(right) else None
            case ast.Call(ast.Name("__import__"), [name, *_]) | ast.Call(
                ast.Attribute(_, "import_module"), [name, *_]
            ):
                module = self.text(name)
                return module if is_known(module) else None
            case ast.Call(function):
                left = self.dotted(function)
                return f"{left}()" if left is not None else None
        return None

    def texts(self, node: ast.expr | None) -> list[str]:
        """Return all possible texts of an expression, at least one.

        MAYBE_EMPTY is among them if one is unknown.
        """
        self._budget.spend()
        kind = self._kinds.get(type(node))
        found = kind(node) if kind is not None else _UNKNOWN
        self._budget.read(sum(map(len, found)))
        return found if len(found) == 1 else list(dict.fromkeys(found))[:MEANINGS_MAX] or _UNKNOWN

    def text(self, node: ast.expr | None) -> str:
        """Return the text of an expression; MAYBE_EMPTY if it is unknown or has several values."""
        found = self.texts(node)
        return found[0] if len(found) == 1 else MAYBE_EMPTY

    def argvs(self, node: ast.expr) -> list[list[str]] | None:
        """Return the words of a list, once for each possible value; None if it is not a list."""
        self._budget.spend()
        match node:
            case ast.List(items) | ast.Tuple(items):
                each = [
                    self._starred(item.value)
                    if isinstance(item, ast.Starred)
                    else [[t] for t in self.texts(item)]
                    for item in items
                ]
                return _put_together(each)
            case ast.BinOp(left, ast.Add(), right):
                first = self.argvs(left)
                return (
                    _put_together([first, self.argvs(right) or [_UNKNOWN]])
                    if first is not None
                    else None
                )
            case ast.Call(ast.Attribute(text, "split"), []):
                return [t.split() for t in self.texts(text)]
            case ast.Call(function, [text, *_]) if self.dotted(function) == "shlex.split":
                return [t.split() for t in self.texts(text)]
        return self._named_argvs(node)

    def _named_argvs(self, node: ast.expr) -> list[list[str]] | None:
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Slice)
            and self._is_argv(node.value)
        ):
            return [self._arguments(node.slice)]
        if isinstance(node, ast.Name):
            return [
                argv for value in self._given_to(node) for argv in self.argvs(value) or ()
            ] or None
        return None

    def _starred(self, node: ast.expr) -> list[list[str]]:
        return self.argvs(node) or [_UNKNOWN]

    def items(self, node: ast.expr) -> list[str] | None:
        """Return the items of a loop's iterable; None if it is not a known list."""
        match node:
            case ast.List(items) | ast.Tuple(items) | ast.Set(items):
                return [text for item in items for text in self.texts(item)]
            case ast.Call(ast.Name("sorted" | "list" | "set" | "reversed" | "tuple"), [of, *_]):
                return self.items(of)
            case ast.Call(function, arguments):
                return self._list_folder(self.dotted(function) or "", function, arguments)
        argvs = self.argvs(node)
        return [word for argv in argvs for word in argv] if argvs is not None else None

    def _list_folder(
        self, name: str, function: ast.expr, arguments: Sequence[ast.expr]
    ) -> list[str] | None:
        """Return the files of a folder: a glob that matches any name."""
        if name in _LISTS:
            return [STAR]
        if name in _WALKS and arguments:
            return [
                folder
                for text in self.texts(arguments[0])
                for folder in (text, f"{text.rstrip('/')}/{STAR}")
            ]
        if name in ("glob.glob", "glob.iglob") and arguments:
            return [text.replace("*", STAR) for text in self.texts(arguments[0])]
        if isinstance(function, ast.Attribute) and function.attr in ("iterdir", "glob", "rglob"):
            pattern = (
                [t.replace("*", STAR) for t in self.texts(arguments[0])] if arguments else [STAR]
            )
            return join_parts(([f"{t.rstrip('/')}/" for t in self.texts(function.value)], pattern))
        if isinstance(function, ast.Attribute) and function.attr in ("split", "splitlines"):
            return [
                piece
                for text in self.texts(function.value)
                for piece in (text.split() if is_known(text) else _UNKNOWN)
            ]
        return None

    # --- kinds

    def _given_to(self, node: ast.Name) -> Iterator[ast.expr]:
        """Return the values that are assigned to a name, unless it is being resolved already."""
        key = self._names.key(node)
        if key in self._asked:
            return
        self._asked.add(key)
        yield from self._names.assigned_values(node)[:MEANINGS_MAX]
        self._asked.discard(key)

    def _variable(self, node: ast.Name) -> list[str]:
        return [text for value in self._given_to(node) for text in self.texts(value)] or _UNKNOWN

    def _sliced(self, node: ast.Subscript) -> list[str]:
        if self._is_argv(node.value):
            return self._arguments(node.slice)
        if self.dotted(node.value) == "os.environ":
            return self._environment(self.text(node.slice), None)
        match node.slice:
            case ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))):
                return [text[::-1] for text in self.texts(node.value)]
        return _UNKNOWN

    def _is_argv(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name | ast.Attribute) and self.dotted(node) == "sys.argv"

    def _arguments(self, at: ast.expr) -> list[str]:
        """Return the words passed to the program: `sys.argv[1]`, `sys.argv[1:]`."""
        arguments = self._given.arguments
        if arguments is None:
            return [LATER]
        words = ("-", *arguments)
        match at:
            case ast.Constant(int() as n):
                return [words[n]] if n < len(words) else [""]
            case ast.UnaryOp(ast.USub(), ast.Constant(int() as n)):
                return [words[-n]] if n <= len(words) else [""]
            case ast.Slice(ast.Constant(int() as n), None, None):
                return list(words[n:])
        return [*arguments, MAYBE_EMPTY]

    def _environment(self, name: str, default: ast.expr | None) -> list[str]:
        found = list(self._given.variables(name)) if is_known(name) else []
        if name == "HOME" and not found:
            return [HOME]
        return [
            *found,
            *(self.texts(default) if default is not None else ()),
            *(() if found else _UNKNOWN),
        ]

    def _operated(self, left: ast.expr, operator: ast.operator, right: ast.expr) -> list[str]:
        match operator:
            case ast.Add():
                found = join_parts((self.texts(left), self.texts(right)))
            case ast.Div():
                found = [
                    _below(a, b)
                    for a, b in islice(product(self.texts(left), self.texts(right)), MEANINGS_MAX)
                ]
            case ast.Mod():
                argvs = self.argvs(right) or [[text] for text in self.texts(right)]
                found = [
                    _formatted(text, words)
                    for text, words in islice(product(self.texts(left), argvs), MEANINGS_MAX)
                ]
            case ast.Mult() if isinstance(right, ast.Constant) and isinstance(right.value, int):
                found = [
                    text * min(max(right.value, 0), 1_000, _TEXT_MAX // max(len(text), 1) + 1)
                    for text in self.texts(left)
                ]
            case _:
                return _UNKNOWN
        return [text[:_TEXT_MAX] for text in found]

    def _attribute(self, node: ast.Attribute) -> list[str]:
        name = self.dotted(node) or ""
        if name.endswith(".parse_args()." + node.attr) and self._given.arguments is not None:
            # The parser picks one of them at run time.
            return [
                *(
                    piece
                    for word in self._given.arguments
                    for piece in (word, word.partition("=")[2])
                    if piece
                ),
                MAYBE_EMPTY,
            ]
        if (system := SYSTEM.get(name)) is not None:
            return [system]
        # `path` of an entry of os.scandir.
        return self.texts(node.value) if node.attr == "path" else _UNKNOWN

    def _evaluate_call(self, node: ast.Call) -> list[str]:
        name = self.dotted(node.func) or ""
        arguments = node.args
        if name in _JOINED:
            parts = islice(product(*(self.texts(a) for a in arguments)), MEANINGS_MAX)
            return [_joined_path(part) for part in parts] if arguments else ["."]
        if name in _FULL:
            return [SOMETHING]
        if name in _HOMES:
            return [HOME + t.lstrip("~") for t in self.texts(arguments[0])] if arguments else [HOME]
        if name in _ENVIRONMENT and arguments:
            return self._environment(
                self.text(arguments[0]), arguments[1] if len(arguments) > 1 else None
            )
        function = FUNCTIONS.get(name)
        if function is not None and arguments:
            return [function([self.text(a) for a in arguments])]
        return self._method(node) if isinstance(node.func, ast.Attribute) else _UNKNOWN

    def _method(self, node: ast.Call) -> list[str]:
        function, arguments = node.func, node.args
        if not isinstance(function, ast.Attribute):
            return _UNKNOWN
        texts = self.texts(function.value)
        if function.attr == "join" and arguments:
            argvs = self.argvs(arguments[0])
            return (
                [_join_words(text, words) for text, words in product(texts, argvs)]
                if argvs is not None
                else _UNKNOWN
            )
        if function.attr in METHODS:
            return [METHODS[function.attr](text) for text in texts]
        if function.attr in ARGUMENTS and arguments:
            argument_texts = islice(product(*(self.texts(a) for a in arguments)), MEANINGS_MAX)
            return [
                call_method(function.attr, text, words)[:_TEXT_MAX]
                for text, words in product(texts, list(argument_texts))
            ]
        return _UNKNOWN


def _put_together(parts: Iterable[Sequence[Sequence[str]]]) -> list[list[str]]:
    ways = list(islice(product(*parts), MEANINGS_MAX))
    check_size(sum(len(words) for way in ways for words in way))
    return [[word for words in way for word in words] for way in ways]


def _join_words(text: str, words: Sequence[str]) -> str:
    check_size(sum(map(len, words)) + len(text) * len(words))
    return text.join(words)


def _constant(value: object) -> str:
    match value:
        case str() as text:
            return text if text in (MAYBE_EMPTY, ANY_NAME) else cleared(text)
        case bytes() as data:
            return cleared(data.decode(errors="replace"))
        case int() as number:
            return str(number)
    return MAYBE_EMPTY


def _below(folder: str, name: str) -> str:
    return name if name.startswith("/") else f"{folder.rstrip('/')}/{name}"


def _joined_path(parts: Sequence[str]) -> str:
    """Join as os.path.join does: an absolute part starts over."""
    begin = max((n for n, part in enumerate(parts) if part.startswith("/")), default=0)
    return "/".join(part.rstrip("/") or "/" for part in parts[begin:]).replace("//", "/")


def _formatted(text: str, words: Sequence[str]) -> str:
    return filled_in(text, "%s", words)
