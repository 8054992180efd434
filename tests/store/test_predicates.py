"""No volatile functions in predicates: PostgreSQL would call them for each row.

It uses no index for such a bound.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set

import pytest

from architecture.tree import ROOT, SOURCE, modules
from opsjobs.store.transaction import Database

MIGRATIONS = SOURCE / "store" / "migrations"
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|[a-z_][a-z_0-9.]*|[();]|\S",
    re.IGNORECASE | re.DOTALL,
)
_STATEMENTS = {
    "select",
    "with",
    "insert",
    "update",
    "delete",
    "merge",
    "values",
    "table",
    "create",
    "alter",
    "do",
    "declare",
    "begin",
}
_PREDICATES = {"where", "having", "on"}
_OTHERS = {
    "select", "from", "join", "set", "values", "returning", "group", "order", "limit", "window", "union", "except", "intersect",
    "perform", "return", "if", "raise", "execute",
}  # fmt: skip


def bare_calls(sql: str, volatile: Set[str]) -> list[str]:
    """Return calls of volatile functions in a predicate, outside of subqueries that run once.

    A text that does not begin like a statement is treated as part of a predicate.
    """
    tokens = [t.lower() for t in _TOKEN.findall(sql) if not t.startswith(("--", "/*", "'"))]
    first = tokens[0] if tokens else ""
    frames = [
        (first in _STATEMENTS, first not in _STATEMENTS)
    ]  # for each open parenthesis: whether it is a query, and whether this is a predicate
    found = []
    for n, token in enumerate(tokens):
        before, after = tokens[n - 1] if n else "", tokens[n + 1] if n + 1 < len(tokens) else ""
        query, predicate = frames[-1]
        if token == "(":
            frames.append((after in _STATEMENTS, predicate and after not in _STATEMENTS))
        elif token == ")" and len(frames) > 1:
            frames.pop()
        elif token == ";":
            frames = [(True, False)]
        elif token == "where" or (query and token in _PREDICATES and after != "conflict"):
            frames[-1] = (query, True)
        elif query and token in _OTHERS and before != "distinct":
            frames[-1] = (query, False)
        elif predicate and after == "(" and token.rpartition(".")[2] in volatile:
            found.append(token)
    return found


@pytest.mark.parametrize(
    "sql",
    [
        "select 1 from t where at < opsjobs_now()",
        "delete from t where id in (select id from t where at < opsjobs_now() - interval '1 day' limit 5)",
        "select 1 from t join u on u.at > opsjobs_now() and u.id = t.id",
        "e.finished_at is null and e.deadline_at <= opsjobs_now()",
        "select count(*) filter (where at < opsjobs_now()) from t",
        "with a as (select 1) select 1 from t where exists (select from u where u.at < opsjobs_now())",
        "update t set x = 1 where extract(epoch from opsjobs_now() - at) > 5",
        "select 1 from t where a is distinct from b and at < opsjobs_now()",
        "begin perform f(); delete from t where at < opsjobs_now(); end",
    ],
)
def test_a_volatile_call_in_a_predicate_is_found(sql: str) -> None:
    assert bare_calls(sql, {"opsjobs_now"}) == ["opsjobs_now"]


@pytest.mark.parametrize(
    "sql",
    [
        "select opsjobs_now() as now from t where id = 1",
        "select 1 from t where at < (select opsjobs_now()) - interval '1 day'",
        "update t set at = opsjobs_now() where id = 1 returning opsjobs_now()",
        "insert into t (at) values (opsjobs_now()) on conflict (id) do update set at = opsjobs_now()",
        "select 1 from t cross join (select opsjobs_now() as now) n where t.at < n.now",
        "select 1 from t where note <> 'opsjobs_now()' -- opsjobs_now()",
    ],
)
def test_a_volatile_call_that_is_made_once_is_allowed(sql: str) -> None:
    assert bare_calls(sql, {"opsjobs_now"}) == []


async def test_no_statement_has_a_volatile_function_in_a_predicate(database: Database) -> None:
    functions = await database.fetch("select distinct proname from pg_proc where provolatile = 'v'")
    volatile = {row["proname"] for row in functions}
    assert {"opsjobs_now", "clock_timestamp", "random"} <= volatile
    texts = [*_literals(volatile), *_files()]
    assert len(texts) > 50
    texts += [(row["name"], row["text"]) for row in await database.fetch(_STORED)]
    assert {name: calls for name, text in texts if (calls := bare_calls(text, volatile))} == {}


# The functions and triggers of the database, after the last migration.
_STORED = """
select proname::text as name, prosrc as text from pg_proc
where pronamespace = 'public'::regnamespace and prolang in (select oid from pg_language where lanname in ('sql', 'plpgsql'))
union all select viewname::text, definition from pg_views where schemaname = 'public'
union all select tgname::text, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal"""


def _literals(volatile: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield every text of the source that calls a volatile function, without docstrings."""
    called = re.compile(rf"\b(?:{'|'.join(map(re.escape, volatile))})\s*\(")
    for name, tree in modules().items():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(tree):
            if id(node) in docstrings or id(node) in inner:
                continue
            text = _text(node)
            if text is not None and called.search(text):
                yield f"{name}:{node.lineno}", text


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else " x " for part in node.values
        )
    return None


def _files() -> Iterator[tuple[str, str]]:
    """Yield every SQL file except migrations: their result is read from the database."""
    for path in sorted(SOURCE.rglob("*.sql")):
        if MIGRATIONS not in path.parents:
            yield str(path.relative_to(ROOT)), path.read_text()
