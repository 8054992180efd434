"""File transfers to and from a machine, resumed after any interruption.

A transfer starts nothing on the machine, so nothing can run twice: the successor of a dead worker
writes the same bytes to the same places. A destination holds either the old file or the new one,
never a part.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from opsjobs.clock import Clock
from opsjobs.engine.launching.launch_authz import CurrentRights
from opsjobs.engine.runs.cancellation import (
    DETACHING,
    Detached,
    Interrupted,
    StopReason,
    StopSignal,
)
from opsjobs.engine.runs.run_connection import ResilientDisk, RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.engine.runs.run_tools import PROGRESS_SECONDS, TransferTools
from opsjobs.engine.runs.upload_source import ContentSlice, Member, list_members
from opsjobs.model.action import FrozenTransfer
from opsjobs.model.errors import NotFound, RemoteFailure, Unavailable
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.identity import Identity
from opsjobs.model.units import describe_size, format_duration
from opsjobs.remote.disk import Disk, spell_path, transfer_error
from opsjobs.remote.download import FoundFiles, find, read_pieces
from opsjobs.remote.upload import FileAttributes, Upload, stage
from opsjobs.store.blobs import Forgotten, TooManyBytes
from opsjobs.store.files import Full, StoredFile
from opsjobs.store.ledger.claim import Claimed

# How long a stopped transfer may take to remove a partial file.
TIDY_SECONDS = 5.0
# How many times a file is read again that changed between two connections.
READ_TRIES = 3
FOLDER_MODE = 0o755


class FileChanged(Exception):
    """The file is not the one whose first part was read before the connection was lost."""


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """A transfer to perform: its action with all values filled in, its run, and its limits."""

    action: FrozenTransfer
    claimed: Claimed
    execution_uuid: str
    attempt: int
    write_line: Callable[[str], None]
    """Writes a line to the action's output."""
    note_contact: Callable[[bool], None]
    stop_signal: StopSignal
    clock: Clock
    gone_seconds: float
    """Seconds since it was started, by this worker or another one."""
    timeout_seconds: float
    window_seconds: float
    """The machine may be unreachable for this long during the transfer."""
    requested_by: Identity | None = None
    """The requester, if a parameter names the file of an upload.

    None if the file was fixed at launch.
    """

    @property
    def destination(self) -> str:
        """The destination path of an upload; a relative one starts in the login's home."""
        assert self.action.destination is not None, "an upload has one"
        return self.action.destination.removeprefix("~/")


class Transfer:
    """One running transfer."""

    def __init__(
        self, order: TransferOrder, connection: RunConnection, tools: TransferTools
    ) -> None:
        self._order = order
        self._tools = tools
        self._disk = ResilientDisk(
            connection, order.clock, order.window_seconds, order.note_contact
        )
        self._moved_bytes = 0
        self._total_bytes = 0
        self._draft: str | None = None

    async def perform(self) -> ActionEnd:
        """Perform the whole transfer.

        Raises RemoteFailure if it fails, Detached if another worker is to continue it.
        """
        order = self._order
        timer = order.clock.later(
            self._seconds_left(), lambda: order.stop_signal.request(StopReason.ACTION_TIMEOUT)
        )
        reporter = asyncio.create_task(self._report())
        self._tools.under_way += 1
        try:
            await (self._upload() if order.action.direction == "upload" else self._download())
            return ActionEnd(RunStatus.SUCCEEDED)
        except Interrupted as stopped:
            return await self._tidy_up(stopped.reason)
        finally:
            self._tools.under_way -= 1
            timer.cancel()
            reporter.cancel()
            order.stop_signal.clear(StopReason.ACTION_TIMEOUT)
            await self._disk.close()

    def _seconds_left(self) -> float:
        return max(self._order.timeout_seconds - self._order.gone_seconds, 0.0)

    async def _upload(self) -> None:
        order = self._order
        with order.stop_signal.interruptible():
            stored = await self._find_source()
            source = ContentSlice(
                self._tools.chunks, stored.content_id, 0, stored.size, bytes.fromhex(stored.sha256)
            )
        if order.action.unpack:
            await self._unpack(source)
            return
        self._total_bytes = stored.size
        destination = order.destination
        await self._upload_file(source, destination, _parse_mode(order.action), name=stored.name)

    async def _find_source(self) -> StoredFile:
        while True:
            try:
                return await self._check_visible(
                    await self._tools.files.get(self._order.action.source)
                )
            except NotFound as gone:
                raise RemoteFailure(
                    ErrorCode.TRANSFER, f"{gone} It may have been deleted since the launch."
                ) from None
            except Unavailable as away:
                await self._disk.wait_before_retry(away)

    async def _check_visible(self, stored: StoredFile) -> StoredFile:
        """Return the file if the requester may see it. Raises NotFound."""
        requested_by = self._order.requested_by
        if requested_by is None or requested_by == stored.created_by:
            return stored
        if not await CurrentRights(self._tools.current_principal).sees_all_files(requested_by):
            raise NotFound.for_ref("file", self._order.action.source)
        return stored

    async def _unpack(self, archive: ContentSlice) -> None:
        order = self._order
        with order.stop_signal.interruptible():
            found = await list_members(archive)
        self._total_bytes = sum(member.source.size for member in found if member.source is not None)
        base = order.destination
        for member in [Member("", FOLDER_MODE, None), *found]:
            path = posixpath.join(base, member.path) if member.path else base.rstrip("/") or "/"
            if member.source is None:
                await self._make_folder(path, member.mode)
            else:
                mode = _parse_mode(order.action)
                await self._upload_file(member.source, path, member.mode if mode is None else mode)

    async def _make_folder(self, path: str, mode: int) -> None:
        with self._order.stop_signal.interruptible():
            while True:
                try:
                    return await (await self._disk.open()).make_folder(path, mode)
                except RemoteFailure as failure:
                    await self._disk.wait_before_retry(failure)

    async def _upload_file(
        self, source: ContentSlice, destination: str, mode: int | None, *, name: str | None = None
    ) -> None:
        """Upload one file. `name`: the name of the file if the destination is a folder."""
        began = self._moved_bytes

        def on_progress(there_bytes: int) -> None:
            self._disk.note_progress()
            self._moved_bytes = began + there_bytes

        new, path = True, destination
        while True:
            try:
                with self._order.stop_signal.interruptible():
                    disk = await self._disk.open()
                    path = await _resolve_destination(disk, destination, name)
                    upload = Upload(
                        source,
                        path,
                        await self._attributes(disk, mode),
                        self._key,
                        on_progress,
                        self._tools.window_bytes(),
                    )
                    self._draft = upload.draft
                    new = await stage(disk, upload)
                if new:
                    # Short, and not interruptible: otherwise the content of the destination would
                    # be unknown.
                    await disk.replace(upload.draft, path)
                break
            except (RemoteFailure, Unavailable) as failure:
                with self._order.stop_signal.interruptible():
                    await self._disk.wait_before_retry(failure)
            except Forgotten as gone:
                raise RemoteFailure(ErrorCode.TRANSFER, f"{gone}") from None
        self._draft = None
        self._tools.metrics.file_bytes.labels("upload").inc(source.size if new else 0)
        self._write_line(
            f"{_printable(path)}: {source.size} bytes, sha256 "
            f"{source.sha256.hex()}{'' if new else ', was there already'}"
        )

    @property
    def _key(self) -> str:
        return f"{self._order.claimed.uuid}.{self._order.action.key}"

    async def _attributes(self, disk: Disk, mode: int | None) -> FileAttributes:
        owner, group = self._order.action.owner, self._order.action.group
        if self._order.action.mode is not None and not disk.posix:
            raise transfer_error(
                disk.name,
                "has no modes",
                "leave out `mode`; the file gets the permissions of its folder",
            )
        if owner is None and group is None:
            return FileAttributes(mode)
        return FileAttributes(mode, *await disk.accounts(owner, group))

    async def _download(self) -> None:
        with self._order.stop_signal.interruptible():
            await self._check_room()
            found = await self._find()
            self._total_bytes = sum(file.size for file in found)
            for file in found:
                await self._download_file(file)

    async def _check_room(self) -> None:
        """Raise RemoteFailure before anything is read if the caller may not have more artifacts."""
        while True:
            try:
                return await self._tools.artifacts.check_room(self._order.claimed.id)
            except Full as full:
                raise RemoteFailure(ErrorCode.TRANSFER, str(full)) from None
            except Unavailable as away:
                await self._disk.wait_before_retry(away)

    async def _find(self) -> list[FoundFiles]:
        while True:
            try:
                disk = await self._disk.open()
                return await find(
                    disk,
                    spell_path(disk, self._order.action.source).removeprefix("~/"),
                    self._tools.limits,
                )
            except RemoteFailure as failure:
                await self._disk.wait_before_retry(failure)

    async def _download_file(self, file: FoundFiles) -> None:
        began, changes = self._moved_bytes, 0
        while True:
            self._moved_bytes = began
            try:
                return await self._try_download_file(file)
            except FileChanged:
                changes += 1
                if changes == READ_TRIES:
                    raise RemoteFailure(
                        ErrorCode.TRANSFER,
                        f"{_printable(file.path)} changes while it is read: download a copy of it",
                    ) from None
            except TooManyBytes:
                limit = describe_size(self._tools.limits.bytes)
                message = (
                    f"{_printable(file.path)} is over the limit of {limit} in all "
                    "(OPSJOBS_FILE_LIMIT_BYTES)"
                )
                raise RemoteFailure(ErrorCode.TRANSFER, message) from None
            except Full as full:
                message = f"{_printable(file.path)} was not stored: {full}"
                raise RemoteFailure(ErrorCode.TRANSFER, message) from None
            except (Unavailable, Forgotten) as away:
                await self._disk.wait_before_retry(Unavailable(str(away)))

    async def _try_download_file(self, file: FoundFiles) -> None:
        order, claimed = self._order, self._order.claimed
        limit = self._tools.limits.bytes - self._moved_bytes
        written = await self._tools.contents.write(self._pieces(file, limit + 1), limit_bytes=limit)
        path = _printable(file.path)
        kept = await self._tools.artifacts.record(
            claimed.id,
            claimed.fence,
            action=order.action.key,
            attempt=order.attempt,
            path=path,
            written=written,
        )
        if not kept:
            raise Detached(StopReason.OWNERSHIP_LOST)
        self._tools.metrics.file_bytes.labels("download").inc(written.size)
        self._write_line(f"{path}: {written.size} bytes, sha256 {written.sha256.hex()}")

    async def _pieces(self, file: FoundFiles, limit_bytes: int) -> AsyncIterator[bytes]:
        """Yield the file's bytes, over as many connections as needed.

        A file with a reported size of 0 may not be empty (/proc): it is read to its end.
        """
        offset, end = 0, file.size or limit_bytes
        while True:
            try:
                async for piece in self._read(file, offset, end):
                    offset += len(piece)
                    self._moved_bytes += len(piece)
                    self._disk.note_progress()
                    yield piece
            except RemoteFailure as failure:
                await self._disk.wait_before_retry(failure)
            else:
                return

    async def _read(self, file: FoundFiles, offset: int, end: int) -> AsyncIterator[bytes]:
        disk = await self._disk.open()
        if offset:
            there = await disk.look(file.path)
            if there is None or there.size < end or there.modified != file.modified:
                raise FileChanged
        opened = await disk.open(file.path)
        try:
            async for piece in read_pieces(
                opened, offset, end, disk.request_bytes, self._tools.window_bytes()
            ):
                yield piece
        finally:
            await opened.close()

    async def _tidy_up(self, reason: StopReason) -> ActionEnd:
        """Remove a partial file after a stop: the file at the destination is always complete."""
        if reason in DETACHING:
            raise Detached(reason)
        with suppress(RemoteFailure, TimeoutError):
            async with asyncio.timeout(TIDY_SECONDS):
                if self._draft is not None:
                    await (await self._disk.open()).remove(self._draft)
        if reason is StopReason.CANCEL:
            message = "cancelled: the transfer was stopped, and its partial file was removed"
            return ActionEnd(
                RunStatus.CANCELLED,
                None,
                RunError(ErrorCode.CANCELLED, message),
                CancelProof.KILLED,
            )
        limit = f"the action's timeout of {format_duration(self._order.timeout_seconds)}"
        limit = limit if reason is StopReason.ACTION_TIMEOUT else "the execution's timeout"
        message = (
            f"stopped: {limit} has passed, after {self._moved_bytes} of {self._total_bytes} bytes"
        )
        return ActionEnd(
            RunStatus.TIMEOUT,
            None,
            RunError(ErrorCode.COMMAND_TIMEOUT, message),
            CancelProof.KILLED,
        )

    async def _report(self) -> None:
        order = self._order
        while True:
            await order.clock.sleep(PROGRESS_SECONDS)
            self._write_line(f"{self._moved_bytes} of {self._total_bytes} bytes")
            if not self._tools.should_report(order.claimed.execution_id, order.clock.monotonic()):
                continue
            with suppress(Unavailable):
                await self._tools.outbox.append_progress(
                    order.claimed.execution_id, order.execution_uuid
                )

    def _write_line(self, message: str) -> None:
        self._order.write_line(f"{message}\n")


async def _resolve_destination(disk: Disk, destination: str, name: str | None) -> str:
    """Return the path to write: the destination, or a file in it if it is a folder (like cp)."""
    destination = spell_path(disk, destination)
    if name is None:
        return destination
    if not destination.endswith("/"):
        there = await disk.look(destination)
        if there is None or there.kind != "folder":
            return destination
    return posixpath.join(destination, name)


def _parse_mode(action: FrozenTransfer) -> int | None:
    return None if action.mode is None else int(action.mode, 8)


def _printable(path: str) -> str:
    """Return a path as storable text: bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
