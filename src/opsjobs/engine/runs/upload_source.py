"""The bytes of an upload: contents cached for all transfers of a worker, and tar archives.

Twenty machines that get the same file at the same time read it once from the database; one that
falls far behind reads separately. An archive to unpack is read as a folder: its files and
folders, and the offsets of their bytes. Members whose path would lead outside are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import tarfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.store.blobs import CHUNK_BYTES, Contents, Forgotten

KEPT_BYTES = 64 << 20
# Chunks per read: 1 MiB.
BLOCK_CHUNKS = 4
BLOCK_BYTES = BLOCK_CHUNKS * CHUNK_BYTES
# Blocks to read ahead while one is sent: otherwise PostgreSQL waits for the event loop, and the
# loop for PostgreSQL.
AHEAD_BLOCKS = 2

_Key = tuple[int, int]


class ChunkCache:
    """Keeps the most recently used blocks of contents, up to a limit."""

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
        # Shielded: a transfer that is stopped must not cancel the read of a block that others wait
        # for.
        return await asyncio.shield(self._fetch(key))

    def prefetch(self, content_id: int, number: int) -> None:
        """Start to read a block that will be needed soon."""
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
    """A range of a content as the source of an upload: `size` bytes from `start` on."""

    chunks: ChunkCache
    content_id: int
    start: int
    size: int
    sha256: bytes
    """The SHA-256 of the range; empty if it is not known."""

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes of the range from `offset` on. Raises Unavailable, Forgotten."""
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
        """Return `size` bytes at `offset`; fewer at the end of the range."""
        part = ContentSlice(
            self.chunks,
            self.content_id,
            self.start + offset,
            max(0, min(size, self.size - offset)),
            b"",
        )
        return b"".join([piece async for piece in part.pieces(0)])


MEMBERS_MAX = 10_000
DEPTH_MAX = 32
NAME_BYTES_MAX = 4_096
# Limit of an extension header, which carries names and sizes too long for the plain header.
_EXTENSION_BYTES_MAX = 64 << 10
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of the archive, with its relative path."""

    path: str
    mode: int
    source: ContentSlice | None
    """None for a folder."""


async def list_members(archive: ContentSlice) -> list[Member]:
    """Return all members, folders before their contents.

    Raises RemoteFailure(TRANSFER) for a tar that is not supported.
    """
    found: dict[str, Member] = {}
    async for member in _read(archive):
        for folder in _folders_above(member.path):
            if found.setdefault(folder, Member(folder, 0o755, None)).source is not None:
                raise _unsupported(f"has {folder} as a file and as a folder")
        if (before := found.get(member.path)) is not None and (before.source is None) is not (
            member.source is None
        ):
            raise _unsupported(f"has {member.path} as a file and as a folder")
        found[member.path] = member  # as in tar, the last one wins
        if len(found) > MEMBERS_MAX:
            raise _unsupported(f"has more than {MEMBERS_MAX} files and folders: split it")
    return sorted(found.values(), key=lambda member: member.path.split("/"))


async def _read(archive: ContentSlice) -> AsyncIterator[Member]:
    at, more = 0, dict[str, str]()
    while at + _BLOCK <= archive.size:
        header = await archive.read(at, _BLOCK)
        if not header.strip(b"\0"):
            return
        info = _parse_header(header)
        at += _BLOCK
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            extension = await _read_extension(archive, at, info)
            if info.type != tarfile.XGLTYPE:
                more |= (
                    {"path": _decode(extension.rstrip(b"\0"))}
                    if info.type == tarfile.GNUTYPE_LONGNAME
                    else _parse_pax_records(extension)
                )
            at += _whole_blocks(info.size)
            continue
        if info.size < 0 or "GNU.sparse" in more:
            raise _unsupported("has a file with holes in it: pack it whole (tar without --sparse)")
        size = _parse_number(more.get("size"), info.size)
        member = await _to_member(archive, more.get("path", info.name), info, at, size)
        more = {}
        at += _whole_blocks(size) if info.isreg() else 0
        if member is not None:
            yield member
    if at > archive.size:
        raise _unsupported("is truncated: upload it again")


def _parse_header(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as wrong:
        raise _unsupported(
            f"is not a tar archive ({wrong}): unpack accepts only uncompressed ones"
        ) from None


async def _read_extension(archive: ContentSlice, at: int, info: tarfile.TarInfo) -> bytes:
    if info.size > _EXTENSION_BYTES_MAX:
        raise _unsupported("has a name that is too long")
    return await archive.read(at, info.size)


async def _to_member(
    archive: ContentSlice, name: str, info: tarfile.TarInfo, at: int, size: int
) -> Member | None:
    path = _safe_path(name)
    if not (info.isdir() or (info.isreg() and info.type != tarfile.GNUTYPE_SPARSE)):
        raise _unsupported(
            f"has {name[:200]!r}, which is neither a file nor a folder: pack links as files (tar "
            "--dereference)"
        )
    if at + (size if info.isreg() else 0) > archive.size:
        raise _unsupported("is truncated: upload it again")
    if info.isdir():
        return Member(path, info.mode & 0o7777, None) if path else None
    if not path:
        raise _unsupported(f"has a file without a name ({name[:200]!r})")
    return Member(path, info.mode & 0o777, await _hash_content(archive, at, size))


async def _hash_content(archive: ContentSlice, at: int, size: int) -> ContentSlice:
    part = ContentSlice(archive.chunks, archive.content_id, archive.start + at, size, b"")
    found = hashlib.sha256()
    async for piece in part.pieces(0):
        found.update(piece)
    return ContentSlice(part.chunks, part.content_id, part.start, size, found.digest())


def _safe_path(name: str) -> str:
    """Return the path relative to the destination; "" is the destination itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    size = len(name.encode("utf-8", "surrogateescape"))
    if (
        name.startswith("/")
        or ".." in parts
        or "\0" in name
        or size > NAME_BYTES_MAX
        or len(parts) > DEPTH_MAX
    ):
        raise _unsupported(f"has a name that leads outside, or is too long: {name[:200]!r}")
    return "/".join(parts)


def _folders_above(path: str) -> list[str]:
    found = []
    while path := posixpath.dirname(path):
        found.append(path)
    return found[::-1]


def _parse_pax_records(extension: bytes) -> dict[str, str]:
    """Return the relevant records `LENGTH KEY=VALUE` of a POSIX (pax) header."""
    found, at = dict[str, str](), 0
    while at < len(extension) and extension[at : at + 1].isdigit():
        length, _, _ = extension[at : at + 20].partition(b" ")
        size = _parse_number(_decode(length), 0)
        key, equals, value = (
            extension[at + len(length) + 1 : at + size].rstrip(b"\n").partition(b"=")
        )
        if size <= len(length) + 1 or not equals or at + size > len(extension):
            raise _unsupported("has a header that cannot be read")
        if key in (b"path", b"size"):
            found[key.decode()] = _decode(value)
        elif key.startswith(b"GNU.sparse."):
            found["GNU.sparse"] = ""
        at += size
    return found


def _parse_number(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise _unsupported("has a header that cannot be read")
    return int(text)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _unsupported(what: str) -> RemoteFailure:
    return RemoteFailure(ErrorCode.TRANSFER, f"the file to unpack {what}")
