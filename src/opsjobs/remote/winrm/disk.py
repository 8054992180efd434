"""Files on a Windows host: a helper script serves them over its standard input and output.

WinRM transfers no files. The helper runs in a shell for as long as the disk is open, and answers
requests in their order; several may be in flight.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.disk import DiskEntry, OpenFile, RunningDigest, contact_error, transfer_error
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.remote.winrm.connection import Disconnected, WsmanFault
from opsjobs.remote.winrm.messages import ProtocolError
from opsjobs.remote.winrm.process import INPUT_CLOSED, WinrmProcess

REQUEST_BYTES = 256 << 10
LISTED_AT_ONCE = 500
HEADER_BYTES_MAX = 4 << 20
CLOSE_SECONDS = 5.0
FOLDER_MODE, FILE_MODE = 0o755, 0o644
Kind = Literal["file", "folder", "link", "other"]
_KINDS: Mapping[str, Kind] = {"file": "file", "folder": "folder", "link": "link"}
_LENGTHS = struct.Struct("<ii")
_HELPER_REFUSALS = (96, 97)
"""Exit codes of a helper whose input was none of ours, or was cut off."""
_FAULTS = (WsmanFault, Disconnected, ProtocolError)

Answer = tuple[dict[str, Any], bytes]


class HelperChannel:
    """Requests to the helper, each with its answer; the first failure ends the channel."""

    def __init__(self, process: WinrmProcess, name: str, input_bytes: int) -> None:
        self.name = name
        self._process = process
        self._input_bytes = input_bytes
        self._outgoing = bytearray()
        self._filled = asyncio.Event()
        self._awaited: deque[asyncio.Future[Answer]] = deque()
        self._failure: RemoteFailure | None = None
        self._ending = False
        self._answered = False
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    def write(self, data: bytes) -> None:
        """Send bytes that have no answer."""
        self._outgoing += data
        self._filled.set()

    async def ask(self, op: str, data: bytes = b"", **given: Any) -> Answer:
        """Return the answer to a request. Raises RemoteFailure(CONNECTION_LOST, TRANSFER)."""
        if self._failure is not None:
            raise RemoteFailure(self._failure.code, self._failure.message)
        head = json.dumps({"op": op, **given}).encode()
        awaited: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        self.write(_LENGTHS.pack(len(head), len(data)) + head + data)
        return await awaited

    async def _send(self) -> None:
        """Write the waiting bytes, in as few requests as possible, one after the other."""
        try:
            while not (self._ending and not self._outgoing):
                if not self._outgoing:
                    self._filled.clear()
                    await self._filled.wait()
                    continue
                piece = bytes(self._outgoing[: self._input_bytes])
                del self._outgoing[: self._input_bytes]
                await self._process.write(piece, end=False)
            await self._process.write(b"", end=True)
        except (*_FAULTS, RemoteFailure) as failure:
            ended = isinstance(failure, WsmanFault) and failure.code in INPUT_CLOSED
            if not ended:  # else its output says why
                self._fail(failure)

    async def _receive(self) -> None:
        received, complaint, end = bytearray(), b"", RemoteExit(None)
        try:
            async for piece in self._process:
                if self._process.in_doubt:
                    self._fail(ProtocolError("an answer may be incomplete"))
                    return
                if isinstance(piece, RemoteExit):
                    end = piece
                elif isinstance(piece, Output) and piece.stream == "stderr":
                    complaint = (complaint + piece.data)[:1000]
                else:
                    received += piece.data
                    self._take_answers(received)
        except (ProtocolError, RemoteFailure) as failure:
            self._fail(failure)
            return
        words = " ".join(complaint.decode(errors="replace").split()) or f"it ended with {end.code}"
        if self._answered and end.code not in _HELPER_REFUSALS:
            self._fail(ProtocolError(f"the helper that serves files has ended ({words})"))
            return
        self._fail(
            transfer_error(self.name, "serves no files", f"its PowerShell does not do it ({words})")
        )

    def _take_answers(self, received: bytearray) -> None:
        """Pass on all answers that are complete. Raises ProtocolError."""
        while len(received) >= _LENGTHS.size:
            length, size = _LENGTHS.unpack_from(received)
            if not 2 <= length <= HEADER_BYTES_MAX or not 0 <= size <= REQUEST_BYTES:
                raise ProtocolError("its answers are not those of the helper")
            begin = _LENGTHS.size + length
            if len(received) < begin + size:
                return
            try:
                head = json.loads(received[_LENGTHS.size : begin])
            except ValueError:
                raise ProtocolError("its answers are not those of the helper") from None
            answer = (head, bytes(received[begin : begin + size]))
            del received[: begin + size]
            if not self._awaited or not isinstance(head, dict):
                raise ProtocolError("it answers what was not asked")
            self._answered = True
            awaited = self._awaited.popleft()
            if not awaited.done():
                awaited.set_result(answer)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            if not isinstance(failure, RemoteFailure) or failure.code is ErrorCode.LOST:
                failure = contact_error(self.name, failure)
            self._failure = failure
        while self._awaited:
            awaited = self._awaited.popleft()
            if not awaited.done():
                awaited.set_exception(RemoteFailure(self._failure.code, self._failure.message))
                awaited.exception()  # its caller may be gone

    async def close(self) -> None:
        """End the helper; its shell is kept if it ended as it should."""
        self._ending = True
        self._filled.set()
        clean = self._failure is None and not self._awaited
        if clean:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.gather(*self._tasks)
                    await self._process.close()
                    return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._process.abandon()


class WinrmDisk:
    """The Disk of a Windows host, without POSIX modes and owners."""

    posix = False

    def __init__(self, channel: HelperChannel) -> None:
        self.name = channel.name
        self.request_bytes = REQUEST_BYTES
        self._channel = channel

    async def _ask(self, what: str, op: str, data: bytes = b"", **given: Any) -> Answer:
        return await ask(self._channel, what, op, data, **given)

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """Return the entry at the path, or None."""
        answer, _ = await self._ask(f"cannot look up {path}", "look", path=path, follow=follow)
        found = answer.get("entry")
        return None if found is None else self._entry(found, path)

    async def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """Iterate over a folder."""
        what = f"cannot read the folder {path}"
        answer, _ = await self._ask(what, "list", path=path)
        handle = answer.get("handle")
        try:
            while True:
                answer, _ = await self._ask(what, "next", handle=handle, count=LISTED_AT_ONCE)
                for found in answer.get("entries") or ():
                    yield self._entry(found)
                if not answer.get("entries"):
                    return
        finally:
            with suppress(RemoteFailure):
                await self._ask(what, "close", handle=handle)

    def _entry(self, found: Any, path: str | None = None) -> DiskEntry:
        """Return an entry that the helper described. Raises RemoteFailure."""
        try:
            kind: Kind = _KINDS.get(found["kind"], "other")
            return DiskEntry(
                path if path is not None else str(found["name"]),
                kind,
                int(found["size"]),
                FOLDER_MODE if kind == "folder" else FILE_MODE,
                modified=int(found["modified"]),
            )
        except (KeyError, TypeError, ValueError):
            raise transfer_error(
                self.name, "describes a file in an unknown way", str(found)[:200]
            ) from None

    async def open(self, path: str) -> OpenFile:
        """Open a file for reading."""
        what = f"cannot read {path}"
        answer, _ = await self._ask(what, "open", path=path)
        return HelperFile(self._channel, what, answer.get("handle"))

    async def draft(self, path: str, *, must_be_new: bool) -> OpenFile:
        """Open a file for writing; it has the permissions of its folder."""
        what = f"cannot write next to {path}"
        answer, _ = await self._ask(what, "draft", path=path, new=must_be_new)
        return HelperFile(self._channel, what, answer.get("handle"))

    async def replace(self, draft: str, path: str) -> None:
        """Rename; the permissions and attributes of a replaced file are kept."""
        await self._ask(f"cannot create {path}", "replace", draft=draft, path=path)

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it exists."""
        await self._ask(f"cannot remove {path}", "remove", path=path)

    async def make_folder(self, path: str, mode: int) -> None:  # noqa: ARG002  no modes
        """Create a folder, if it does not exist."""
        await self._ask(f"cannot create the directory {path}", "folder", path=path)

    async def set_attributes(
        self, path: str, mode: int | None, owner: int | None, group: int | None
    ) -> None:
        """Do nothing: a Windows host has no modes and owners of POSIX."""

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """Raise RemoteFailure(TRANSFER) if an account is named."""
        if owner is not None or group is not None:
            raise transfer_error(
                self.name,
                "has no owners and groups with numbers",
                "leave out `owner` and `group`; set permissions with icacls in a command",
            )
        return None, None

    async def digest(self, path: str) -> bytes | None:
        """Return the SHA-256 of a file, computed by the host."""
        answer, _ = await self._ask(f"cannot read {path}", "digest", path=path)
        try:
            return bytes.fromhex(answer["sha256"])
        except (KeyError, TypeError, ValueError):
            return None

    async def start_digest(self, draft: str) -> RunningDigest | None:  # noqa: ARG002  none
        """Return None: the helper is busy with writing."""
        return None


class HelperFile:
    """A file that the helper has open."""

    def __init__(self, channel: HelperChannel, what: str, handle: Any) -> None:
        self._channel = channel
        self._what = what
        self._handle = handle

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes; empty only at the end of the file."""
        return (await self._ask("read", offset=offset, size=min(size, REQUEST_BYTES)))[1]

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of these bytes."""
        await self._ask("write", data, offset=offset)

    async def sync(self) -> None:
        """Flush to disk."""
        await self._ask("sync")

    async def close(self) -> None:
        """Close the file."""
        with suppress(RemoteFailure):
            await self._ask("close")

    async def _ask(self, op: str, data: bytes = b"", **given: Any) -> Answer:
        return await ask(self._channel, self._what, op, data, handle=self._handle, **given)


async def ask(
    channel: HelperChannel, what: str, op: str, data: bytes = b"", **given: Any
) -> Answer:
    """Return the answer to a request. Raises RemoteFailure if the host refuses `what`."""
    answer, more = await channel.ask(op, data, **given)
    if "error" in answer:
        raise transfer_error(channel.name, what, str(answer["error"]).rstrip(". ")[:500])
    return answer, more
