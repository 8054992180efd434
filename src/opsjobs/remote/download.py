"""Find the files of a download, within limits, and read each in order with many requests."""

from __future__ import annotations

import asyncio
import fnmatch
import posixpath
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.units import describe_size
from opsjobs.remote.disk import NAME_BYTES_MAX, Disk, DiskEntry, OpenFile

DEPTH_MAX = 32
PATH_BYTES_MAX = 4_096
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class FindLimits:
    """Limits of a download: number of files, of names to look at, and total bytes."""

    files: int = 10_000
    names: int = 100_000
    bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """A file to be read."""

    path: str
    size: int
    modified: int | None


async def find(disk: Disk, source: str, limits: FindLimits) -> list[FoundFiles]:
    """Return the files, in the order of their paths; links in folders are left out.

    Raises RemoteFailure(TRANSFER) if there are none or too many.
    """
    search = _Search(disk, limits)
    there = await disk.look(source)
    if there is not None:
        await search.take(source, there)
    elif _MAGIC & set(source):
        async for path in search.matching(source):
            there = await disk.look(path)
            if there is not None:
                await search.take(path, there)
    if not search.found:
        what = "an empty folder" if there is not None and there.kind == "folder" else "no file"
        raise RemoteFailure(
            ErrorCode.TRANSFER, f"{disk.name} has {what} at {source}: there is nothing to download."
        )
    return sorted(search.found, key=lambda file: file.path)


async def read_pieces(
    file: OpenFile, offset: int, end: int, request_bytes: int, window_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the bytes from `offset` to `end`, or to the end of the file if that is earlier.

    Raises RemoteFailure.
    """
    under_way: deque[tuple[int, int, asyncio.Task[bytes]]] = deque()
    asked = offset
    request_bytes = request_size(request_bytes, window_bytes)
    try:
        while asked < end or under_way:
            while asked < end and len(under_way) * request_bytes < window_bytes:
                size = min(request_bytes, end - asked)
                under_way.append((asked, size, asyncio.create_task(file.read(asked, size))))
                asked += size
            at, size, task = under_way[0]
            piece = _check_size(await task, size)
            under_way.popleft()
            while piece and len(piece) < size:
                # A machine may return less than requested, although there is more.
                yield piece
                at, size = at + len(piece), size - len(piece)
                piece = _check_size(await file.read(at, size), size)
            if not piece:
                return
            yield piece
    finally:
        await cancel_requests([task for _, _, task in under_way])


def request_size(request_bytes: int, window_bytes: int) -> int:
    """Return the size of a request: two fit into the window, so that one is always in flight."""
    return min(request_bytes, window_bytes // 2)


async def cancel_requests(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel requests that are not needed any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _check_size(piece: bytes, size: int) -> bytes:
    if len(piece) > size:
        raise RemoteFailure(
            ErrorCode.TRANSFER,
            f"The machine answered with {len(piece)} bytes to a request for {size}.",
        )
    return piece


class _Search:
    def __init__(self, disk: Disk, limits: FindLimits) -> None:
        self._disk = disk
        self._limits = limits
        self._names = 0
        self._bytes = 0
        self.found: list[FoundFiles] = []

    async def take(self, path: str, there: DiskEntry) -> None:
        """Add the file, or all files in the folder and in those below it."""
        open_ = [(path, there, 0)]
        while open_:
            path, there, depth = open_.pop()
            if there.kind == "file":
                self._add(path, there)
            elif there.kind == "folder":
                if depth > DEPTH_MAX:
                    raise self._too_much(
                        f"folders in folders, more than {DEPTH_MAX} deep, at {path[:200]}"
                    )
                open_ += [
                    (posixpath.join(path, entry.name), entry, depth + 1)
                    async for entry in self._list(path)
                ]
            elif depth == 0:
                raise RemoteFailure(
                    ErrorCode.TRANSFER,
                    f"{path} on {self._disk.name} is neither a file nor a folder.",
                )

    def _add(self, path: str, there: DiskEntry) -> None:
        if len(path.encode("utf-8", "surrogateescape")) > PATH_BYTES_MAX:
            raise self._too_much(f"a path of more than {describe_size(PATH_BYTES_MAX)}")
        self._bytes += there.size
        self.found.append(FoundFiles(path, there.size, there.modified))
        if len(self.found) > self._limits.files:
            raise self._too_much(f"more than {self._limits.files} files")
        if self._bytes > self._limits.bytes:
            limit = describe_size(self._limits.bytes)
            raise self._too_much(f"more than {limit} (OPSJOBS_FILE_LIMIT_BYTES)")

    async def matching(self, pattern: str) -> AsyncIterator[str]:
        """Yield the paths that match the pattern, part by part.

        `*` matches no name with a leading dot, as in a shell.
        """
        begun = ["/"] if pattern.startswith("/") else [""]
        for part in [part for part in pattern.split("/") if part]:
            begun = [path for base in begun for path in await self._next(base, part)]
        for path in begun:
            yield path

    async def _next(self, base: str, part: str) -> list[str]:
        if not _MAGIC & set(part):
            return [posixpath.join(base, part)]
        folder = await self._disk.look(base or ".")
        if folder is None or folder.kind != "folder":
            return []
        names = [entry.name async for entry in self._list(base or ".")]
        matching = [
            name
            for name in names
            if fnmatch.fnmatchcase(name, part) and name.startswith(".") <= part.startswith(".")
        ]
        return [posixpath.join(base, name) for name in sorted(matching)]

    async def _list(self, path: str) -> AsyncIterator[DiskEntry]:
        async for entry in self._disk.list(path):
            self._names += 1
            if self._names > self._limits.names:
                raise self._too_much(f"more than {self._limits.names} names")
            if not _is_name(entry.name):
                raise RemoteFailure(
                    ErrorCode.TRANSFER,
                    f"{self._disk.name} lists a name that cannot be one: {entry.name[:100]!r}.",
                )
            yield entry

    def _too_much(self, what: str) -> RemoteFailure:
        return RemoteFailure(
            ErrorCode.TRANSFER, f"{self._disk.name} has {what} in the source. Download it in parts."
        )


def _is_name(name: str) -> bool:
    """Return True for a valid name of a folder's entry: it must not lead to another folder."""
    size = len(name.encode("utf-8", "surrogateescape"))
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and size <= NAME_BYTES_MAX
    )
