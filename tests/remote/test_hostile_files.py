"""Hostile SFTP servers: dangerous names, endless files, unrequested answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncssh
import pytest

from kit.machines import small_server
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.disk import Disk
from opsjobs.remote.download import FindLimits, find, read_pieces
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool

FILE = asyncssh.SFTPAttrs(permissions=0o100644, size=5, mtime=1, atime=1, uid=0, gid=0)
FOLDER = asyncssh.SFTPAttrs(permissions=0o040755, size=0, mtime=1, atime=1, uid=0, gid=0)


class LyingSftpServer(asyncssh.SFTPServer):
    """Has one folder /x with attributes that the test sets; no real file is ever touched."""

    names: Any = ()
    served = 0

    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        if b"*" in path:
            raise asyncssh.SFTPNoSuchFile("no such file")
        return FOLDER if path in (b"/x", b"/deep") or path.startswith(b"/deep") else FILE

    lstat = stat

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        if path.startswith(b"/deep"):
            yield asyncssh.SFTPName(b"d", attrs=FOLDER)
            return
        n = 0
        while True:
            for name in self.names:
                n += 1
                LyingSftpServer.served = n
                yield asyncssh.SFTPName(name or b"n%d" % n, attrs=FILE)
                if n % 1_000 == 0:
                    await asyncio.sleep(0)
            if b"" not in self.names:
                return

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        return path

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return (
            b"x" * (size + 1)
            if file_obj == b"/more"
            else b"y"
            if file_obj == b"/slow"
            else b"z" * size
        )

    def close(self, file_obj: object) -> None:
        """Do nothing: no file is open."""


async def with_disk(names: Any, use: Any) -> Any:
    """Return the result of `use` with the disk of a machine that lists these names.

    b"" stands for endlessly many names.
    """

    class Told(LyingSftpServer):
        pass

    Told.names = names
    async with small_server(files=Told) as server:
        pool = SshPool(Connector())
        try:
            async with pool.session(server.endpoint()) as session, session.disk() as disk:
                return await use(disk)
        finally:
            await pool.close()


@pytest.mark.parametrize("name", [b"../../etc/passwd", b"a/b", b"/etc/passwd", b"a\0b", b"n" * 300])
async def test_a_name_that_leads_elsewhere_is_refused(name: bytes) -> None:
    async def use(disk: Disk) -> None:
        with pytest.raises(RemoteFailure, match="cannot be one") as failed:
            await find(disk, "/x", FindLimits())
        assert failed.value.code is ErrorCode.TRANSFER

    await with_disk([b"good", name], use)


async def test_a_folder_without_end_ends_at_the_limit() -> None:
    async def use(disk: Disk) -> None:
        with pytest.raises(RemoteFailure, match="more than 2000 names"):
            await find(disk, "/x", FindLimits(names=2_000))
        with pytest.raises(RemoteFailure, match="more than 2000 names"):
            await find(disk, "/x/*", FindLimits(names=2_000))

    await with_disk([b""], use)
    assert LyingSftpServer.served < 10_000


async def test_folders_in_folders_without_end_end_at_the_limit() -> None:
    async def use(disk: Disk) -> None:
        with pytest.raises(RemoteFailure, match="more than 32 deep"):
            await find(disk, "/deep", FindLimits())

    await with_disk([], use)


async def read(disk: Disk, path: str, size: int) -> int:
    file = await disk.open(path)
    try:
        return sum(
            [len(piece) async for piece in read_pieces(file, 0, size, disk.request_bytes, 1 << 20)]
        )
    finally:
        await file.close()


async def test_a_file_without_end_is_read_as_far_as_was_asked() -> None:
    async def use(disk: Disk) -> None:
        assert await read(disk, "/endless", 3_000_000) == 3_000_000

    await with_disk([], use)


async def test_more_bytes_than_asked_for_are_a_failure() -> None:
    async def use(disk: Disk) -> None:
        with pytest.raises(RemoteFailure, match="to a request for"):
            await read(disk, "/more", 1_000)

    await with_disk([], use)


async def test_a_byte_at_a_time_is_slow_and_right() -> None:
    async def use(disk: Disk) -> None:
        assert await read(disk, "/slow", 300) == 300

    await with_disk([], use)


async def test_a_machine_without_sftp_says_so() -> None:
    async with small_server(files=None) as server:
        pool = SshPool(Connector())
        try:
            async with pool.session(server.endpoint()) as session:
                with pytest.raises(RemoteFailure, match="serves no files") as failed:
                    async with session.disk():
                        raise AssertionError("there are none")
            assert failed.value.code is ErrorCode.TRANSFER
        finally:
            await pool.close()
