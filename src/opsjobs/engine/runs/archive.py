"""Read an uploaded tar as a folder: its files and folders, and where their bytes are.

Members whose path would lead outside are refused.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass

from opsjobs.engine.runs.chunk_cache import ContentSlice
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

MEMBERS_MAX = 10_000
DEPTH_MAX = 32
NAME_BYTES_MAX = 4_096
# Limit of an extension header, which carries names and sizes too long for the plain header.
_EXTENSION_BYTES_MAX = 64 << 10
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of the archive, under its relative path."""

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
                raise _refused(f"has {folder} as a file and as a folder")
        if (before := found.get(member.path)) is not None and (before.source is None) is not (
            member.source is None
        ):
            raise _refused(f"has {member.path} as a file and as a folder")
        found[member.path] = member  # as tar does: the last one counts
        if len(found) > MEMBERS_MAX:
            raise _refused(f"has more than {MEMBERS_MAX} files and folders: split it")
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
            raise _refused("has a file with holes in it: pack it whole (tar without --sparse)")
        size = _parse_number(more.get("size"), info.size)
        member = await _to_member(archive, more.get("path", info.name), info, at, size)
        more = {}
        at += _whole_blocks(size) if info.isreg() else 0
        if member is not None:
            yield member
    if at > archive.size:
        raise _refused("is truncated: upload it again")


def _parse_header(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as wrong:
        raise _refused(f"is no tar ({wrong}): unpack accepts only uncompressed ones") from None


async def _read_extension(archive: ContentSlice, at: int, info: tarfile.TarInfo) -> bytes:
    if info.size > _EXTENSION_BYTES_MAX:
        raise _refused("has a name that is too long")
    return await archive.read(at, info.size)


async def _to_member(
    archive: ContentSlice, name: str, info: tarfile.TarInfo, at: int, size: int
) -> Member | None:
    path = _safe_path(name)
    if not (info.isdir() or (info.isreg() and info.type != tarfile.GNUTYPE_SPARSE)):
        raise _refused(
            f"has {name[:200]!r}, which is neither a file nor a folder: pack links as files (tar --dereference)"
        )
    if at + (size if info.isreg() else 0) > archive.size:
        raise _refused("is truncated: upload it again")
    if info.isdir():
        return Member(path, info.mode & 0o7777, None) if path else None
    if not path:
        raise _refused(f"has a file without a name ({name[:200]!r})")
    return Member(path, info.mode & 0o777, await _hash_content(archive, at, size))


async def _hash_content(archive: ContentSlice, at: int, size: int) -> ContentSlice:
    part = ContentSlice(archive.chunks, archive.content_id, archive.start + at, size, b"")
    found = hashlib.sha256()
    async for piece in part.pieces(0):
        found.update(piece)
    return ContentSlice(part.chunks, part.content_id, part.start, size, found.digest())


def _safe_path(name: str) -> str:
    """Return the path below the destination; "" is the destination itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    size = len(name.encode("utf-8", "surrogateescape"))
    if (
        name.startswith("/")
        or ".." in parts
        or "\0" in name
        or size > NAME_BYTES_MAX
        or len(parts) > DEPTH_MAX
    ):
        raise _refused(f"has a name that leads outside, or is too long: {name[:200]!r}")
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
            raise _refused("has a header that cannot be read")
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
        raise _refused("has a header that cannot be read")
    return int(text)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _refused(what: str) -> RemoteFailure:
    return RemoteFailure(ErrorCode.TRANSFER, f"the file to unpack {what}")
