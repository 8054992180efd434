"""Strict JSON: valid bodies arrive unchanged, and only Invalid is ever raised."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opsjobs.api.body import parse_json
from opsjobs.model.errors import Invalid

TEXT = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
LEAF = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUE = some.recursive(
    LEAF,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUE)
def test_a_good_value_comes_through_unchanged(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(some.binary(max_size=200))
def test_any_bytes_are_json_or_invalid(body: bytes) -> None:
    try:
        parse_json(body)
    except Invalid as refused:
        assert refused.errors  # noqa: PT017  most bytes are refused, some are not


@pytest.mark.parametrize("depth", [33, 100, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":[', b"]}")])
def test_what_is_too_deep_is_invalid_however_deep(
    depth: int, brackets: tuple[bytes, bytes]
) -> None:
    with pytest.raises(Invalid, match="deep"):
        parse_json(brackets[0] * depth + b"1" + brackets[1] * depth)


def test_the_place_of_a_bad_character_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        parse_json(b'{"actions": [{"env": {"a/b": "x\\u0000"}}]}')
    assert refused.value.errors[0].pointer == "/actions/0/env/a~1b"
