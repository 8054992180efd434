"""The files of a scripted machine, in memory, with ways to break a transfer."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from kit.fake_remote.script import Gate, wait_at_gate
from opsjobs.remote.disk import (
    DRAFT_MODE,
    DiskEntry,
    OpenFile,
    parse_account_number,
    transfer_error,
)

REQUEST_BYTES = 64 << 10


@dataclass(slots=True)
class FakeFile:
    """A file with its content and attributes."""

    data: bytearray
    mode: int = 0o644
    owner: int = 0
    group: int = 0
    modified: int = 0
    claims_bytes: int | None = None
    """The size that the machine reports; None: the true one."""


@dataclass(slots=True)
class FakeFiles:
    """The files of a machine; a folder exists once it was created or something is in it."""

    found: dict[str, FakeFile] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/", "."})
    links: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=lambda: {"root": 0, "app": 1001})
    no_program: bool = False
    """True: the machine cannot compute a digest itself."""
    full_at_bytes: int | None = None
    """The size at which its disk is full."""
    rots: int = 0
    """The number of next digests that are wrong."""
    gate: Gate | None = None
    """Every read and write waits before it."""
    on_bytes: Callable[[int], None] | None = None
    """Called before each read and write with the bytes transferred so far; may break contact."""
    moved_bytes: int = 0
    synced: list[str] = field(default_factory=list)

    def put(self, path: str, data: bytes, **more: int) -> FakeFiles:
        """Add a file."""
        self.found[path] = FakeFile(bytearray(data), **more)
        while (path := posixpath.dirname(path)) not in self.folders:
            self.folders.add(path)
        return self


class FakeDisk:
    """The Disk of a scripted machine; `check` raises if contact has broken."""

    posix = True

    def __init__(self, name: str, files: FakeFiles, check: Callable[[], None]) -> None:
        self.name = name
        self.request_bytes = REQUEST_BYTES
        self.files = files
        self.check = check

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """Return the entry at the path, or None."""
        self.check()
        if path in self.files.links:
            return await self.look(self.files.links[path]) if follow else DiskEntry(path, "link")
        if (file := self.files.found.get(path)) is not None:
            size = len(file.data) if file.claims_bytes is None else file.claims_bytes
            return DiskEntry(path, "file", size, file.mode, file.owner, file.group, file.modified)
        return (
            DiskEntry(path, "folder", mode=0o755, owner=0, group=0)
            if (path.rstrip("/") or "/") in self.files.folders
            else None
        )

    async def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """Iterate over a folder."""
        self.check()
        inside = [*self.files.found, *self.files.folders, *self.files.links]
        for name in sorted(
            posixpath.basename(there) for there in inside if posixpath.dirname(there) == path
        ):
            if name not in ("", "."):
                entry = await self.look(posixpath.join(path, name), follow=False)
                assert entry is not None
                yield DiskEntry(
                    name,
                    entry.kind,
                    entry.size,
                    entry.mode,
                    entry.owner,
                    entry.group,
                    entry.modified,
                )

    async def open(self, path: str) -> OpenFile:
        """Open a file for reading."""
        self.check()
        path = self.files.links.get(path, path)
        if path not in self.files.found:
            raise transfer_error(self.name, f"cannot read {path}", "No such file")
        return _Open(self, path, self.files.found[path])

    async def draft(self, path: str, *, must_be_new: bool) -> OpenFile:
        """Open a file for writing."""
        self.check()
        if posixpath.dirname(path) not in self.files.folders | {""} or must_be_new is (
            path in self.files.found
        ):
            raise transfer_error(self.name, f"cannot write next to {path}", "No such file")
        file = self.files.found.setdefault(path, FakeFile(bytearray(), DRAFT_MODE, 1000, 1000))
        return _Open(self, path, file)

    async def replace(self, draft: str, path: str) -> None:
        """Rename atomically."""
        self.check()
        self.files.links.pop(path, None)
        self.files.found[path] = self.files.found.pop(draft)

    async def remove(self, path: str) -> None:
        """Remove it, if it exists."""
        self.check()
        self.files.links.pop(path, None)
        self.files.found.pop(path, None)

    async def make_folder(self, path: str, mode: int) -> None:
        """Create it, if it does not exist."""
        self.check()
        if path in self.files.found or posixpath.dirname(path) not in self.files.folders | {""}:
            raise transfer_error(self.name, f"cannot create the directory {path}", "Failure")
        self.files.folders.add(path)

    async def set_attributes(
        self, path: str, mode: int | None, owner: int | None, group: int | None
    ) -> None:
        """Set each attribute that is not None."""
        self.check()
        file = self.files.found.get(path)
        if file is not None:
            file.mode = file.mode if mode is None else mode
            file.owner = file.owner if owner is None else owner
            file.group = file.group if group is None else group

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """Return the numeric ids."""
        return self._number(owner), self._number(group)

    def _number(self, account: str | None) -> int | None:
        number = None if account is None else parse_account_number(account)
        if account is None or number is not None:
            return number
        if account not in self.files.accounts:
            raise transfer_error(
                self.name, f"knows no user or group {account}", "name another one, or its number"
            )
        return self.files.accounts[account]

    async def digest(self, path: str) -> bytes | None:
        """Return the digest that the machine reports."""
        self.check()
        if self.files.no_program or path not in self.files.found:
            return None
        if self.files.rots:
            self.files.rots -= 1
            self.files.found[path].data[0] ^= 1
        return hashlib.sha256(self.files.found[path].data).digest()

    async def start_digest(self, draft: str) -> None:
        """Return None: the digest is computed only afterwards."""


class _Open:
    def __init__(self, disk: FakeDisk, path: str, file: FakeFile) -> None:
        self._disk = disk
        self._path = path
        self._file = file

    async def read(self, offset: int, size: int) -> bytes:
        await self._move()
        data = bytes(self._file.data[offset : offset + size])
        self._disk.files.moved_bytes += len(data)
        return data

    async def write(self, offset: int, data: bytes) -> None:
        await self._move()
        files = self._disk.files
        if files.full_at_bytes is not None and offset + len(data) > files.full_at_bytes:
            raise transfer_error(
                self._disk.name,
                f"does not take the bytes for {self._path}",
                "No space left on device",
            )
        self._file.data.extend(b"\0" * (offset - len(self._file.data)))
        self._file.data[offset : offset + len(data)] = data
        files.moved_bytes += len(data)

    async def _move(self) -> None:
        files = self._disk.files
        self._disk.check()
        await wait_at_gate(files.gate)
        if files.on_bytes is not None:
            files.on_bytes(files.moved_bytes)
        self._disk.check()

    async def sync(self) -> None:
        self._disk.check()
        self._disk.files.synced.append(self._path)

    async def close(self) -> None:
        """Do nothing: no resource is held."""
