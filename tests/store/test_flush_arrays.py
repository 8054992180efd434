"""Array literals that PostgreSQL reads back unchanged."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from opsjobs.store.ledger.flush import flags, moments, numbers, texts

# A text of PostgreSQL can contain neither NUL nor half a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


def parsed(literal: str) -> list[str | None]:
    """Parse an array literal by PostgreSQL's documentation, independently of the writer."""
    items: list[str | None] = []
    at = 1
    while literal[at] != "}":
        if literal[at] == '"':
            text, at = "", at + 1
            while literal[at] != '"':
                at += literal[at] == "\\"
                text, at = text + literal[at], at + 1
            items.append(text)
            at += 1
        else:
            end = min(i for i in (literal.find(",", at), literal.find("}", at)) if i >= 0)
            word = literal[at:end]
            items.append(None if word == "NULL" else word)
            at = end
        at += literal[at] == ","
    return items


@settings(max_examples=300)
@given(st.lists(st.none() | TEXT))
def test_texts_come_back_whatever_is_in_them(values: list[str | None]) -> None:
    assert parsed(texts(values)) == values


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_numbers_come_back(values: list[int | None]) -> None:
    assert [None if word is None else int(word) for word in parsed(numbers(values))] == values


def test_flags_and_moments_are_spelt_as_postgresql_reads_them() -> None:
    assert flags([True, False]) == "{t,f}"
    assert moments([datetime(2026, 1, 2, tzinfo=UTC), None]) == '{"2026-01-02T00:00:00+00:00",NULL}'
