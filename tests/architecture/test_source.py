"""Sizes, words and docstrings of the source."""

from __future__ import annotations

import ast
import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from architecture.tree import ROOT, SOURCE, committed, functions, lines, modules

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 100
SENTENCE_CHARACTERS_MAX = 130
_VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "data", "info"}
_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
_INDEXES = (
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "proxy.golang.org",
    "crates.io/api",
)
_LET_PASS = re.compile(r"# (noqa|type: ignore)")
_LET_PASS_WHY = re.compile(r"# (noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\]) +(# )?\w+ ?\w*")
_MOCKS = ("unittest.mock", "pytest_mock")


def test_a_module_opens_with_a_sentence() -> None:
    opening = {
        name: (ast.get_docstring(tree) or "").partition("\n")[0]
        for name, tree in modules().items()
        if tree.body
    }
    bad = {
        name: said
        for name, said in opening.items()
        if not said.endswith(".") or len(said) > SENTENCE_CHARACTERS_MAX
    }
    assert bad == {}


def test_files_stay_small() -> None:
    large = {
        str(p.relative_to(ROOT)): n
        for p in SOURCE.rglob("*.py")
        if (n := p.read_text().count("\n")) > FILE_LINES_MAX
    }
    assert large == {}


def test_functions_stay_small() -> None:
    large = {
        f"{name}:{f.lineno} {f.name}": n
        for name, tree in modules().items()
        for f in functions(tree)
        if (n := lines(f)) > FUNCTION_LINES_MAX
    }
    assert large == {}


def test_names_of_modules_say_what_they_hold() -> None:
    assert [name for name in modules() if Path(name).stem in _VAGUE] == []


def test_what_a_target_can_do_is_asked_of_its_capabilities() -> None:
    compared = {
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for part in [node.left, *node.comparators]
        if isinstance(part, ast.Attribute) and part.attr == "platform"
        if not (isinstance(part.value, ast.Name) and part.value.id == "sys")
    }
    assert compared == set()


def test_sqlalchemy_is_for_migrations_alone() -> None:
    users = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for imported in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
        if imported.partition(".")[0] in ("sqlalchemy", "alembic")
    }
    assert users
    assert all(name.startswith("src/opsjobs/store/migrations/") for name in users)


def test_a_transaction_takes_no_second_connection() -> None:
    """As many callers as the pool has connections would wait for each other."""
    taken = [
        f"{name}:{awaited.lineno} {ast.unparse(awaited)}"
        for name, tree in modules().items()
        for block in ast.walk(tree)
        if isinstance(block, ast.AsyncWith)
        for item in block.items
        if "transaction(" in ast.unparse(item.context_expr) and item.optional_vars is not None
        for awaited in ast.walk(ast.Module(block.body, []))
        if isinstance(awaited, ast.Await)
        if ast.unparse(awaited.value).startswith("self.")
        if ast.unparse(item.optional_vars) not in ast.unparse(awaited)
    ]
    assert taken == []


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}" for p in _others() for m in _UNFINISHED.finditer(_text(p))
    ]
    assert found == []


def test_no_package_index_stands_in_a_file() -> None:
    hosts = {*_INDEXES, *_configured_indexes()}
    assert [f"{p.relative_to(ROOT)}: {h}" for p in _others() for h in hosts if h in _text(p)] == []


def test_whatever_is_let_pass_has_its_reason_beside_it() -> None:
    found = [
        (name, line)
        for name, text in _sources()
        for line in text.splitlines()
        if _LET_PASS.search(line)
    ]
    bare = [f"{name}: {line.strip()}" for name, line in found if not _LET_PASS_WHY.search(line)]
    assert bare == []


def _sources() -> Iterator[tuple[str, str]]:
    for path in SOURCE.rglob("*.py"):
        yield str(path.relative_to(ROOT)), path.read_text()


def test_there_is_no_mock_library() -> None:
    assert [
        f"{p.relative_to(ROOT)}: {m}"
        for p in _others()
        if p.suffix == ".py"
        for m in _MOCKS
        if m in _text(p)
    ] == []


def _configured_indexes() -> set[str]:
    """Return the hosts in this machine's own settings:

    the most likely ones to commit by mistake.
    """
    told = [
        os.environ.get(name, "")
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
    ]
    for path in ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf"):
        found = configparser.ConfigParser(interpolation=None)
        found.read(Path(path).expanduser())
        told += [s.get(key, "") for s in found.values() for key in ("index-url", "extra-index-url")]
    return {host for text in told for url in text.split() if (host := urlsplit(url).hostname)}


def _others() -> list[Path]:
    """Return every text except this one, which has to name the words that it searches."""
    return [
        path for path in committed() if path != Path(__file__).resolve() and path.suffix != ".webp"
    ]


def _text(path: Path) -> str:
    return path.read_text(errors="replace")
