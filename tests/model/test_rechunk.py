"""Pieces of one size from pieces of any size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from opsjobs.model.rechunk import recut


async def each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def whole(pieces: Sequence[bytes], size: int) -> list[bytes]:
    return [cut async for cut in recut(each(pieces), size)]


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 17))
def test_the_bytes_are_the_same_and_only_the_last_piece_is_smaller(
    pieces: list[bytes], size: int
) -> None:
    found = asyncio.run(whole(pieces, size))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(cut) == size for cut in found[:-1])
    assert all(0 < len(cut) <= size and isinstance(cut, bytes) for cut in found)


async def test_what_has_the_size_is_not_copied() -> None:
    pieces = [b"one", b"two"]
    assert [id(cut) for cut in await whole(pieces, 3)] == [id(piece) for piece in pieces]
