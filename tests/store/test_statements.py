"""SQL files: psql variables become parameters and fragments; comments are not sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from architecture.tree import SOURCE
from opsjobs.model.execution import FINAL_RUN_STATUSES
from opsjobs.store.ledger.flush import SETTLE
from opsjobs.store.statements import load_statement


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "sql").mkdir()
    return str(tmp_path / "verb.py")


def write(module: str, text: str) -> None:
    (Path(module).parent / "sql" / "verb.sql").write_text(text)


def test_a_quoted_variable_is_a_parameter_and_arrays_of_bytes_are_binary(module: str) -> None:
    write(module, "select :'id'::bigint, :'data'::bytea[];\n")
    assert load_statement(module, "verb") == "select %(id)s::bigint, %(data)b::bytea[]"


def test_a_bare_variable_is_a_fragment_and_casts_are_none(module: str) -> None:
    write(module, "select a::text, to_char(now(), 'HH24:MI') from t where :chosen and b < :most")
    statement = load_statement(module, "verb", chosen="x = %(x)s", most=5)
    assert statement == "select a::text, to_char(now(), 'HH24:MI') from t where x = %(x)s and b < 5"


def test_a_percent_sign_is_escaped_and_a_comment_is_dropped(module: str) -> None:
    write(module, "-- 100 % of :'them'\nselect 7 % 3  -- what is :left\n  as n\n")
    assert load_statement(module, "verb") == "select 7 %% 3\n  as n"


@pytest.mark.parametrize("given", [{}, {"one": 1, "two": 2}])
def test_a_missing_or_an_unused_fragment_is_refused(module: str, given: dict[str, int]) -> None:
    write(module, "select :one")
    with pytest.raises(ValueError, match="fragments"):
        load_statement(module, "verb", **given)


def test_settle_counts_every_final_status() -> None:
    for status in FINAL_RUN_STATUSES:
        assert f"count(*) filter (where status = '{status.value}') as {status.value}" in SETTLE
        assert f" {status.value} = e.{status.value} + t.{status.value}" in SETTLE


def test_every_statement_file_is_loaded_by_a_module_beside_it() -> None:
    files = [path for path in sorted(SOURCE.rglob("sql/*.sql")) if "migrations" not in path.parts]
    assert len(files) > 10
    for path in files:
        texts = [module.read_text() for module in path.parent.parent.glob("*.py")]
        assert any(f'"{path.stem}"' in text and "load_statement" in text for text in texts), path
