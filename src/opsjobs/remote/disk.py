"""The Disk protocol: what transfers may ask of a machine's files, whatever the transport.

Paths are texts; bytes in a name that are not UTF-8 are kept as lone surrogates (PEP 383). A path that is not absolute begins at
the home of who logs in. Everything raises RemoteFailure: CONNECTION_LOST where contact broke, TRANSFER where the machine refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode

DRAFT_MODE = 0o600
# What nobody may need who asks a machine for a listing: it may go on for ever.
NAME_BYTES_MAX = 255


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """What there is under a name. `modified`: seconds since 1970."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    size: int = 0
    mode: int = 0o644
    owner: int | None = None
    group: int | None = None
    modified: int | None = None


class OpenFile(Protocol):
    """A file that is open; several reads or writes may be under way at a time."""

    async def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes; none at the end of the file only."""

    async def write(self, offset: int, data: bytes) -> None:
        """All of these bytes."""

    async def sync(self) -> None:
        """See to it that what was written outlives a power cut, where the machine can be asked for that."""

    async def close(self) -> None:
        """Let go; never raises for what a machine does."""


class Counting(Protocol):
    """The SHA-256 of a file that is being written, counted by the machine while the bytes come."""

    def reached(self, size_bytes: int) -> None:
        """The first so many bytes of the file are there; never fewer than were said before."""

    async def digest(self, size_bytes: int) -> bytes | None:
        """Of the whole file, which has so many bytes; None where the machine did not count it."""

    async def close(self) -> None:
        """Let go; never raises for what a machine does."""


class Disk(Protocol):
    """Files on one machine, as seen by who logs in. `request_bytes`: the most that one read or write should ask for."""

    name: str
    request_bytes: int

    async def look(self, path: str, *, follow: bool = True) -> DiskEntry | None:
        """What there is, or None; `follow` = of a link, what it leads to."""

    def list(self, path: str) -> AsyncIterator[DiskEntry]:
        """What is in a folder, links not followed, without `.` and `..`."""

    async def open(self, path: str) -> OpenFile:
        """For reading."""

    async def draft(self, path: str, *, anew: bool) -> OpenFile:
        """For writing a file that nobody else may read; `anew` = it must not be there yet, else what is in it stays."""

    async def replace(self, draft: str, path: str) -> None:
        """Give the draft its name at once and whole, in place of whatever file has it."""

    async def remove(self, path: str) -> None:
        """Remove a file or a link, if it is there."""

    async def make_folder(self, path: str, mode: int) -> None:
        """Make a folder, if it is not there."""

    async def dress(self, path: str, mode: int | None, owner: int | None, group: int | None) -> None:
        """Set what is not None; not of what a link leads to."""

    async def accounts(self, owner: str | None, group: str | None) -> tuple[int | None, int | None]:
        """The numbers of an account and a group, which may be named by number already."""

    async def digest(self, path: str) -> bytes | None:
        """The SHA-256 of a file as the machine itself counts it; None where it cannot."""

    async def count(self, draft: str) -> Counting | None:
        """Begin to count that of a draft that is about to be written; None where it can only be counted afterwards."""


def refused(name: str, what: str, why: object) -> RemoteFailure:
    """The machine would not do it."""
    return RemoteFailure(ErrorCode.TRANSFER, f"{name} {what}: {why}.")


def cut(name: str, why: object) -> RemoteFailure:
    """Contact broke."""
    return RemoteFailure(ErrorCode.CONNECTION_LOST, f"Contact with {name} broke during the transfer ({why}).")
