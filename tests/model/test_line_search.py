"""Lines are found whole, however their bytes are split."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsjobs.model.line_search import (
    HELD_BYTES_MAX,
    LINE_BYTES_MAX,
    SHOWN_CHARACTERS,
    LineMatch,
    LineQuery,
    LineSearch,
    StreamOrigin,
)

WEB, DB = StreamOrigin(1, "step-1", 1, "stdout"), StreamOrigin(2, "step-1", 1, "stderr")


def found(query: LineQuery, *chunks: tuple[StreamOrigin, bytes | None]) -> list[LineMatch]:
    """Return the matches of a search in these chunks, which have the positions 1, 2, 3 …"""
    search = LineSearch(query)
    matches: list[LineMatch] = []
    for seq, (origin, data) in enumerate(chunks, 1):
        matches += search.feed(origin, seq, data)
    return matches + list(search.rest(len(chunks)))


def test_what_the_check_raises_ends_the_search_before_the_next_line() -> None:
    left = iter([None, None])

    def check() -> None:
        next(left)

    matches = LineSearch(LineQuery(pattern="hit"), check).feed(WEB, 1, b"hit 1\nhit 2\nhit 3\n")
    assert [next(matches).text, next(matches).text] == ["hit 1", "hit 2"]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(matches)


def test_a_line_is_found_across_chunks_of_other_streams() -> None:
    chunks = [
        (WEB, b"one\nno sp"),
        (DB, b"no space on db\n"),
        (WEB, b"ace left\ntwo"),
        (WEB, b"\n"),
    ]
    matches = found(LineQuery("no space"), *chunks)
    assert [(m.origin, m.seq, m.text) for m in matches] == [
        (DB, 2, "no space on db"),
        (WEB, 3, "no space left"),
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab\n", max_size=12), max_size=8),
    st.text("ab", min_size=1, max_size=3),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_any_split_finds_the_same_as_the_lines_themselves(
    texts: list[str], wanted: str, context: int, dice: random.Random
) -> None:
    per_stream = {StreamOrigin(n, None, None, "stdout"): t.encode() for n, t in enumerate(texts)}
    chunks: list[tuple[StreamOrigin, bytes | None]] = []
    left = dict(per_stream)
    while left:
        origin = dice.choice(list(left))
        size = dice.randint(1, 4)
        chunks.append((origin, left[origin][:size]))
        left[origin] = left[origin][size:]
        if not left[origin]:
            del left[origin]
    for query in (LineQuery(wanted, context=context), LineQuery(pattern=wanted, context=context)):
        got: dict[StreamOrigin, list[object]] = {}
        for match in found(query, *chunks):
            got.setdefault(match.origin, []).append((match.before, match.text, match.after))
        for origin, data in per_stream.items():
            lines = data.decode().removesuffix("\n").split("\n")
            assert got.get(origin, []) == [
                (
                    tuple(lines[max(0, at - context) : at]),
                    line,
                    tuple(lines[at + 1 : at + 1 + context]),
                )
                for at, line in enumerate(lines)
                if wanted in line
            ]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (LineQuery("Straße"), 1),
        (LineQuery("STRASSE", ignore_case=True), 1),
        (LineQuery("strasse"), 0),
        (LineQuery(pattern="stra.e", ignore_case=True), 0),
        (LineQuery(pattern="^S.+e 7$"), 1),
        (LineQuery(pattern="^s.+E 7$", ignore_case=True), 1),
    ],
)
def test_letters_are_compared_as_asked(query: LineQuery, count: int) -> None:
    assert len(found(query, (WEB, "Straße 7\r\n".encode()[:-2]))) == count


def test_a_line_without_end_is_searched_in_overlapping_pieces() -> None:
    data = b"x" * (LINE_BYTES_MAX - 2) + b"needle" + b"y" * LINE_BYTES_MAX
    matches = found(LineQuery("needle"), (WEB, data))
    assert len(matches) == 1
    assert "needle" in matches[0].text
    assert len(matches[0].text) <= SHOWN_CHARACTERS + 4


def test_bytes_that_were_not_kept_end_a_line() -> None:
    assert found(LineQuery("no space"), (WEB, b"no sp"), (WEB, None), (WEB, b"ace\n")) == []


def test_many_incomplete_lines_do_not_fill_the_memory() -> None:
    search = LineSearch(LineQuery("needle", context=10))
    piece = b"z" * (LINE_BYTES_MAX - 1)
    for number in range(3 * HELD_BYTES_MAX // len(piece)):
        assert list(search.feed(StreamOrigin(number, None, None, "stdout"), number, piece)) == []
        assert search.held_bytes <= HELD_BYTES_MAX + len(piece)


def test_a_pattern_that_is_not_supported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pattern|group|back"):
        LineSearch(LineQuery(pattern=r"(a)\1"))
