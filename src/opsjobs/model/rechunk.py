"""A stream of bytes in other pieces: of one size, whatever sizes they come in."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


async def recut(pieces: AsyncIterable[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    """The same bytes, so many at a time; fewer at the end only, and none of nothing.

    What is one piece already is not copied, and everything else once.
    """
    held, room = list[bytes | memoryview](), size_bytes
    async for piece in pieces:
        at = 0
        while len(piece) - at >= room:
            cut = piece[at : at + room] if not held else b"".join((*held, memoryview(piece)[at : at + room]))
            at += room
            held, room = [], size_bytes
            yield cut
        if at < len(piece):
            held.append(memoryview(piece)[at:] if at else piece)
            room -= len(piece) - at
    if held:
        yield b"".join(held)
