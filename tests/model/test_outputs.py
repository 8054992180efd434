"""Values that an action hands on, read from its standard output."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsjobs.model.outputs import OUTPUTS_BYTES_MAX, Outputs


def read(
    wanted: Literal["none", "json_lines", "last_line"], *pieces: bytes
) -> dict[str, Any] | None:
    outputs = Outputs(wanted)
    for piece in pieces:
        outputs.add(piece)
    return outputs.finish()


def test_nothing_is_read_where_nothing_was_asked_for() -> None:
    assert read("none", b'{"a": 1}\n') is None


def test_lines_that_are_objects_are_merged_in_order() -> None:
    said = b'starting\n{"a": 1, "b": [1, {"c": null}]}\n[1]\n{"a": 2}\n{broken\n  {"d": "\xc3\xa9"}\r\n{"last": true}'
    assert read("json_lines", said) == {"a": 2, "b": [1, {"c": None}], "d": "é", "last": True}


@pytest.mark.parametrize(
    ("said", "last"),
    [
        (b"", ""),
        (b"one\ntwo\n", "two"),
        (b"one\ntwo", "two"),
        (b"one\r\n\n  \n", "one"),
        (b"\xff\n", "\ufffd"),
        (b"a\0b\n", "a\ufffdb"),
    ],
)
def test_the_last_line_that_is_not_empty(said: bytes, last: str) -> None:
    assert read("last_line", said) == {"last": last}


@given(st.binary(max_size=200), st.integers(1, 7))
def test_pieces_make_no_difference(said: bytes, size: int) -> None:
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    for wanted in ("json_lines", "last_line"):
        assert read(wanted, *pieces) == read(wanted, said)


def test_what_a_database_does_not_take_is_left_out_of_the_values() -> None:
    said = (
        b'{"a": "x\\u0000y", "b": "\\ud800", "c": 1e999, "d": NaN}\n{"e": 1e999}\n'
        + b"[" * 50
        + b"\n"
    )
    assert read("json_lines", said) == {"e": None}
    assert read("json_lines", b'{"a": "x\\u0000y", "b": "\\ud800"}\n') == {
        "a": "x\ufffdy",
        "b": "?",
    }
    assert read("json_lines", b'{"deep": ' + b"[" * 500 + b"]" * 500 + b"}\n") is not None
    assert read("json_lines", b'{"deep": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n") is not None


def test_a_line_that_is_too_long_and_values_that_are_too_many_are_left_out() -> None:
    long = b'{"a": "' + b"x" * OUTPUTS_BYTES_MAX + b'"}\n'
    assert read("json_lines", long, b'{"b": 1}\n') == {"b": 1}
    many = b"".join(b'{"n%d": "%s"}\n' % (n, b"x" * 1_000) for n in range(200))
    kept = read("json_lines", many)
    assert kept is not None
    assert "n0" in kept
    assert 50 < len(kept) < 66
    assert len(json.dumps(kept)) <= OUTPUTS_BYTES_MAX * 1.1
