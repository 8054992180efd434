"""What an expression of Python is, where that follows from the text: strings put together, decoded, and passed on."""

from __future__ import annotations

import ast
import codecs
from collections.abc import Callable, Mapping
from typing import Any

from opsjobs.model.safety.budget import Budget
from opsjobs.model.safety.constants import decoded
from opsjobs.model.safety.words import HOME, MAYBE_EMPTY, SOMETHING, cleared, known

_TEXT_MAX = 64 << 10
_CHARACTERS = 0x110000
_SYSTEM = {
    "sys.executable": "python3",
    "os.sep": "/",
    "os.path.sep": "/",
    "os.devnull": "/dev/null",
    "os.curdir": ".",
    "os.pardir": "..",
}
_SIGNALS = {"signal.SIGKILL": "9", "signal.SIGTERM": "15", "signal.SIGHUP": "1"}
_JOINED = frozenset({"str", "os.fspath", "os.path.normpath", "os.path.abspath", "shlex.quote", "pathlib.Path", "os.path.join"})
_FULL = frozenset({"tempfile.mkdtemp", "os.getcwd", "tempfile.gettempdir", "tempfile.mktemp"})
_HOMES = frozenset({"os.path.expanduser", "pathlib.Path.home", "pathlib.Path.home()"})


class Values:
    """The values of a module's expressions. `imports`: what a name stands for, `{"sh": "shutil"}`."""

    def __init__(self, tree: ast.AST, budget: Budget) -> None:
        self._budget = budget
        self.imports: dict[str, str] = {}
        self._assigned: dict[str, list[ast.expr]] = {}
        self._asked: set[str] = set()
        self._kinds: dict[type, Callable[[Any], str]] = {
            ast.Constant: self._constant,
            ast.JoinedStr: lambda node: "".join(self.text(part) for part in node.values),
            ast.FormattedValue: lambda node: self.text(node.value),
            ast.BinOp: lambda node: self._operated(node.left, node.op, node.right),
            ast.Name: lambda node: self._variable(node.id),
            ast.Attribute: self._attribute,
            ast.Call: self._called,
            ast.Subscript: self._sliced,
        }
        for node in ast.walk(tree):
            budget.spend()
            self._collect(node)

    def _collect(self, node: ast.AST) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Assign(targets, value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target, _, value) | ast.NamedExpr(target, value) if value is not None:
                self._assign(target, value)
            case ast.AugAssign(ast.Name(name), ast.Add(), value):
                self._assigned.setdefault(name, []).append(ast.Constant(MAYBE_EMPTY))
            case ast.For(target, items):
                for item in items.elts if isinstance(items, ast.List | ast.Tuple | ast.Set) else [ast.Constant(None)]:
                    self._assign(target, item)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            else:
                first = alias.name.partition(".")[0]
                self.imports[alias.asname or first] = alias.name if alias.asname else first

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._assigned.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            for one, said in zip(target.elts, value.elts, strict=False):
                self._assign(one, said)

    def dotted(self, node: ast.AST) -> str | None:
        """The name of what is called, imports undone: `sh.rmtree` -> `shutil.rmtree`; None where it is not a name."""
        self._budget.spend()
        match node:
            case ast.Name(name):
                return self._alias(name)
            case ast.Attribute(value, attribute):
                left = self.dotted(value)
                return f"{left}.{attribute}" if left is not None else None
            case ast.Call(ast.Name("getattr"), [of, name, *_]):
                left, right = self.dotted(of), self.text(name)
                return f"{left}.{right}" if left is not None and known(right) else None
            case ast.Call(ast.Name("__import__"), [name, *_]) | ast.Call(ast.Attribute(_, "import_module"), [name, *_]):
                module = self.text(name)
                return module if known(module) else None
            case ast.Call(function):
                left = self.dotted(function)
                return f"{left}()" if left is not None else None
        return None

    def _alias(self, name: str) -> str:
        if name in self.imports:
            return self.imports[name]
        given = self._assigned.get(name, [])
        if len(given) == 1 and isinstance(given[0], ast.Name | ast.Attribute | ast.Call) and name not in self._asked:
            self._asked.add(name)
            found = self.dotted(given[0])
            self._asked.discard(name)
            return found or name
        return name

    def words(self, node: ast.expr) -> list[str] | None:
        """The words of a list, or of a list that is put together; None where it is no list."""
        self._budget.spend()
        match node:
            case ast.List(items) | ast.Tuple(items):
                found: list[str] = []
                for item in items:
                    found += (self.words(item.value) or [MAYBE_EMPTY]) if isinstance(item, ast.Starred) else [self.text(item)]
                return found
            case ast.BinOp(left, ast.Add(), right):
                first, second = self.words(left), self.words(right)
                return [*first, *(second or [MAYBE_EMPTY])] if first is not None else None
            case ast.Call(ast.Attribute(text, "split"), []):
                return self.text(text).split()
            case ast.Call(function, [text, *_]) if self.dotted(function) == "shlex.split":
                return self.text(text).split()
            case ast.Name(name) if name in self._assigned and name not in self._asked:
                self._asked.add(name)
                lists = [w for value in self._assigned[name] if (w := self.words(value)) is not None]
                self._asked.discard(name)
                return lists[0] if len(lists) == 1 else [w for words in lists for w in words] or None
        return None

    def texts(self, node: ast.expr) -> list[str]:
        """All that an expression may be as a text; a variable has every value that it is given."""
        if isinstance(node, ast.Name) and len(self._assigned.get(node.id, ())) > 1 and node.id not in self._asked:
            self._asked.add(node.id)
            found = [self.text(value) for value in self._assigned[node.id][:16]]
            self._asked.discard(node.id)
            return found
        return [self.text(node)]

    def text(self, node: ast.expr | None) -> str:
        """What an expression is as a text; MAYBE_EMPTY for what is not known."""
        self._budget.spend()
        kind = self._kinds.get(type(node))
        return kind(node) if kind is not None else MAYBE_EMPTY

    @staticmethod
    def _constant(node: Any) -> str:
        match node.value:
            case str() as text:
                return text if text == MAYBE_EMPTY else cleared(text)
            case bytes() as data:
                return cleared(data.decode(errors="replace"))
            case int() as number:
                return str(number)
        return MAYBE_EMPTY

    def _sliced(self, node: Any) -> str:
        match node.slice:
            case ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))):
                return self.text(node.value)[::-1]
        return MAYBE_EMPTY

    def _operated(self, left: ast.expr, operator: ast.operator, right: ast.expr) -> str:
        match operator:
            case ast.Add():
                found = self.text(left) + self.text(right)
            case ast.Div():
                found = (
                    f"{self.text(left).rstrip('/')}/{self.text(right)}"
                    if not self.text(right).startswith("/")
                    else self.text(right)
                )
            case ast.Mod():
                found = self.text(left)
                for word in self.words(right) or [self.text(right)]:
                    found = found.replace("%s", word, 1)
            case ast.Mult() if isinstance(right, ast.Constant) and isinstance(right.value, int):
                found = self.text(left) * min(max(right.value, 0), 1_000)
            case _:
                return MAYBE_EMPTY
        return found[:_TEXT_MAX]

    def _variable(self, name: str) -> str:
        given = self._assigned.get(name)
        if not given or name in self._asked:
            return MAYBE_EMPTY
        self._asked.add(name)
        values = {self.text(value) for value in given[:16]}
        self._asked.discard(name)
        return values.pop() if len(values) == 1 else MAYBE_EMPTY

    def _attribute(self, node: ast.Attribute) -> str:
        name = self.dotted(node) or ""
        return _SYSTEM.get(name) or _SIGNALS.get(name) or MAYBE_EMPTY

    def _called(self, node: ast.Call) -> str:
        name = self.dotted(node.func) or ""
        if name in _JOINED:
            return "/".join(self.text(a).rstrip("/") or "/" for a in node.args).replace("//", "/") if node.args else "."
        if name in _FULL:
            return SOMETHING
        if name in _HOMES:
            return HOME + self.text(node.args[0]).lstrip("~") if node.args else HOME
        function = _FUNCTIONS.get(name)
        return function([self.text(a) for a in node.args]) if function is not None and node.args else self._method(node)

    def _method(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Attribute):
            return MAYBE_EMPTY
        arguments = node.args
        if node.func.attr == "join" and arguments:
            words = self.words(arguments[0])
            return self.text(node.func.value).join(words) if words is not None else MAYBE_EMPTY
        text = self.text(node.func.value)
        if node.func.attr == "replace" and len(arguments) > 1:
            return text.replace(self.text(arguments[0]), self.text(arguments[1]))[:_TEXT_MAX] if known(text) else MAYBE_EMPTY
        if node.func.attr == "format":
            for argument in arguments:
                text = text.replace("{}", self.text(argument), 1)
            return text
        plain = _METHODS.get(node.func.attr)
        return plain(text) if plain is not None else MAYBE_EMPTY


_METHODS: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(
        ("decode", "encode", "resolve", "absolute", "as_posix", "expanduser"),
        lambda text: text.replace("~", HOME, 1) if text[:1] == "~" else text,
    ),
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
}


def _hex(words: list[str]) -> str:
    try:
        return cleared(bytes.fromhex(words[0]).decode())
    except ValueError:
        return MAYBE_EMPTY


def _base64(words: list[str]) -> str:
    return decoded(words[0]) or MAYBE_EMPTY


def _chr(words: list[str]) -> str:
    return cleared(chr(int(words[0]))) if words[0].isdigit() and int(words[0]) < _CHARACTERS else MAYBE_EMPTY


def _codec(words: list[str]) -> str:
    return codecs.decode(words[0], "rot13") if len(words) > 1 and "rot" in words[1] else MAYBE_EMPTY


_FUNCTIONS: Mapping[str, Callable[[list[str]], str]] = {
    **dict.fromkeys((f"base64.{n}" for n in ("b64decode", "standard_b64decode", "decodebytes", "urlsafe_b64decode")), _base64),
    **dict.fromkeys(("bytes.fromhex", "binascii.unhexlify", "bytearray.fromhex"), _hex),
    "chr": _chr,
    "codecs.decode": _codec,
}
