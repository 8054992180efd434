"""Cache of file contents for all transfers of a worker.

Twenty machines that get the same file at the same time read it once from the database; one that
falls far behind reads for itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opsjobs.store.blobs import CHUNK_BYTES, Contents, Forgotten

KEPT_BYTES = 64 << 20
# Chunks per read: 1 MiB.
BLOCK_CHUNKS = 4
BLOCK_BYTES = BLOCK_CHUNKS * CHUNK_BYTES
# Blocks to read ahead while one is sent: without, PostgreSQL waits for the event loop, and the loop
# for PostgreSQL.
AHEAD_BLOCKS = 2

_Key = tuple[int, int]


class ChunkCache:
    """Keeps the blocks of contents that were used last, up to a limit."""

    def __init__(self, contents: Contents, kept_bytes: int = KEPT_BYTES) -> None:
        self._contents = contents
        self._free_bytes = kept_bytes
        self._blocks: OrderedDict[_Key, list[bytes]] = OrderedDict()
        self._reading: dict[_Key, asyncio.Task[list[bytes]]] = {}
        self.reads = 0
        """The number of blocks read from the database."""

    async def block(self, content_id: int, number: int) -> list[bytes]:
        """Return the chunks of one block. Raises Unavailable."""
        key = (content_id, number)
        if (kept := self._blocks.get(key)) is not None:
            self._blocks.move_to_end(key)
            return kept
        # Shielded: a transfer that is stopped must not take the block away from others that wait
        # for it.
        return await asyncio.shield(self._fetch(key))

    def prefetch(self, content_id: int, number: int) -> None:
        """Start to read a block that will soon be needed."""
        if (content_id, number) not in self._blocks:
            self._fetch((content_id, number))

    def _fetch(self, key: _Key) -> asyncio.Task[list[bytes]]:
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(key))
            reading.add_done_callback(lambda task: self._on_read(key, task))
        return reading

    async def _read(self, key: _Key) -> list[bytes]:
        self.reads += 1
        content_id, number = key
        return await self._contents.read(content_id, number * BLOCK_CHUNKS, BLOCK_CHUNKS)

    def _on_read(self, key: _Key, task: asyncio.Task[list[bytes]]) -> None:
        del self._reading[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._blocks[key] = task.result()
        self._free_bytes -= _size(task.result())
        while self._free_bytes < 0 and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._free_bytes += _size(oldest)


def _size(block: list[bytes]) -> int:
    return sum(map(len, block))


@dataclass(frozen=True, slots=True)
class ContentSlice:
    """A part of a content as the source of an upload: `size` bytes from `start` on."""

    chunks: ChunkCache
    content_id: int
    start: int
    size: int
    sha256: bytes
    """The SHA-256 of the part; empty if it is not known."""

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of the part from `offset` on. Raises Unavailable, Forgotten."""
        at, end = self.start + offset, self.start + self.size
        while at < end:
            number, skip = divmod(at, BLOCK_BYTES)
            block = await self.chunks.block(self.content_id, number)
            for ahead in range(
                number + 1, min(number + AHEAD_BLOCKS, (end - 1) // BLOCK_BYTES) + 1
            ):
                self.chunks.prefetch(self.content_id, ahead)
            for chunk in block:
                piece = chunk[skip : skip + end - at] if skip or end - at < len(chunk) else chunk
                skip = max(0, skip - len(chunk))
                at += len(piece)
                if piece:
                    yield piece
            if skip or not block or (at < end and at % BLOCK_BYTES):
                raise Forgotten("the file was deleted while it was brought to a machine")

    async def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`; fewer at the end of the part."""
        part = ContentSlice(
            self.chunks,
            self.content_id,
            self.start + offset,
            max(0, min(size, self.size - offset)),
            b"",
        )
        return b"".join([piece async for piece in part.pieces(0)])
