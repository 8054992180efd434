"""Files on a machine over SFTP: map disk requests to the protocol, its errors to failures.

SFTP has no digests: programs of the machine compute the SHA-256 of a file, even while it arrives.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NoReturn

import asyncssh
from asyncssh.sftp import SFTPClientFile

from opsjobs.model.errors import RemoteFailure
from opsjobs.remote.disk import (
    DRAFT_MODE,
    DiskEntry,
    OpenFile,
    RunningDigest,
    contact_error,
    parse_account_number,
    transfer_error,
)
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.ssh.process import SshProcess

# The maximum of OpenSSH, if the server announces that much: each request costs both sides a task
# and a response. A server that announces nothing gets 32 KiB (the protocol's limit).
REQUEST_BYTES = 255 << 10
SAFE_BYTES = 32 << 10
_CONTACT = (
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.ConnectionLost,
    asyncssh.ChannelOpenError,
)
_KINDS: dict[int, Literal["file", "folder", "link", "other"]] = {
    0o100000: "file",
    0o040000: "folder",
    0o120000: "link",
}
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
# One line each, for any login shell; standard input carries the path.
_DIGEST = (
    "sh -c 'IFS= read -r f; if command -v sha256sum >/dev/null 2>&1; "
    'then sha256sum <"$f"; else shasum -a 256 <"$f"; fi\' opsjobs'
)
_OWNER = "sh -c 'id -u \"$1\"' opsjobs {}"
_GROUP = 'sh -c \'getent group "$1" || grep "^$1:" /etc/group\' opsjobs {}'

# The block size of dd, and the minimum number of blocks per dd, except the last: 4 MiB.
UNIT_BYTES = 64 << 10
UNITS_AT_ONCE = 64
# Standard input carries the path first, then repeatedly the number of further blocks.
RUNNING_DIGEST_LINE = (
    'sh -c \'IFS= read -r f && exec 3<"$f" || exit 1; '
    "while read -r n; do dd bs=65536 count=$n <&3 2>/dev/null || exit 1; done | "
    "if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi' opsjobs"
)
_DIGEST_LINE = re.compile(rb"(?:^|\n)([0-9a-f]{64})\b")
_OUTPUT_BYTES_MAX = 64 << 10

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""Run a command line with a standard input; return its output, or None if it failed."""
StartDigest = Callable[[bytes], Awaitable[RunningDigest | None]]
"""Start computing the digest of the file at this path, if a channel is free."""


class SftpDisk:
    """The Disk of a machine with SFTP; `ask` and `start_digest` run programs there."""

    posix = True

    def __init__(
        self, client: asyncssh.SFTPClient, name: str, ask: Ask, start_digest: StartDigest
    ) -> None:
        self.name = name
        self._client = client
        self._ask = ask
        self._start_digest = start_digest
        taken = min(client.limits.max_read_len, client.limits.max_write_len)
        self.request_bytes = min(REQUEST_BYTES, taken) if taken > SAFE_BYTES else SAFE_BYTES

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """Return the entry at the path, or None."""
        with self._map_errors(f"cannot look up {path}"):
            try:
                attributes = await (self._client.stat(path) if follow else self._client.lstat(path))
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory):
                return None
        return _entry(path, attributes)

    async def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """Iterate over a folder."""
        with self._map_errors(f"cannot read the folder {path}"):
            async for found in self._client.scandir(path):
                name = (
                    found.filename
                    if isinstance(found.filename, str)
                    else found.filename.decode("utf-8", "surrogateescape")
                )
                if name not in (".", ".."):
                    yield _entry(name, found.attrs)

    async def open(self, path: str) -> OpenFile:
        """Open a file for reading."""
        return await self._open(
            path, asyncssh.FXF_READ, asyncssh.SFTPAttrs(), f"cannot read {path}"
        )

    async def draft(self, path: str, *, must_be_new: bool) -> OpenFile:
        """Open a file for writing."""
        flags = asyncssh.FXF_WRITE | (asyncssh.FXF_CREAT | asyncssh.FXF_EXCL if must_be_new else 0)
        return await self._open(
            path,
            flags,
            asyncssh.SFTPAttrs(permissions=DRAFT_MODE),
            f"cannot write next to {path}",
        )

    async def _open(
        self, path: str, flags: int, attributes: asyncssh.SFTPAttrs, what: str
    ) -> SftpFile:
        with self._map_errors(what):
            # A block size of 0: requests are split here, and not again by the library.
            file = await self._client.open(path, flags, attributes, encoding=None, block_size=0)
        return SftpFile(file, self.name, path)

    async def replace(self, draft: str, path: str) -> None:
        """Rename by the extension that replaces atomically.

        Without that extension it works only if no file has the name.
        """
        with self._map_errors(f"cannot create {path}"):
            try:
                await self._client.posix_rename(draft, path)
            except asyncssh.SFTPOpUnsupported:
                await self._client.rename(draft, path)

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it exists."""
        with self._map_errors(f"cannot remove {path}"), suppress(asyncssh.SFTPNoSuchFile):
            await self._client.remove(path)

    async def make_folder(self, path: str, mode: int) -> None:
        """Create a folder, if it does not exist."""
        there = await self.look(path)
        if there is not None and there.kind == "folder":
            return
        with self._map_errors(f"cannot create the directory {path}"):
            await self._client.mkdir(path, asyncssh.SFTPAttrs(permissions=mode))

    async def set_attributes(
        self, path: str, mode: int | None, owner: int | None, group: int | None
    ) -> None:
        """Set each attribute that is not None."""
        with self._map_errors(f"cannot set mode or owner of {path}"):
            if owner is not None or group is not None:
                there = await self._client.lstat(path)
                uid = there.uid if owner is None else owner
                gid = there.gid if group is None else group
                await self._client.setstat(path, asyncssh.SFTPAttrs(uid=uid, gid=gid))
            if mode is not None:
                await self._client.setstat(path, asyncssh.SFTPAttrs(permissions=mode))

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """Return the numeric ids of an account and a group."""
        return await self._number("user", owner, _OWNER, 0), await self._number(
            "group", group, _GROUP, 2
        )

    async def _number(self, what: str, account: str | None, line: str, field: int) -> int | None:
        number = None if account is None else parse_account_number(account)
        if account is None or number is not None:
            return number
        output = await self._ask(line.format(account), b"") if _ACCOUNT.fullmatch(account) else None
        found = (output or b"").decode("utf-8", "replace").strip().splitlines()[-1:]
        number = parse_account_number(
            found[0].split(":")[field] if found and found[0].count(":") >= field else ""
        )
        if number is None:
            raise transfer_error(
                self.name, f"knows no {what} {account}", "name another one, or its number"
            )
        return number

    async def digest(self, path: str) -> bytes | None:
        """Compute it by sha256sum or shasum; None if neither exists or may read the file."""
        asked = path.encode("utf-8", "surrogateescape")
        output = await self._ask(_DIGEST, asked + b"\n") if b"\n" not in asked else None
        found = re.search(rb"(?:^|\n)\\?([0-9a-f]{64})\b", output or b"")
        return bytes.fromhex(found[1].decode()) if found else None

    async def start_digest(self, draft: str) -> RunningDigest | None:
        """Start computing the SHA-256, by the programs of `digest`, while the bytes arrive."""
        asked = draft.encode("utf-8", "surrogateescape")
        return await self._start_digest(asked) if b"\n" not in asked else None

    @contextmanager
    def _map_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (asyncssh.Error, OSError) as error:
            _raise_failure(self.name, what, error)


class SftpFile:
    """An open file on the machine."""

    def __init__(self, file: SFTPClientFile, name: str, path: str) -> None:
        self._file = file
        self._name = name
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes."""
        try:
            data = await self._file.read(size, offset)
        except (asyncssh.Error, OSError, ValueError) as error:
            _raise_failure(self._name, f"cannot read {self._path}", error)
        assert isinstance(data, bytes)
        return data

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of these bytes."""
        try:
            await self._file.write(data, offset)
        except (asyncssh.Error, OSError, ValueError) as error:
            _raise_failure(self._name, f"does not take the bytes for {self._path}", error)

    async def sync(self) -> None:
        """Flush by the extension for it, if the server has it."""
        try:
            await self._file.fsync()
        except asyncssh.SFTPOpUnsupported:
            return
        except (asyncssh.Error, OSError, ValueError) as error:
            _raise_failure(self._name, f"could not make {self._path} last", error)

    async def close(self) -> None:
        """Close the file."""
        with suppress(asyncssh.Error, OSError):
            await self._file.close()


class SshRunningDigest:
    """A program on the machine that reads the file while it is written.

    It reads only as far as announced, so it never reads bytes that are not written yet. It is
    optional: if it cannot be started, or ends early, there is no digest. `on_close` is called at
    the end.
    """

    def __init__(self, process: SshProcess, on_close: Callable[[], None]) -> None:
        self._process = process
        self._on_close = on_close
        self._announced_units = 0

    def advance(self, size_bytes: int) -> None:
        """Report that the first `size_bytes` of the file are written."""
        units = size_bytes // UNIT_BYTES - self._announced_units
        if units >= UNITS_AT_ONCE:
            self._announce(units)

    async def digest(self, size_bytes: int) -> bytes | None:
        """Return the digest of the whole file of `size_bytes`, or None if there is none."""
        units = -(-size_bytes // UNIT_BYTES) - self._announced_units
        if units:
            self._announce(units)
        self._process.write_stdin(b"", end=True)
        output, end = bytearray(), RemoteExit(None)
        try:
            async for piece in self._process:
                if isinstance(piece, RemoteExit):
                    end = piece
                elif piece.stream == "stdout" and len(output) < _OUTPUT_BYTES_MAX:
                    output += piece.data
        except RemoteFailure:
            return None  # the next request for the file shows whether the connection is lost
        match = _DIGEST_LINE.search(output)
        return bytes.fromhex(match[1].decode()) if match and end == RemoteExit(0) else None

    async def close(self) -> None:
        """Close the process, whether or not it has ended."""
        await self._process.close()
        self._on_close()

    def _announce(self, units: int) -> None:
        self._announced_units += units
        self._process.write_stdin(b"%d\n" % units, end=False)


def _raise_failure(name: str, what: str, error: Exception) -> NoReturn:
    if isinstance(error, asyncssh.SFTPError) and not isinstance(error, _CONTACT):
        raise transfer_error(name, what, error.reason or type(error).__name__) from None
    raise contact_error(name, error) from None


def _entry(name: str, attributes: asyncssh.SFTPAttrs) -> DiskEntry:
    mode = attributes.permissions or 0
    kind = _KINDS.get(mode & 0o170000, "other")
    owner, group, modified = attributes.uid, attributes.gid, attributes.mtime
    whole = None if modified is None else int(modified)
    return DiskEntry(name, kind, attributes.size or 0, mode & 0o7777, owner, group, whole)


async def open_sftp(wire: asyncssh.SSHClientConnection, seconds: float) -> asyncssh.SFTPClient:
    """Open an SFTP session on the connection. Raises asyncssh's errors, TimeoutError."""
    async with asyncio.timeout(seconds):
        return await wire.start_sftp_client(path_encoding="utf-8", path_errors="surrogateescape")
