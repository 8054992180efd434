"""A file brought to a machine or files brought from it, whatever breaks in between: stopped between two pieces, gone on with later.

Nothing here starts anything on the machine, so there is nothing that could run twice: who goes on after a worker's death writes
the same bytes to the same places. What is at a destination is the old file or the new one, never a part.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from opsjobs.clock import Clock
from opsjobs.engine.launching.launch_authz import Ask, Rights
from opsjobs.engine.runs.archive import Member, members
from opsjobs.engine.runs.cancellation import LEAVING, Detached, Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.chunk_cache import Chunks, Slice
from opsjobs.engine.runs.resilient_disk import Contact
from opsjobs.engine.runs.run_connection import RunConnection
from opsjobs.engine.runs.run_journal import ActionEnd
from opsjobs.model.access import IdentityKind
from opsjobs.model.errors import NotFound, RemoteFailure, Unavailable
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.model.units import format_duration
from opsjobs.remote.disk import Disk
from opsjobs.remote.files.finding import FindLimits, FoundFiles, find
from opsjobs.remote.files.reading import pieces_of
from opsjobs.remote.files.upload import WINDOW_BYTES, Dress, Upload, stage
from opsjobs.store.artifacts import Artifacts
from opsjobs.store.blobs import Contents, Forgotten, TooManyBytes
from opsjobs.store.files import Files, StoredFile
from opsjobs.store.ledger import Claimed
from opsjobs.store.outbox import Outbox
from opsjobs.telemetry import Metrics

# How often a transfer tells how far it is, in the log and as an event.
PROGRESS_SECONDS = 5.0
# Executions of which it is remembered when.
TOLD_MAX = 1_000
# How long a transfer that was stopped may take to remove what it has half written.
TIDY_SECONDS = 5.0
# What all transfers of a worker together may have under way; each has at least its share of two requests.
WINDOWS_BYTES = 32 << 20
WINDOW_BYTES_MIN = 256 << 10
# A file that changes while it is read, and contact breaks just then, is begun anew so often.
CHANGES = 3
FOLDER_MODE = 0o755


class Changed(Exception):
    """A file is not the one any more whose beginning was read before contact broke."""


@dataclass(slots=True)
class TransferTools:
    """What the transfers of a worker share. `standing`: what somebody may now, asked of files that are named as late as in a run.

    `under_way`: how many there are; `told_at`: when (monotonic) an execution's progress was told.
    """

    files: Files
    contents: Contents
    artifacts: Artifacts
    chunks: Chunks
    outbox: Outbox
    metrics: Metrics
    limits: FindLimits
    standing: Ask
    under_way: int = 0
    told_at: dict[int, float] = field(default_factory=dict)

    def may_tell(self, execution_id: int, now: float) -> bool:
        """Whether it is time to tell of this execution's progress: one event in a while, however many transfers it has."""
        if now - self.told_at.get(execution_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
            return False
        self.told_at.pop(execution_id, None)
        self.told_at[execution_id] = now
        while len(self.told_at) > TOLD_MAX:
            del self.told_at[next(iter(self.told_at))]
        return True

    def window_bytes(self) -> int:
        """One transfer's share of what may be under way."""
        return max(WINDOW_BYTES_MIN, min(WINDOW_BYTES, WINDOWS_BYTES // max(1, self.under_way)))


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """A transfer to be done: its action with all values in place, for which run, and within which limits.

    `say` puts words into its output. `note_contact` takes whether the machine can be reached. `gone_seconds`: since it was begun,
    perhaps by another worker. `window_seconds`: how long the machine may be away in the middle. `asked_by`: name and kind of whoever
    asked for it, of an upload whose file was not fixed at the launch but came out of a value; None: it was.
    """

    action: Mapping[str, Any]
    claimed: Claimed
    execution_uuid: str
    attempt: int
    say: Callable[[str], None]
    note_contact: Callable[[bool], None]
    stops: StopSignal
    clock: Clock
    gone_seconds: float
    timeout_seconds: float
    window_seconds: float
    asked_by: tuple[str, IdentityKind] | None = None


class Transfer:
    """One transfer at work."""

    def __init__(self, order: TransferOrder, link: RunConnection, tools: TransferTools) -> None:
        self._order = order
        self._tools = tools
        self._contact = Contact(link, order.clock, order.window_seconds, order.note_contact)
        self._moved_bytes = 0
        self._total_bytes = 0
        self._draft: str | None = None

    async def perform(self) -> ActionEnd:
        """All of it. Raises RemoteFailure where it cannot be done, Left where another worker is to go on with it."""
        order = self._order
        timer = order.clock.later(self._seconds_left(), lambda: order.stops.order(StopReason.ACTION_TIMEOUT))
        reporter = asyncio.create_task(self._report())
        self._tools.under_way += 1
        try:
            await (self._upload() if order.action["direction"] == "upload" else self._download())
            return ActionEnd(RunStatus.SUCCEEDED)
        except Interrupted as stopped:
            return await self._stopped(stopped.why)
        finally:
            self._tools.under_way -= 1
            timer.cancel()
            reporter.cancel()
            order.stops.over(StopReason.ACTION_TIMEOUT)
            await self._contact.close()

    def _seconds_left(self) -> float:
        return max(self._order.timeout_seconds - self._order.gone_seconds, 0.0)

    async def _upload(self) -> None:
        order = self._order
        with order.stops.here():
            stored = await self._stored()
            source = Slice(self._tools.chunks, stored.content_id, 0, stored.size, bytes.fromhex(stored.sha256))
        if order.action.get("unpack"):
            await self._unpack(source)
            return
        self._total_bytes = stored.size
        place = order.action["destination"].removeprefix("~/")
        await self._put(source, place, _mode(order.action), name=stored.name)

    async def _stored(self) -> StoredFile:
        while True:
            try:
                return await self._his(await self._tools.files.get(self._order.action["source"]))
            except NotFound as gone:
                raise RemoteFailure(ErrorCode.TRANSFER, f"{gone} Was it deleted?") from None
            except Unavailable as away:
                await self._contact.lost(away)

    async def _his(self, stored: StoredFile) -> StoredFile:
        """The file, where whoever asked for the transfer may see it. Raises NotFound."""
        asked_by = self._order.asked_by
        if asked_by is None or asked_by == (stored.created_by, stored.created_by_kind):
            return stored
        if not await Rights(self._tools.standing).sees_all_files(*asked_by):
            raise NotFound.of("file", self._order.action["source"])
        return stored

    async def _unpack(self, archive: Slice) -> None:
        order = self._order
        with order.stops.here():
            found = await members(archive)
        self._total_bytes = sum(member.source.size for member in found if member.source is not None)
        base = order.action["destination"].removeprefix("~/")
        for member in [Member("", FOLDER_MODE, None), *found]:
            path = posixpath.join(base, member.path) if member.path else base.rstrip("/") or "/"
            if member.source is None:
                await self._make_folder(path, member.mode)
            else:
                mode = _mode(order.action)
                await self._put(member.source, path, member.mode if mode is None else mode)

    async def _make_folder(self, path: str, mode: int) -> None:
        with self._order.stops.here():
            while True:
                try:
                    return await (await self._contact.disk()).make_folder(path, mode)
                except RemoteFailure as failure:
                    await self._contact.lost(failure)

    async def _put(self, source: Slice, place: str, mode: int | None, *, name: str | None = None) -> None:
        """One file to its place. `name`: what it is called there if the place is a folder."""
        began = self._moved_bytes

        def told(there_bytes: int) -> None:
            self._contact.moved()
            self._moved_bytes = began + there_bytes

        new, path = True, place
        while True:
            try:
                with self._order.stops.here():
                    disk = await self._contact.disk()
                    path = await _settled(disk, place, name)
                    upload = Upload(source, path, await self._dress(disk, mode), self._key, told, self._tools.window_bytes())
                    self._draft = upload.draft
                    new = await stage(disk, upload)
                if new:  # no more than a breath, and not to be stopped in the middle of: who knew then what is there?
                    await disk.replace(upload.draft, path)
                break
            except (RemoteFailure, Unavailable) as failure:
                with self._order.stops.here():
                    await self._contact.lost(failure)
            except Forgotten as gone:
                raise RemoteFailure(ErrorCode.TRANSFER, f"{gone}") from None
        self._draft = None
        self._tools.metrics.file_bytes.labels("upload").inc(source.size if new else 0)
        self._say(f"{_shown(path)}: {source.size} bytes, sha256 {source.sha256.hex()}{'' if new else ', was there already'}")

    @property
    def _key(self) -> str:
        return f"{self._order.claimed.uuid}.{self._order.action['key']}"

    async def _dress(self, disk: Disk, mode: int | None) -> Dress:
        owner, group = self._order.action.get("owner"), self._order.action.get("group")
        if owner is None and group is None:
            return Dress(mode)
        return Dress(mode, *await disk.accounts(owner, group))

    async def _download(self) -> None:
        with self._order.stops.here():
            found = await self._find()
            self._total_bytes = sum(file.size for file in found)
            for file in found:
                await self._get(file)

    async def _find(self) -> list[FoundFiles]:
        while True:
            try:
                return await find(await self._contact.disk(), self._order.action["source"].removeprefix("~/"), self._tools.limits)
            except RemoteFailure as failure:
                await self._contact.lost(failure)

    async def _get(self, file: FoundFiles) -> None:
        began, changes = self._moved_bytes, 0
        while True:
            self._moved_bytes = began
            try:
                return await self._get_once(file)
            except Changed:
                changes += 1
                if changes == CHANGES:
                    raise RemoteFailure(
                        ErrorCode.TRANSFER, f"{_shown(file.path)} changes while it is read: copy it first"
                    ) from None
            except TooManyBytes:
                words = f"{_shown(file.path)} goes on after {self._tools.limits.bytes} bytes in all (OPSJOBS_FILE_LIMIT_BYTES)"
                raise RemoteFailure(ErrorCode.TRANSFER, words) from None
            except (Unavailable, Forgotten) as away:
                await self._contact.lost(Unavailable(str(away)))

    async def _get_once(self, file: FoundFiles) -> None:
        order, claimed = self._order, self._order.claimed
        limit = self._tools.limits.bytes - self._moved_bytes
        written = await self._tools.contents.write(self._pieces(file, limit + 1), limit_bytes=limit)
        path = _shown(file.path)
        kept = await self._tools.artifacts.record(
            claimed.id, claimed.fence, action=order.action["key"], attempt=order.attempt, path=path, written=written
        )
        if not kept:
            raise Detached(StopReason.NOT_OURS)
        self._tools.metrics.file_bytes.labels("download").inc(written.size)
        self._say(f"{path}: {written.size} bytes, sha256 {written.sha256.hex()}")

    async def _pieces(self, file: FoundFiles, limit_bytes: int) -> AsyncIterator[bytes]:
        """The file as it was found, over as many contacts as it takes. One that says it is empty may not be (/proc): to its end."""
        offset, end = 0, file.size or limit_bytes
        while True:
            try:
                async for piece in self._read(file, offset, end):
                    offset += len(piece)
                    self._moved_bytes += len(piece)
                    self._contact.moved()
                    yield piece
            except RemoteFailure as failure:
                await self._contact.lost(failure)
            else:
                return

    async def _read(self, file: FoundFiles, offset: int, end: int) -> AsyncIterator[bytes]:
        disk = await self._contact.disk()
        if offset:
            there = await disk.look(file.path)
            if there is None or there.size < end or there.modified != file.modified:
                raise Changed
        opened = await disk.open(file.path)
        try:
            async for piece in pieces_of(opened, offset, end, disk.request_bytes, self._tools.window_bytes()):
                yield piece
        finally:
            await opened.close()

    async def _stopped(self, why: StopReason) -> ActionEnd:
        """Nothing goes on by itself: what was begun is removed, and what is at the destination is whole."""
        if why in LEAVING:
            raise Detached(why)
        with suppress(RemoteFailure, TimeoutError):
            async with asyncio.timeout(TIDY_SECONDS):
                if self._draft is not None:
                    await (await self._contact.disk()).remove(self._draft)
        if why is StopReason.CANCEL:
            words = "cancelled: the transfer was stopped; a file that was not whole is not there"
            return ActionEnd(RunStatus.CANCELLED, None, RunError(ErrorCode.CANCELLED, words), CancelProof.KILLED)
        limit = f"the action's timeout of {format_duration(self._order.timeout_seconds)}"
        limit = limit if why is StopReason.ACTION_TIMEOUT else "the execution's timeout"
        words = f"stopped: {limit} has passed, and {self._moved_bytes} of {self._total_bytes} bytes were there"
        return ActionEnd(RunStatus.TIMEOUT, None, RunError(ErrorCode.COMMAND_TIMEOUT, words), CancelProof.KILLED)

    async def _report(self) -> None:
        order = self._order
        while True:
            await order.clock.sleep(PROGRESS_SECONDS)
            self._say(f"{self._moved_bytes} of {self._total_bytes} bytes")
            if not self._tools.may_tell(order.claimed.execution_id, order.clock.monotonic()):
                continue
            with suppress(Unavailable):
                await self._tools.outbox.append_progress(order.claimed.execution_id, order.execution_uuid)

    def _say(self, words: str) -> None:
        self._order.say(f"{words}\n")


async def _settled(disk: Disk, place: str, name: str | None) -> str:
    """Where the file goes: to the place itself, or by its own name into it where that is a folder, as with cp."""
    if name is None:
        return place
    if not place.endswith("/"):
        there = await disk.look(place)
        if there is None or there.kind != "folder":
            return place
    return posixpath.join(place, name)


def _mode(action: Mapping[str, Any]) -> int | None:
    return None if action.get("mode") is None else int(action["mode"], 8)


def _shown(path: str) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 are spelt out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
