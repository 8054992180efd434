"""Durations and sizes: a written value parses to the same number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import TypeAdapter, ValidationError

from opsjobs.model.api_model import Duration, Size
from opsjobs.model.units import (
    describe_size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@given(some.floats(min_value=0, max_value=366 * 86_400, exclude_min=True))
def test_every_duration_is_written_so_that_it_reads_back_exactly(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(some.integers(min_value=0, max_value=1 << 40))
def test_every_size_is_written_so_that_it_reads_back_exactly(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (90.0, "90s"),
        (3600.0, "1h"),
        (0.25, "0.25s"),
        (4641561.07, "4641561.07s"),
        (86_400, "1d"),
        (100, "100s"),
    ],
)
def test_durations_are_written_shortly(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [(1, "1 byte"), (1_500, "1500 bytes"), (64 << 10, "64KiB"), (0, "0 bytes")],
)
def test_a_size_in_a_sentence_has_a_unit(size_bytes: int, words: str) -> None:
    assert describe_size(size_bytes) == words


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Duration, "400d", "it must be at most 366d"),
        (Duration, "0s", "it must be more than 0s"),
        (Size, "2000GiB", "it must be at most 1024GiB"),
        (Size, "9" * 5_000, "is not a size"),
    ],
)
def test_a_limit_is_named_with_its_unit(kind: Any, value: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(kind).validate_python(value)
