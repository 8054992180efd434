"""Upload one file: write a draft next to its destination, check it, then rename it.

A reader sees the old file or the new one, whole. Data that was sent is not sent again after the
connection broke: a successor worker uses the same name for the draft.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.rechunk import recut
from opsjobs.remote.disk import Disk, DiskEntry, OpenFile, RunningDigest, transfer_error
from opsjobs.remote.download import cancel_requests, read_pieces, request_size

FILE_MODE = 0o644
# The maximum in flight at a time, and so the maximum that may have arrived after a gap.
WINDOW_BYTES = 2 << 20
# A smaller file is hashed quickly after it has arrived; a larger one is hashed while it arrives.
COUNTED_BYTES_MIN = 8 << 20
# A wrong draft is written again, once: a resumed one may hold the bytes of another upload.
TRIES = 2


class UploadSource(Protocol):
    """The content to be written, with the SHA-256 of the whole content."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the whole content."""

    def pieces(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""


@dataclass(frozen=True, slots=True)
class FileAttributes:
    """The attributes of the file. None = those of the replaced file, else 0644 and login user."""

    mode: int | None = None
    owner: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """The content and its destination."""

    source: UploadSource
    path: str
    attributes: FileAttributes
    key: str
    """Determines the draft's name; the same only for a successor that continues this transfer."""
    on_progress: Callable[[int], None]
    """Called with the number of bytes that are in place."""
    window_bytes: int = WINDOW_BYTES
    """The bytes in flight at a time, at most WINDOW_BYTES."""

    @property
    def draft(self) -> str:
        """The path of the draft.

        Its name identifies the content: an upload never resumes the draft of another one.
        """
        parts = (
            self.key.encode(),
            self.path.encode("utf-8", "surrogateescape"),
            self.source.sha256,
        )
        name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
        return posixpath.join(posixpath.dirname(self.path), f".opsjobs-{name}.part")


async def stage(disk: Disk, order: Upload) -> bool:
    """Write the whole draft and set its attributes; return False if the file is already there.

    The caller then calls `disk.replace(order.draft, order.path)`. Raises RemoteFailure.
    """
    there = await disk.look(order.path, follow=False)
    if there is not None and there.kind == "folder":
        raise transfer_error(
            disk.name, f"has a folder at {order.path}", "a file cannot take its place"
        )
    if there is not None and await _is_already_there(disk, order, there):
        await disk.set_attributes(
            order.path, order.attributes.mode, order.attributes.owner, order.attributes.group
        )
        order.on_progress(order.source.size)
        return False
    await _write(disk, order)
    if disk.posix:
        await _set_attributes(disk, order, there)
    return True


async def _is_already_there(disk: Disk, order: Upload, there: DiskEntry) -> bool:
    source = order.source
    return (
        there.kind == "file"
        and there.size == source.size
        and await _digest(disk, order.path, there.size) == source.sha256
    )


async def _write(disk: Disk, order: Upload) -> None:
    source, draft = order.source, order.draft
    for _ in range(TRIES):
        offset = await _resume_offset(disk, order)
        file = await disk.draft(draft, must_be_new=offset is None)
        running = await disk.start_digest(draft) if source.size >= COUNTED_BYTES_MIN else None
        try:
            await _fill(file, order, offset or 0, disk.request_bytes, running)
            await file.sync()
            counted = None if running is None else await running.digest(source.size)
        finally:
            await file.close()
            if running is not None:
                await running.close()
        if counted == source.sha256 or await _is_correct(disk, draft, source):
            return
        await disk.remove(draft)
    raise RemoteFailure(
        ErrorCode.TRANSFER,
        f"{disk.name} stored other bytes than were sent, twice: check its disk.",
    )


async def _is_correct(disk: Disk, draft: str, source: UploadSource) -> bool:
    # If SFTP is in a chroot, a machine's programs see other files: their digest does not prove that
    # the draft is wrong.
    return (
        await _digest(disk, draft, source.size) == source.sha256
        or await _read_back(disk, draft) == source.sha256
    )


async def _resume_offset(disk: Disk, order: Upload) -> int | None:
    """Return the offset at which an existing draft continues, or None to start again.

    The offset is before its end: of the data in flight when the connection broke, later pieces may
    have arrived without those before them.
    """
    there = await disk.look(order.draft, follow=False)
    if there is None:
        return None
    if there.kind != "file" or there.size > order.source.size:
        await disk.remove(order.draft)
        return None
    return max(0, there.size - WINDOW_BYTES)


async def _fill(
    file: OpenFile, order: Upload, offset: int, request_bytes: int, running: RunningDigest | None
) -> None:
    """Write the source from `offset` on, with at most one window in flight."""
    under_way: deque[tuple[int, asyncio.Task[None]]] = deque()
    window = min(order.window_bytes, WINDOW_BYTES)
    size = request_size(request_bytes, window)
    try:
        async for part in recut(order.source.pieces(offset), size):
            under_way.append((offset + len(part), asyncio.create_task(file.write(offset, part))))
            offset += len(part)
            if (len(under_way) + 1) * size > window:
                await _await_oldest(under_way, order, running)
        while under_way:
            await _await_oldest(under_way, order, running)
    finally:
        await cancel_requests([task for _, task in under_way])


async def _await_oldest(
    under_way: deque[tuple[int, asyncio.Task[None]]], order: Upload, running: RunningDigest | None
) -> None:
    await under_way[0][1]
    there_bytes = under_way.popleft()[0]
    order.on_progress(there_bytes)
    if running is not None:
        running.advance(there_bytes)


async def _set_attributes(disk: Disk, order: Upload, before: DiskEntry | None) -> None:
    attributes, draft = order.attributes, order.draft
    kept = before if before is not None and before.kind == "file" else None
    mode = attributes.mode
    if mode is None:
        mode = kept.mode if kept else FILE_MODE
    if kept is not None and attributes.owner is None and attributes.group is None:
        await _keep_owner(disk, draft, kept)
    # The owner first: a change of owner clears the set-uid and set-gid bits.
    await disk.set_attributes(draft, None, attributes.owner, attributes.group)
    await disk.set_attributes(draft, mode, None, None)


async def _keep_owner(disk: Disk, draft: str, kept: DiskEntry) -> None:
    """Keep the owner of the previous file if permitted: only root may give files away."""
    created = await disk.look(draft, follow=False)
    if created is None or (created.owner, created.group) == (kept.owner, kept.group):
        return
    try:
        await disk.set_attributes(draft, None, kept.owner, kept.group)
    except RemoteFailure as failure:
        if failure.code is not ErrorCode.TRANSFER:
            raise


async def _digest(disk: Disk, path: str, size: int) -> bytes:
    """Return the SHA-256 of a file on the machine.

    The machine computes it, or it is read back if the machine has no program for that.
    """
    if size == 0:
        return hashlib.sha256().digest()
    reported = await disk.digest(path)
    return await _read_back(disk, path) if reported is None else reported


async def _read_back(disk: Disk, path: str) -> bytes:
    found = hashlib.sha256()
    there = await disk.look(path)
    file = await disk.open(path)
    try:
        async for piece in read_pieces(
            file, 0, there.size if there else 0, disk.request_bytes, WINDOW_BYTES
        ):
            found.update(piece)
    finally:
        await file.close()
    return found.digest()
