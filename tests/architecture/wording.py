"""What a script can see of the rules for plain words: docstrings, comments, messages, names and shapes.

`PYTHONPATH=tests python -m architecture [PATH ...]` lists what it finds. CONTRIBUTING.md has the rules in full.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from architecture.tree import Function

FIRST_LINE_MAX = 88
COLUMNS_MAX = 100
# A docstring that begins with a relative or a question describes a subject, not an action.
_OPENINGS = re.compile(
    r"(What|Who|Whom|Whose|Whoever|Whatever|Whether|Which|Where|How|Why|As whom|From where|Of)\b"
)
_PERSONS = re.compile(
    r"\b(he|him|his|himself|nobody|somebody|everybody|anybody|whoever|whom|whomever)\b",
    re.IGNORECASE,
)
_WHERE_FOR_IF = re.compile(
    r"\b(None|True|False|empty|raises?|Raise|Raises) where\b|\bwhere (it|there|they|none|no|not(?! exists)|nothing) \b"
)
# Participles and puzzling words that are no names of functions; of classes and values, some are
# good ones.
_NOT_VERBS = {
    "told", "said", "known", "kept", "made", "given", "taken", "left", "found", "heard", "seen", "asked", "begun", "gone",
    "written", "shown", "held", "drawn", "meant", "spelt", "got", "had", "done", "put_right", "of", "words", "may", "again",
    "elsewhere", "nowhere", "listed", "named", "joined", "counted", "wanted", "looked", "looked_up", "marked", "printed",
    "answered", "allowed", "judged", "refused", "emptied", "called", "loaded", "located", "created", "replayed",
}  # fmt: skip
_PROSE = re.compile(r"[a-z] [a-z]")
_PREDICATE = re.compile(r"_*(is|has|can)_")
_TRUTH = re.compile(r"bool\b|TypeGuard\b|TypeIs\b")
_FOR_TOOLS = re.compile(r"# (noqa|type:|fmt:)")


class Finding(NamedTuple):
    """One place that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def check_source(path: str, text: str) -> Iterator[Finding]:
    """Return what is to be found in one module, whatever the others hold."""
    tree = ast.parse(text)
    docstrings = list(_docstrings(tree))
    yield from _check_docstrings(path, docstrings)
    yield from _check_prose(path, tree, text, docstrings)
    yield from _check_names(path, tree)
    yield from _check_expressions(path, tree)
    yield from _check_shapes(path, tree, text)
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > COLUMNS_MAX:
            yield Finding(path, number, "long line", f"{len(line)} columns")


def check_class_names(sources: Mapping[str, ast.Module]) -> Iterator[Finding]:
    """Return every class whose name another class has as well."""
    places = defaultdict[str, list[tuple[str, int]]](list)
    for path, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append((path, node.lineno))
    for name, found in places.items():
        if len(found) > 1:
            for path, line in found:
                yield Finding(path, line, "duplicate class name", name)


def import_depth(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the longest chain of modules that import each other; there must be no circle."""
    chains = dict[str, list[str]]()

    def chain(module: str) -> list[str]:
        if module not in chains:
            longest = max(
                (chain(other) for other in sorted(imports.get(module, ()))), key=len, default=[]
            )
            chains[module] = [module, *longest]
        return chains[module]

    return max((chain(module) for module in sorted(imports)), key=len, default=[])


def imports_of(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return the modules that each module imports, by their paths; `src/` and `.py` are left out."""
    names = {_dotted(path): path for path in sources}
    found = dict[str, set[str]]()
    for path, tree in sources.items():
        imported = set[str]()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {
                    names[name] for name in (below & names.keys() or {node.module}) if name in names
                }
            elif isinstance(node, ast.Import):
                imported |= {names[alias.name] for alias in node.names if alias.name in names}
        found[path] = imported - {path}
    return found


def _dotted(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Return the line and the text of each docstring, also of those below attributes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for statement in node.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def _check_docstrings(path: str, docstrings: list[tuple[int, str]]) -> Iterator[Finding]:
    for line, text in docstrings:
        first = text.strip().partition("\n")[0]
        if _OPENINGS.match(first):
            yield Finding(path, line, "opening", first)
        if len(first) > FIRST_LINE_MAX:
            yield Finding(path, line, "long first line", f"{len(first)} characters: {first}")
        if not first.endswith((".", ":", "`", "?")):
            yield Finding(path, line, "unfinished first line", first)


def _check_prose(
    path: str, tree: ast.Module, text: str, docstrings: list[tuple[int, str]]
) -> Iterator[Finding]:
    """Return persons and `where` for `if`, in docstrings, comments and texts that are sentences."""
    prose = [*docstrings, *_comments(text)]
    known = {docstring for _, docstring in docstrings}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(value)) if value not in known and _PROSE.search(value):
                prose.append((node.lineno, value))
    for line, passage in prose:
        for offset, row in enumerate(passage.split("\n")):
            if person := _PERSONS.search(row):
                yield Finding(path, line + offset, "person", f"{person[0]!r} in: {row.strip()}")
            if where := _WHERE_FOR_IF.search(row):
                yield Finding(
                    path, line + offset, "where for if", f"{where[0]!r} in: {row.strip()}"
                )


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for token in _comment_tokens(text):
        yield token.start[0], token.string


def _comment_tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token


def _check_names(path: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if (
            isinstance(node, Function)
            and node.name.strip("_") in _NOT_VERBS
            and not _is_property(node)
        ):
            yield Finding(path, node.lineno, "name of a function", node.name)
        if isinstance(node, Function) and _PREDICATE.match(node.name) and node.returns is not None:
            answer = ast.unparse(node.returns)
            if not _TRUTH.match(answer):
                yield Finding(path, node.lineno, "predicate", f"{node.name} -> {answer}")


def _is_property(function: Function) -> bool:
    names = {
        node.id
        for d in function.decorator_list
        for node in ast.walk(d)
        if isinstance(node, ast.Name)
    }
    return any("property" in name for name in names)


def _check_expressions(path: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            inner = (
                child for part in (node.test, node.body, node.orelse) for child in ast.walk(part)
            )
            if any(isinstance(child, ast.IfExp) for child in inner):
                yield Finding(
                    path, node.lineno, "nested conditional expression", ast.unparse(node)[:80]
                )
        is_comprehension = isinstance(
            node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
        )
        if is_comprehension and any(isinstance(child, ast.NamedExpr) for child in ast.walk(node)):
            yield Finding(path, node.lineno, "walrus in a comprehension", ast.unparse(node)[:80])


def _check_shapes(path: str, tree: ast.Module, text: str) -> Iterator[Finding]:
    """Return what only the formatter has broken: it belongs on lines of its own."""
    for token in _comment_tokens(text):
        if token.line.lstrip()[0] in ")]}" and not _FOR_TOOLS.match(token.string):
            yield Finding(path, token.start[0], "comment behind a bracket", token.string)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Tuple()], value=ast.Tuple() as values):
                if values.end_lineno != node.lineno:
                    yield Finding(path, node.lineno, "broken tuple", ast.unparse(node)[:80])
