"""The Disk protocol: file operations on a machine over any transport.

Paths are texts; bytes in a name that are not UTF-8 are kept as lone surrogates (PEP 383). A path
that is not absolute starts at the home of the login user. Everything raises RemoteFailure:
CONNECTION_LOST if the connection broke, TRANSFER if the machine refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

DRAFT_MODE = 0o600
# The maximum length of a name in a listing, for callers: a machine may send an endless listing.
NAME_BYTES_MAX = 255


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """One file, folder or link. `modified` is in seconds since 1970."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    size: int = 0
    mode: int = 0o644
    owner: int | None = None
    group: int | None = None
    modified: int | None = None


class OpenFile(Protocol):
    """An open file; several reads or writes may be in progress at a time."""

    async def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes; empty only at the end of the file."""

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of these bytes."""

    async def sync(self) -> None:
        """Flush to disk, if the machine supports it, so that the data survives a power failure."""

    async def close(self) -> None:
        """Close the file; never raises for errors of the machine."""


class RunningDigest(Protocol):
    """The SHA-256 of a file, computed by the machine while the file is being written."""

    def advance(self, size_bytes: int) -> None:
        """Report that the first `size_bytes` of the file are written; the number never falls."""

    async def digest(self, size_bytes: int) -> bytes | None:
        """Return the digest of the whole file of `size_bytes`, or None if it is unavailable."""

    async def close(self) -> None:
        """Release it; never raises for errors of the machine."""


class Disk(Protocol):
    r"""Files on one machine, as the login user sees them.

    `request_bytes` is the maximum size of one read or write. `posix`: files have modes and owners;
    without it, attributes are not set, and `\` separates the parts of a path as well as `/`.
    """

    name: str
    request_bytes: int
    posix: bool

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """Return the entry at the path, or None; `follow` a link to its destination."""

    def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """Iterate over a folder without following links, and without `.` and `..`."""

    async def open(self, path: str) -> OpenFile:
        """Open a file for reading."""

    async def draft(self, path: str, *, must_be_new: bool) -> OpenFile:
        """Open a file for writing, readable only by its owner.

        `must_be_new`: it must not exist yet; otherwise its content is kept.
        """

    async def replace(self, draft: str, path: str) -> None:
        """Rename the draft atomically, replacing any file at `path`."""

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it exists."""

    async def make_folder(self, path: str, mode: int) -> None:
        """Create a folder, if it does not exist."""

    async def set_attributes(
        self, path: str, mode: int | None, owner: int | None, group: int | None
    ) -> None:
        """Set each attribute that is not None, without following a link."""

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """Return the numeric ids of an account and a group, either of which may be a number."""

    async def digest(self, path: str) -> bytes | None:
        """Return the SHA-256 of a file, computed by the machine, or None if it cannot."""

    async def start_digest(self, draft: str) -> RunningDigest | None:
        """Start computing the SHA-256 of a draft before it is written.

        Returns None if it can only be computed afterwards.
        """


def spell_path(disk: Disk, path: str) -> str:
    """Return the path with `/` between its parts."""
    return path if disk.posix else path.replace("\\", "/")


ACCOUNT_NUMBER_MAX = (1 << 32) - 2
"""The greatest number of an account: the next one means that the owner stays."""


def parse_account_number(text: str) -> int | None:
    """Return the number that stands for an account or a group; None if the text is none."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(ACCOUNT_NUMBER_MAX)):
        return None
    return number if (number := int(text)) <= ACCOUNT_NUMBER_MAX else None


def transfer_error(name: str, what: str, why: object) -> RemoteFailure:
    """Return the failure for an operation that the machine refused."""
    return RemoteFailure(ErrorCode.TRANSFER, f"{name} {what}: {why}.")


def contact_error(name: str, why: object) -> RemoteFailure:
    """Return the failure for a broken connection."""
    return RemoteFailure(
        ErrorCode.CONNECTION_LOST, f"Connection to {name} was lost during the transfer ({why})."
    )
