"""A stream of bytes in chunks of one size."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


async def recut(pieces: AsyncIterable[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in chunks of `size_bytes`; only the last may be shorter.

    An empty stream has no chunks. A piece of that size is not copied, everything else once."""
    held, room = list[bytes | memoryview](), size_bytes
    async for piece in pieces:
        at = 0
        while len(piece) - at >= room:
            cut = (
                piece[at : at + room]
                if not held
                else b"".join((*held, memoryview(piece)[at : at + room]))
            )
            at += room
            held, room = [], size_bytes
            yield cut
        if at < len(piece):
            held.append(memoryview(piece)[at:] if at else piece)
            room -= len(piece) - at
    if held:
        yield b"".join(held)
