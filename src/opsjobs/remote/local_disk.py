"""Files on the worker's machine: system calls in threads, so a slow disk blocks no task."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import hashlib
import os
import pwd
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Literal, TypeVar

from opsjobs.remote.disk import (
    DRAFT_MODE,
    DiskEntry,
    OpenFile,
    parse_account_number,
    transfer_error,
)

T = TypeVar("T")
REQUEST_BYTES = 512 << 10
LISTED_AT_ONCE = 1_000
_NAME = "this machine"
_KINDS: dict[int, Literal["file", "folder", "link", "other"]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
}


class LocalDisk:
    """The Disk of this machine; relative paths start at `home`."""

    posix = True

    def __init__(self, home: str) -> None:
        self.name = _NAME
        self.request_bytes = REQUEST_BYTES
        self._home = home

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """Return the entry at the path, or None."""
        try:
            found = await asyncio.to_thread(os.stat, self._at(path), follow_symlinks=follow)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise transfer_error(_NAME, f"cannot look up {path}", error.strerror) from None
        return _entry(path, found)

    async def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """Iterate over a folder."""
        what = f"cannot read the folder {path}"
        with await _call(what, os.scandir, self._at(path)) as found:
            while entries := await _call(what, _next, found):
                for entry in entries:
                    yield entry

    async def open(self, path: str) -> OpenFile:
        """Open a file for reading."""
        return await self._open(path, os.O_RDONLY, f"cannot read {path}")

    async def draft(self, path: str, *, must_be_new: bool) -> OpenFile:
        """Open a file for writing."""
        flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if must_be_new else 0)
        return await self._open(path, flags, f"cannot write next to {path}")

    async def _open(self, path: str, flags: int, what: str) -> OpenFile:
        # O_NONBLOCK, because a pipe without a writer would block the thread forever.
        number = await _call(
            what, os.open, self._at(path), flags | os.O_NONBLOCK | os.O_CLOEXEC, DRAFT_MODE
        )
        return LocalFile(number, path)

    async def replace(self, draft: str, path: str) -> None:
        """Rename atomically."""
        await _call(f"cannot create {path}", os.replace, self._at(draft), self._at(path))

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            await _call(
                f"cannot remove {path}",
                os.unlink,
                self._at(path),
                passing=FileNotFoundError,
            )

    async def make_folder(self, path: str, mode: int) -> None:
        """Create a folder, if it does not exist."""
        there = await self.look(path)
        if there is None or there.kind != "folder":
            await _call(f"cannot create the directory {path}", os.mkdir, self._at(path), mode)

    async def set_attributes(
        self, path: str, mode: int | None, owner: int | None, group: int | None
    ) -> None:
        """Set each attribute that is not None."""
        what = f"cannot set mode or owner of {path}"
        if owner is not None or group is not None:
            ids = (-1 if owner is None else owner, -1 if group is None else group)
            await _call(what, os.lchown, self._at(path), *ids)
        if mode is not None:
            await _call(what, os.chmod, self._at(path), mode)

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """Return the numeric ids of an account and a group."""
        return await _number("user", owner, _user), await _number("group", group, _group)

    async def digest(self, path: str) -> bytes | None:
        """Return the SHA-256 of a file."""
        return await _call(f"cannot read {path}", _digest, self._at(path))

    async def start_digest(self, draft: str) -> None:
        """Return None: the digest is computed afterwards, as there is no upload to overlap with."""

    def _at(self, path: str) -> str:
        return os.path.join(self._home, path)  # noqa: PTH118  a Path drops a final slash


class LocalFile:
    """An open file."""

    def __init__(self, number: int, path: str) -> None:
        self._number = number
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes."""
        return await _call(f"cannot read {self._path}", os.pread, self._number, size, offset)

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of these bytes."""
        await _call(f"does not take the bytes for {self._path}", _write, self._number, data, offset)

    async def sync(self) -> None:
        """Flush to the disk."""
        await _call(f"could not make {self._path} last", os.fsync, self._number)

    async def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._number)


async def _call(
    what: str, do: Callable[..., T], *arguments: object, passing: type[OSError] | tuple[()] = ()
) -> T:
    try:
        return await asyncio.to_thread(do, *arguments)
    except passing:
        raise
    except OSError as error:
        raise transfer_error(_NAME, what, error.strerror or error) from None


def _write(number: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(number, view, offset)
        view, offset = view[written:], offset + written


def _next(found: Iterable[os.DirEntry[str]]) -> list[DiskEntry]:
    entries = []
    for entry in found:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            entries.append(_entry(entry.name, entry.stat(follow_symlinks=False)))
        if len(entries) == LISTED_AT_ONCE:
            break
    return entries


def _entry(name: str, found: os.stat_result) -> DiskEntry:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    return DiskEntry(
        name,
        kind,
        found.st_size,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        int(found.st_mtime),
    )


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  the path may hold bytes that are not UTF-8
        return hashlib.file_digest(file, "sha256").digest()


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid


async def _number(what: str, name: str | None, look_up: Callable[[str], int]) -> int | None:
    if name is None:
        return None
    if (number := parse_account_number(name)) is not None:
        return number
    try:
        return await asyncio.to_thread(look_up, name)
    except KeyError:
        raise transfer_error(
            _NAME, f"knows no {what} {name}", "name another one, or its number"
        ) from None
