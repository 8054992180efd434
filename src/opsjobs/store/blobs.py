"""Contents of any length in rows of 256 KiB, stored once for equal bytes.

They are written and read a bounded piece at a time: no transaction lasts longer than one piece
takes, and no process holds more than a few pieces in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from opsjobs.model.errors import Failure, Unavailable
from opsjobs.model.identity import Identity
from opsjobs.model.rechunk import recut
from opsjobs.store.transaction import Connection, Database

CHUNK_BYTES = 256 << 10
# Chunks of one statement: 2 MiB.
BATCH_CHUNKS = 8
# How long contents without a reference are kept: uploads and downloads in progress.
UNUSED_SECONDS = 3_600.0
# Contents that one part of the sweep examines.
SWEPT_AT_ONCE = 500
# Rows that one statement of the sweep deletes: 64 MiB.
SWEEP_CHUNKS = 256

_BEGIN = "insert into file_contents (written_by, written_by_kind) values (%s, %s) returning id"
_GROW = """
update file_contents set size = size + %s, touched_at = opsjobs_now()
where id = %s and size = %s and sha256 is null and not doomed"""
# Only to a content that has just grown. One statement per chunk: as one array they cost this
# process and PostgreSQL two more copies each.
_ADD = (
    "insert into file_chunks (content_id, n, data) select id, %s, %b from file_contents where "
    "id = %s and size = %s"
)
_LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 7))"
_SAME = "select id from file_contents where sha256 = %s for key share"
_SEAL = """
update file_contents set sha256 = %s, loose = false
where id = %s and size = %s and sha256 is null and not doomed returning id"""
_DROP = "update file_contents set touched_at = '-infinity' where id = %s and sha256 is null"
_READ = "select data from file_chunks where content_id = %s and n >= %s and n < %s order by n"

_LOOSE = """
select id from file_contents where loose and not doomed
  and touched_at < (select opsjobs_now()) - make_interval(secs => %s)
order by touched_at limit %s for update skip locked"""
_DOOM = """
update file_contents c set sha256 = null, doomed = true
where id = any(%s::bigint[])
  and not exists (select from files f where f.content_id = c.id)
  and not exists (select from artifacts a where a.content_id = c.id)"""
_HOLD = "update file_contents set loose = false where id = any(%s::bigint[]) and not doomed"
# The oldest doomed contents, with that many chunks in total at most, but at least one content.
_DOOMED = f"""
select id, chunks from (
  select id, chunks, sum(chunks) over (order by id) - chunks as before from (
    select id, (size + {CHUNK_BYTES - 1}) / {CHUNK_BYTES} as chunks from file_contents where doomed
      order by id limit %s) oldest
) counted where before + chunks <= %s or before = 0"""
_DELETE_SOME_CHUNKS = """
delete from file_chunks where ctid = any(array(select ctid from file_chunks where content_id = %s
  limit %s))"""
_DELETE_CHUNKS = "delete from file_chunks where content_id = any(%s::bigint[])"
_DELETE = """
delete from file_contents c
where id = any(%s::bigint[]) and doomed and not exists (select from file_chunks k
  where k.content_id = c.id)"""


class TooManyBytes(Failure):
    """The pieces exceed the maximum size of a content."""


class Forgotten(Failure):
    """The content was swept, because nothing was added to it for an hour."""


@dataclass(frozen=True, slots=True)
class Written:
    """Complete bytes without a reference: `seal` has to add one soon."""

    id: int
    size: int
    sha256: bytes


class Contents:
    """Writes and reads contents. Raises Unavailable if PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(
        self,
        pieces: AsyncIterable[bytes],
        *,
        limit_bytes: int,
        by: Identity | None = None,
    ) -> Written:
        """Write all pieces, of any size. Raises TooManyBytes, Forgotten, exceptions of `pieces`.

        `by`: the identity that uploads them.

        While one batch is written, the next one is received; beyond that the producer waits.
        """
        draft = _Draft(self._database, by)
        try:
            async for batch in _batches(pieces, limit_bytes):
                await draft.add(batch)
            return await draft.end()
        except BaseException:
            await draft.give_up()
            raise

    async def read(self, content_id: int, first: int, count: int = BATCH_CHUNKS) -> list[bytes]:
        """Return `count` chunks from the given one on; fewer at the end."""
        async with self._database.connection() as connection:
            # In binary: as text, each byte would be two characters to encode, send and decode.
            rows = await connection.execute(_READ, [content_id, first, first + count], binary=True)
            return [row["data"] for row in await rows.fetchall()]

    async def stream(self, content_id: int, size: int) -> AsyncIterator[bytes]:
        """Yield the content, a chunk at a time. Raises Forgotten if it ends too early.

        No connection is held between chunks.
        """
        at = 0
        while at < size:
            chunks = await self.read(content_id, at // CHUNK_BYTES)
            if not chunks:
                raise Forgotten(f"the content {content_id} was deleted while it was read")
            for chunk in chunks:
                yield chunk
            at += sum(map(len, chunks))

    async def sweep(self) -> int:
        """Remove a bounded part of the unreferenced contents; return how many, 0 at the end."""
        looked_at, gone = SWEPT_AT_ONCE, 0
        while looked_at == SWEPT_AT_ONCE and not gone:
            looked_at = await self._doom()
            gone = await self._remove()
        return gone

    async def _doom(self) -> int:
        async with self._database.transaction() as connection:
            found = await (
                await connection.execute(_LOOSE, [UNUSED_SECONDS, SWEPT_AT_ONCE])
            ).fetchall()
            # Once their rows are locked, no new reference can be added: references are looked up in
            # a separate statement.
            for decide in (_DOOM, _HOLD) if found else ():
                await connection.execute(decide, [[row["id"] for row in found]])
        return len(found)

    async def _remove(self) -> int:
        rows = await self._database.fetch(_DOOMED, [SWEPT_AT_ONCE, SWEEP_CHUNKS])
        ids = [row["id"] for row in rows]
        if not ids:
            return 0
        if rows[0]["chunks"] > SWEEP_CHUNKS:
            await self._remove_chunks(ids[0])
        async with self._database.connection() as connection:
            await connection.execute(_DELETE_CHUNKS, [ids])
            return (await connection.execute(_DELETE, [ids])).rowcount

    async def _remove_chunks(self, content_id: int) -> None:
        """Remove the chunks of a large content, a part at a time."""
        deleted = SWEEP_CHUNKS
        while deleted == SWEEP_CHUNKS:
            async with self._database.connection() as connection:
                deleted = (
                    await connection.execute(_DELETE_SOME_CHUNKS, [content_id, SWEEP_CHUNKS])
                ).rowcount


async def seal(connection: Connection, written: Written) -> int:
    """Complete the content in the caller's transaction; return the id to refer to.

    It is the id of these bytes, or of equal bytes that were stored before. Raises Forgotten.
    """
    await connection.execute(_LOCK, [written.sha256.hex()])
    same = await (await connection.execute(_SAME, [written.sha256])).fetchone()
    if same is not None:
        if same["id"] != written.id:
            await connection.execute(_DROP, [written.id])
        return int(same["id"])
    sealed = await (
        await connection.execute(_SEAL, [written.sha256, written.id, written.size])
    ).fetchone()
    if sealed is None:
        raise Forgotten("what was written is gone: write it again")
    return int(sealed["id"])


class _Draft:
    """A content that is being written; batches are written one at a time, in order."""

    def __init__(self, database: Database, by: Identity | None) -> None:
        self._database = database
        self._by = (by.name, by.kind) if by is not None else (None, None)
        self._hash = hashlib.sha256()
        self._id = 0
        self._size = 0
        self._chunks = 0
        self._writing: asyncio.Task[None] | None = None

    async def add(self, batch: Sequence[bytes]) -> None:
        """Start writing the batch, after the previous one is written."""
        await self._wait_for_write()
        self._writing = asyncio.create_task(self._write(batch))

    async def end(self) -> Written:
        """Wait until everything is written."""
        await self._wait_for_write()
        if not self._id:
            await self._begin()
        return Written(self._id, self._size, self._hash.digest())

    async def give_up(self) -> None:
        """Stop; the next sweep deletes the bytes written so far."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})
        if self._id:
            with suppress(Unavailable):  # otherwise the sweep finds it an hour later
                async with self._database.connection() as connection:
                    await connection.execute(_DROP, [self._id])

    async def _wait_for_write(self) -> None:
        if self._writing is not None:
            await self._writing
            self._writing = None

    async def _begin(self) -> None:
        row = await self._database.fetch_one(_BEGIN, self._by)
        assert row is not None
        self._id = row["id"]

    async def _write(self, batch: Sequence[bytes]) -> None:
        if not self._id:
            await self._begin()
        await asyncio.gather(asyncio.to_thread(self._digest, batch), self._store(batch))

    def _digest(self, batch: Sequence[bytes]) -> None:
        for chunk in batch:
            self._hash.update(chunk)

    async def _store(self, batch: Sequence[bytes]) -> None:
        size = sum(map(len, batch))
        async with self._database.pipelined() as connection:
            # Only the commit that seals the content matters, and that one is synchronous: it also
            # makes the earlier ones durable.
            await connection.execute("set local synchronous_commit = off")
            grown = await connection.execute(_GROW, [size, self._id, self._size])
            for n, chunk in enumerate(batch, self._chunks):
                await connection.execute(_ADD, [n, chunk, self._id, self._size + size])
        if not grown.rowcount:
            raise Forgotten("what was written so far was swept: write it again")
        self._size += size
        self._chunks += len(batch)


async def _batches(pieces: AsyncIterable[bytes], limit_bytes: int) -> AsyncIterator[list[bytes]]:
    """Yield the bytes as batches of chunks, all but the last one full. Raises TooManyBytes."""
    batch = list[bytes]()
    async for chunk in recut(_limited(pieces, limit_bytes), CHUNK_BYTES):
        batch.append(chunk)
        if len(batch) == BATCH_CHUNKS:
            yield batch
            batch = []
    if batch:
        yield batch


async def _limited(pieces: AsyncIterable[bytes], limit_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > limit_bytes:
            raise TooManyBytes
        yield piece
