"""The bytes of files for all transfers of a worker: read once from the database, and kept a little while for the others.

Twenty machines that are given the same file at the same time read it once; one that falls far behind reads for itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opsjobs.store.blobs import CHUNK_BYTES, Contents, Forgotten

KEPT_BYTES = 64 << 20
# Chunks of one read: 1 MiB.
BLOCK_CHUNKS = 4
BLOCK_BYTES = BLOCK_CHUNKS * CHUNK_BYTES
# Blocks that are read while the one before them is sent: with one, what PostgreSQL sends waits for the loop, and the loop for it.
AHEAD_BLOCKS = 2

_Key = tuple[int, int]


class Chunks:
    """Blocks of contents, the last used of them kept up to a limit. `reads` counts how many came from the database."""

    def __init__(self, contents: Contents, kept_bytes: int = KEPT_BYTES) -> None:
        self._contents = contents
        self._room = kept_bytes
        self._kept: OrderedDict[_Key, list[bytes]] = OrderedDict()
        self._coming: dict[_Key, asyncio.Task[list[bytes]]] = {}
        self.reads = 0

    async def block(self, content_id: int, number: int) -> list[bytes]:
        """The chunks of one block. Raises Unavailable."""
        key = (content_id, number)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        # Shielded: who is stopped must not take the block away from the others that wait for it.
        return await asyncio.shield(self._fetch(key))

    def foresee(self, content_id: int, number: int) -> None:
        """Begin to read a block that will soon be asked for."""
        if (content_id, number) not in self._kept:
            self._fetch((content_id, number))

    def _fetch(self, key: _Key) -> asyncio.Task[list[bytes]]:
        coming = self._coming.get(key)
        if coming is None:
            coming = self._coming[key] = asyncio.create_task(self._read(key))
            coming.add_done_callback(lambda task: self._came(key, task))
        return coming

    async def _read(self, key: _Key) -> list[bytes]:
        self.reads += 1
        content_id, number = key
        return await self._contents.read(content_id, number * BLOCK_CHUNKS, BLOCK_CHUNKS)

    def _came(self, key: _Key, task: asyncio.Task[list[bytes]]) -> None:
        del self._coming[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._kept[key] = task.result()
        self._room -= _size(task.result())
        while self._room < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._room += _size(oldest)


def _size(block: list[bytes]) -> int:
    return sum(map(len, block))


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a content as the source of an upload: `size` bytes from `start` on, with their SHA-256."""

    chunks: Chunks
    content_id: int
    start: int
    size: int
    sha256: bytes

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        """The bytes from `offset` of the part on. Raises Unavailable, Forgotten."""
        at, end = self.start + offset, self.start + self.size
        while at < end:
            number, skip = divmod(at, BLOCK_BYTES)
            block = await self.chunks.block(self.content_id, number)
            for ahead in range(number + 1, min(number + AHEAD_BLOCKS, (end - 1) // BLOCK_BYTES) + 1):
                self.chunks.foresee(self.content_id, ahead)
            for chunk in block:
                piece = chunk[skip : skip + end - at] if skip or end - at < len(chunk) else chunk
                skip = max(0, skip - len(chunk))
                at += len(piece)
                if piece:
                    yield piece
            if skip or not block or (at < end and at % BLOCK_BYTES):
                raise Forgotten("the file was deleted while it was brought to a machine")

    async def read(self, offset: int, size: int) -> bytes:
        """A few bytes of it; fewer at its end."""
        part = Slice(self.chunks, self.content_id, self.start + offset, max(0, min(size, self.size - offset)), b"")
        return b"".join([piece async for piece in part.pieces(0)])
