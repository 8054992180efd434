"""Files on a machine over SFTP: every request of ours as one of the protocol's, and its refusals in our words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NoReturn

import asyncssh
from asyncssh.sftp import SFTPClientFile

from opsjobs.remote.disk import DRAFT_MODE, Counting, DiskEntry, OpenFile, cut, refused

# The most that OpenSSH takes, if the server says that it takes that much: each request costs us and it a task and an answer. Who says
# nothing takes 32 KiB (the protocol's).
REQUEST_BYTES = 255 << 10
SAFE_BYTES = 32 << 10
_CONTACT = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ConnectionLost, asyncssh.ChannelOpenError)
_KINDS: dict[int, Literal["file", "folder", "link", "other"]] = {0o100000: "file", 0o040000: "folder", 0o120000: "link"}
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
# One line each, for whatever login shell; the path comes over standard input.
_DIGEST = 'sh -c \'IFS= read -r f; if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$f"; else shasum -a 256 <"$f"; fi\' opsjobs'
_OWNER = "sh -c 'id -u \"$1\"' opsjobs {}"
_GROUP = 'sh -c \'getent group "$1" || grep "^$1:" /etc/group\' opsjobs {}'

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""Runs a command line with a standard input; its output, or None where it could not be run or did not succeed."""
Count = Callable[[bytes], Awaitable[Counting | None]]
"""Begins to count the digest of the file with this path, where there is a channel left for that."""


class SftpDisk:
    """The Disk of a machine that speaks SFTP; `ask` and `count` run programs there."""

    def __init__(self, client: asyncssh.SFTPClient, name: str, ask: Ask, count: Count) -> None:
        self.name = name
        self._client = client
        self._ask = ask
        self._count = count
        taken = min(client.limits.max_read_len, client.limits.max_write_len)
        self.request_bytes = min(REQUEST_BYTES, taken) if taken > SAFE_BYTES else SAFE_BYTES

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """What there is, or None."""
        with self._words(f"does not let us look at {path}"):
            try:
                attributes = await (self._client.stat(path) if follow else self._client.lstat(path))
            except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory):
                return None
        return _entry(path, attributes)

    async def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """What is in a folder."""
        with self._words(f"does not let us read the folder {path}"):
            async for found in self._client.scandir(path):
                name = found.filename if isinstance(found.filename, str) else found.filename.decode("utf-8", "surrogateescape")
                if name not in (".", ".."):
                    yield _entry(name, found.attrs)

    async def open(self, path: str) -> OpenFile:
        """For reading."""
        return await self._open(path, asyncssh.FXF_READ, asyncssh.SFTPAttrs(), f"does not let us read {path}")

    async def draft(self, path: str, *, anew: bool) -> OpenFile:
        """For writing."""
        flags = asyncssh.FXF_WRITE | (asyncssh.FXF_CREAT | asyncssh.FXF_EXCL if anew else 0)
        return await self._open(path, flags, asyncssh.SFTPAttrs(permissions=DRAFT_MODE), f"does not let us write beside {path}")

    async def _open(self, path: str, flags: int, attributes: asyncssh.SFTPAttrs, what: str) -> SftpFile:
        with self._words(what):
            # A block size of 0: requests are cut here, not once more by the library.
            file = await self._client.open(path, flags, attributes, encoding=None, block_size=0)
        return SftpFile(file, self.name, path)

    async def replace(self, draft: str, path: str) -> None:
        """By the extension that replaces at once; without it, only where nothing has the name."""
        with self._words(f"does not let us put a file at {path}"):
            try:
                await self._client.posix_rename(draft, path)
            except asyncssh.SFTPOpUnsupported:
                await self._client.rename(draft, path)

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""
        with self._words(f"does not let us remove {path}"), suppress(asyncssh.SFTPNoSuchFile):
            await self._client.remove(path)

    async def make_folder(self, path: str, mode: int) -> None:
        """Make a folder, if it is not there."""
        there = await self.look(path)
        if there is not None and there.kind == "folder":
            return
        with self._words(f"does not let us make the folder {path}"):
            await self._client.mkdir(path, asyncssh.SFTPAttrs(permissions=mode))

    async def dress(self, path: str, mode: int | None, owner: int | None, group: int | None) -> None:
        """Set what is not None."""
        with self._words(f"does not let us set mode or owner of {path}"):
            if owner is not None or group is not None:
                there = await self._client.lstat(path)
                uid, gid = there.uid if owner is None else owner, there.gid if group is None else group
                await self._client.setstat(path, asyncssh.SFTPAttrs(uid=uid, gid=gid))
            if mode is not None:
                await self._client.setstat(path, asyncssh.SFTPAttrs(permissions=mode))

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """The numbers of an account and a group."""
        return await self._number("user", owner, _OWNER, 0), await self._number("group", group, _GROUP, 2)

    async def _number(self, what: str, account: str | None, line: str, field: int) -> int | None:
        if account is None or account.isdigit():
            return None if account is None else int(account)
        said = await self._ask(line.format(account), b"") if _ACCOUNT.fullmatch(account) else None
        found = (said or b"").decode("utf-8", "replace").strip().splitlines()[-1:]
        number = found[0].split(":")[field] if found and found[0].count(":") >= field else ""
        if not number.isdigit():
            raise refused(self.name, f"knows no {what} {account}", "name another one, or its number")
        return int(number)

    async def digest(self, path: str) -> bytes | None:
        """By sha256sum or shasum, where there is one that may read the file."""
        asked = path.encode("utf-8", "surrogateescape")
        said = await self._ask(_DIGEST, asked + b"\n") if b"\n" not in asked else None
        found = re.search(rb"(?:^|\n)\\?([0-9a-f]{64})\b", said or b"")
        return bytes.fromhex(found[1].decode()) if found else None

    async def count(self, draft: str) -> Counting | None:
        """By the same programs, beside the bytes that come."""
        asked = draft.encode("utf-8", "surrogateescape")
        return await self._count(asked) if b"\n" not in asked else None

    @contextmanager
    def _words(self, what: str) -> Iterator[None]:
        try:
            yield
        except (asyncssh.Error, OSError) as error:
            _tell(self.name, what, error)


class SftpFile:
    """An open file on the other side."""

    def __init__(self, file: SFTPClientFile, name: str, path: str) -> None:
        self._file = file
        self._name = name
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes."""
        try:
            data = await self._file.read(size, offset)
        except (asyncssh.Error, OSError, ValueError) as error:
            _tell(self._name, f"does not let us read {self._path}", error)
        assert isinstance(data, bytes)
        return data

    async def write(self, offset: int, data: bytes) -> None:
        """All of these bytes."""
        try:
            await self._file.write(data, offset)
        except (asyncssh.Error, OSError, ValueError) as error:
            _tell(self._name, f"does not take the bytes for {self._path}", error)

    async def sync(self) -> None:
        """By the extension for it, where there is one."""
        try:
            await self._file.fsync()
        except asyncssh.SFTPOpUnsupported:
            return
        except (asyncssh.Error, OSError, ValueError) as error:
            _tell(self._name, f"could not make {self._path} last", error)

    async def close(self) -> None:
        """Let go."""
        with suppress(asyncssh.Error, OSError):
            await self._file.close()


def _tell(name: str, what: str, error: Exception) -> NoReturn:
    if isinstance(error, asyncssh.SFTPError) and not isinstance(error, _CONTACT):
        raise refused(name, what, error.reason or type(error).__name__) from None
    raise cut(name, error) from None


def _entry(name: str, attributes: asyncssh.SFTPAttrs) -> DiskEntry:
    mode = attributes.permissions or 0
    kind = _KINDS.get(mode & 0o170000, "other")
    owner, group, modified = attributes.uid, attributes.gid, attributes.mtime
    whole = None if modified is None else int(modified)
    return DiskEntry(name, kind, attributes.size or 0, mode & 0o7777, owner, group, whole)


async def open_sftp(wire: asyncssh.SSHClientConnection, seconds: float) -> asyncssh.SFTPClient:
    """An SFTP session on the connection. Raises asyncssh's errors, TimeoutError."""
    async with asyncio.timeout(seconds):
        return await wire.start_sftp_client(path_encoding="utf-8", path_errors="surrogateescape")
