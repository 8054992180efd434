"""The contract of file transfers, for every transport."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest

from contract.conftest import EVERY_BACKEND, Backend, OpenBackend, backend_opener
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.disk import Disk
from opsjobs.remote.download import FindLimits, find, read_pieces
from opsjobs.remote.upload import (
    COUNTED_BYTES_MIN,
    WINDOW_BYTES,
    FileAttributes,
    Upload,
    stage,
)

MIB = 1 << 20
CHUNK = 256 << 10


@pytest.fixture(params=EVERY_BACKEND)
def open_backend(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of each backend; a Windows host has files without modes and owners."""
    return backend_opener(request)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Bytes:
    """A source in memory, in chunks.

    `sent` counts the bytes that were requested, `before` is called with each offset.
    """

    data: bytes
    before: Callable[[int], None] = lambda at: None
    sent: int = 0
    size: int = field(init=False)
    sha256: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.size, self.sha256 = len(self.data), sha256(self.data).digest()

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, self.size, CHUNK):
            self.before(at)
            await asyncio.sleep(0)
            piece = self.data[at : at + CHUNK]
            self.sent += len(piece)
            yield piece


def order(
    source: Bytes, path: str, *, key: str = "run.put", told: list[int] | None = None, **dress: int
) -> Upload:
    heard = told if told is not None else []
    return Upload(source, path, FileAttributes(**dress), key, heard.append)


async def upload(disk: Disk, order: Upload) -> bool:
    """Upload all of it; return False if the file was there already."""
    new = await stage(disk, order)
    if new:
        await disk.replace(order.draft, order.path)
    return new


@asynccontextmanager
async def disk_of(backend: Backend) -> AsyncIterator[Disk]:
    async with backend.sessions.session(backend.endpoint) as session, session.disk() as disk:
        yield disk


@dataclass
class RemoteFolder:
    """A folder of the machine, seen from outside."""

    backend: Backend

    def __post_init__(self) -> None:
        if self.backend.fake is not None:
            self.backend.fake.machine("web-1").files.folders |= {"/", "/srv"}

    @property
    def path(self) -> str:
        return "/srv" if self.backend.fake is not None else str(self.backend.folder)

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    def put(self, name: str, data: bytes, mode: int = 0o644) -> str:
        if self.backend.fake is not None:
            self.backend.fake.machine("web-1").files.put(
                self.at(name), data, mode=mode, owner=1000, group=1000
            )
            return self.at(name)
        path = Path(self.at(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parents:
            if folder == self.backend.folder:
                break
            folder.chmod(0o777)
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    def link(self, name: str, to: str) -> str:
        if self.backend.fake is not None:
            self.backend.fake.machine("web-1").files.links[self.at(name)] = to
        else:
            Path(self.at(name)).symlink_to(to)
        return self.at(name)

    def names(self) -> list[str]:
        if self.backend.fake is not None:
            return sorted(
                path.removeprefix("/srv/")
                for path in self.backend.fake.machine("web-1").files.found
            )
        return sorted(
            str(path.relative_to(self.backend.folder))
            for path in self.backend.folder.rglob("*")
            if path.is_file()
        )

    def read(self, name: str) -> bytes:
        if self.backend.fake is not None:
            return bytes(self.backend.fake.machine("web-1").files.found[self.at(name)].data)
        return Path(self.at(name)).read_bytes()

    def mode(self, name: str) -> int:
        if self.backend.fake is not None:
            return self.backend.fake.machine("web-1").files.found[self.at(name)].mode
        return Path(self.at(name)).stat().st_mode & 0o7777


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * MIB + 17])
async def test_a_file_comes_to_its_place_whole(open_backend: OpenBackend, size: int) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place, data, told = RemoteFolder(backend), noise(size), list[int]()
        assert await upload(disk, order(Bytes(data), place.at("app.conf"), told=told))
        assert place.names() == ["app.conf"]
        assert place.read("app.conf") == data
        assert place.mode("app.conf") == 0o644 or not disk.posix
        assert told == sorted(told)
        assert told[-1:] == ([size] if size else [])


async def test_a_file_takes_the_place_of_another_and_keeps_its_mode(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        place.put("app.conf", b"old", 0o600)
        if backend.endpoint.credential is not None and backend.fake is None:
            Path(place.at("app.conf")).chmod(
                0o666
            )  # the account that logs in may not read a file that is private to the test's user
        before = place.mode("app.conf")
        assert await upload(disk, order(Bytes(b"new"), place.at("app.conf")))
        assert place.read("app.conf") == b"new"
        assert place.mode("app.conf") == before or not disk.posix


async def test_the_mode_is_the_one_that_was_asked_for(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        await upload(disk, order(Bytes(b"#!/bin/sh\n"), place.at("run"), mode=0o755))
        assert (place.mode("run") == 0o755) is disk.posix


async def test_the_same_file_is_not_written_again(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place, source = RemoteFolder(backend), Bytes(noise(MIB))
        assert await upload(disk, order(source, place.at("app.conf")))
        again = Bytes(source.data)
        assert not await upload(disk, order(again, place.at("app.conf"), mode=0o640))
        assert again.sent == 0
        assert (place.mode("app.conf") == 0o640) is disk.posix


async def test_an_upload_goes_on_where_contact_broke(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        if backend.break_contact is None:
            return
        place, data = RemoteFolder(backend), noise(8 * MIB)
        broken = backend.break_contact
        first = Bytes(data, before=lambda at: broken() if at == 6 * MIB else None)
        with pytest.raises(RemoteFailure) as failed:
            async with disk_of(backend) as disk:
                await upload(disk, order(first, place.at("app.conf")))
        assert failed.value.code is ErrorCode.CONNECTION_LOST
        assert "app.conf" not in place.names()
        second = Bytes(data)
        async with disk_of(backend) as disk:
            assert await upload(disk, order(second, place.at("app.conf")))
        assert place.read("app.conf") == data
        assert place.names() == ["app.conf"]
        # All requested bytes before the break had arrived, except for one window. The second upload
        # begins one window before their end.
        assert second.sent <= 8 * MIB - (6 * MIB - 2 * WINDOW_BYTES) < 8 * MIB


class Asked:
    """A disk that counts how often its digest was requested after the upload."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.afterwards = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._disk, name)

    async def digest(self, path: str) -> bytes | None:
        self.afterwards += 1
        return await self._disk.digest(path)


async def test_a_large_file_is_counted_while_it_comes(open_backend: OpenBackend) -> None:
    async with open_backend() as backend:
        place, data = RemoteFolder(backend), noise(COUNTED_BYTES_MIN + 12_345)
        broken = backend.break_contact
        first = Bytes(
            data, before=lambda at: broken() if broken is not None and at == 7 * MIB else None
        )
        with suppress(RemoteFailure):
            async with disk_of(backend) as disk:
                await upload(disk, order(first, place.at("app.conf")))
        async with disk_of(backend) as disk:
            asked = Asked(disk)
            source, wanted = (
                Bytes(data),
                place.at("big.conf") if broken is None else place.at("app.conf"),
            )
            assert await upload(cast(Disk, asked), order(source, wanted))
            assert place.read(Path(wanted).name) == data
            running = await disk.start_digest(wanted)
            if running is not None:
                await running.close()
            assert (asked.afterwards == 0) is (running is not None)


async def test_what_was_counted_is_not_believed_where_it_is_wrong(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place, data = RemoteFolder(backend), noise(COUNTED_BYTES_MIN)
        wanted = order(Bytes(data), place.at("app.conf"))
        # A draft that begins with other bytes, which are not read again: only the digest shows
        # them.
        place.put(Path(wanted.draft).name, b"x" * (COUNTED_BYTES_MIN - MIB), 0o666)
        assert await upload(disk, wanted)
        assert place.read("app.conf") == data


async def test_a_draft_with_other_bytes_is_written_anew(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place, data = RemoteFolder(backend), noise(5 * MIB)
        wanted = order(Bytes(data), place.at("app.conf"))
        place.put(Path(wanted.draft).name, b"x" * 4 * MIB, 0o666)
        assert await upload(disk, wanted)
        assert place.read("app.conf") == data
        assert place.names() == ["app.conf"]


async def test_a_draft_that_is_a_link_is_not_followed(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        victim = place.put("victim", b"mine", 0o666)
        wanted = order(Bytes(b"new"), place.at("app.conf"))
        place.link(Path(wanted.draft).name, victim)
        assert await upload(disk, wanted)
        assert (place.read("victim"), place.read("app.conf")) == (b"mine", b"new")


async def test_a_link_at_the_destination_is_replaced_by_the_file(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        place.link("app.conf", place.put("other.conf", b"other"))
        assert await upload(disk, order(Bytes(b"new"), place.at("app.conf")))
        assert (place.read("other.conf"), place.read("app.conf")) == (b"other", b"new")


@pytest.mark.parametrize(
    "name", ["a b", "-rf", "quote'\"$(true)`true`", "ünï", "back\\slash", "x" * 200]
)
async def test_names_are_names(open_backend: OpenBackend, name: str) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        assert await upload(disk, order(Bytes(b"one"), place.at(name)))
        assert not await upload(disk, order(Bytes(b"one"), place.at(name)))
        assert place.names() == [name]
        assert [file.path for file in await find(disk, place.at(name), FindLimits())] == [
            place.at(name)
        ]


async def test_a_place_that_is_not_there_is_a_refusal_in_words(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        with pytest.raises(RemoteFailure, match="No such file") as failed:
            await upload(disk, order(Bytes(b"one"), place.at("nowhere/app.conf")))
        assert failed.value.code is ErrorCode.TRANSFER
        with pytest.raises(RemoteFailure, match="has a folder at"):
            await upload(disk, order(Bytes(b"one"), place.path))


async def test_an_account_that_is_not_there_is_a_refusal_in_words(
    open_backend: OpenBackend,
) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        assert await disk.accounts(None, None) == (None, None)
        if disk.posix:
            assert await disk.accounts("root", None) == (0, None)
            assert await disk.accounts("12", "34") == (12, 34)
        words = "knows no" if disk.posix else "has no owners"
        beyond = (str((1 << 32) - 1), str(1 << 32), "9" * 100)
        for asked in (
            ("nobody-of-that-name", None),
            (None, "nobody-of-that-name"),
            *((number, None) for number in beyond if disk.posix),
        ):
            with pytest.raises(RemoteFailure, match=words) as failed:
                await disk.accounts(*asked)
            assert failed.value.code is ErrorCode.TRANSFER


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
async def test_a_file_is_read_whole_and_from_any_place_on(
    open_backend: OpenBackend, size: int
) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place, data = RemoteFolder(backend), noise(size)
        file = await disk.open(place.put("big.log", data))
        for offset in (0, size // 2, size):
            pieces = [
                piece
                async for piece in read_pieces(file, offset, size + 10, disk.request_bytes, MIB)
            ]
            assert b"".join(pieces) == data[offset:]
        await file.close()


async def test_a_folder_is_found_whole_without_its_links(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        for name in ("log/a.log", "log/deep/er/b.log", "log/.hidden"):
            place.put(name, name.encode())
        place.link("log/link", "/etc/passwd")
        place.link("log/up", place.path)
        found = await find(disk, place.at("log"), FindLimits())
        assert [file.path for file in found] == [
            place.at(n) for n in ("log/.hidden", "log/a.log", "log/deep/er/b.log")
        ]
        assert [file.size for file in found] == [11, 9, 17]


async def test_a_pattern_finds_what_a_shell_would(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        for name in ("x/a.log", "x/b.log", "x/.c.log", "x/d.txt", "y/a.log", "z.log"):
            place.put(name, b"1")
        for pattern, names in (
            ("x/*.log", ["x/a.log", "x/b.log"]),
            ("*/a.log", ["x/a.log", "y/a.log"]),
            ("x/[ad].*", ["x/a.log", "x/d.txt"]),
            ("x/.*", ["x/.c.log"]),
            ("?.log", ["z.log"]),
        ):
            assert [file.path for file in await find(disk, place.at(pattern), FindLimits())] == [
                place.at(n) for n in names
            ]


async def test_a_name_with_a_pattern_in_it_is_found_by_itself(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        place.put("a[1].log", b"1")
        place.put("a1.log", b"2")
        assert [file.path for file in await find(disk, place.at("a[1].log"), FindLimits())] == [
            place.at("a[1].log")
        ]


@pytest.mark.parametrize("source", ["nothing", "*.none", "nowhere/*"])
async def test_nothing_found_is_a_failure(open_backend: OpenBackend, source: str) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        with pytest.raises(RemoteFailure, match="nothing to download") as failed:
            await find(disk, RemoteFolder(backend).at(source), FindLimits())
        assert failed.value.code is ErrorCode.TRANSFER


async def test_limits_end_a_search(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        place = RemoteFolder(backend)
        for n in range(5):
            place.put(f"log/{n}", b"12345")
        for limits, words in (
            (FindLimits(files=4), "more than 4 files"),
            (FindLimits(names=4), "more than 4 names"),
            (FindLimits(bytes=24), "more than 24 bytes"),
        ):
            with pytest.raises(RemoteFailure, match=words):
                await find(disk, place.at("log"), limits)
        assert len(await find(disk, place.at("log"), FindLimits(files=5, names=5, bytes=25))) == 5


async def test_what_is_no_file_is_not_read(open_backend: OpenBackend) -> None:
    async with open_backend() as backend, disk_of(backend) as disk:
        if backend.fake is not None:
            return
        os.mkfifo(backend.folder / "pipe")
        with pytest.raises(RemoteFailure, match="neither a file nor a folder"):
            await find(disk, str(backend.folder / "pipe"), FindLimits())


async def test_files_and_commands_go_over_one_session(open_backend: OpenBackend) -> None:
    async with (
        open_backend() as backend,
        backend.sessions.session(backend.endpoint) as session,
        session.disk() as disk,
    ):
        command = backend.script("true", [])
        process = await session.start(command)
        assert await upload(disk, order(Bytes(b"one"), RemoteFolder(backend).at("app.conf")))
        assert [piece async for piece in process]
