"""Files on a Windows host: faults between the client and its helper script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_powershell

from kit.windows_hosts import WindowsHost, until, windows_host
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.remote.disk import spell_path
from opsjobs.remote.download import FindLimits, find
from opsjobs.remote.session import Session
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.disk import LISTED_AT_ONCE, WinrmDisk
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.remote.winrm.programs import read_helper
from opsjobs.standalone.lab.wsman.service import LabQuotas


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[WindowsHost, Session]]:
    async with windows_host(**options) as host:
        pool = WinrmPool(WinrmConnector())
        try:
            async with pool.session(host.endpoint()) as session:
                yield host, session
        finally:
            await pool.close()


@pytest.mark.parametrize("name", ["run", "clean", "disk", "pipeline", "spool", "bootstrap"])
def test_the_helpers_are_powershell_for_an_independent_parser(name: str) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    tree = parser.parse(read_helper(name).encode())
    assert not tree.root_node.has_error


def test_a_path_is_spelled_with_slashes() -> None:
    class Here:
        posix = False

    here: Any = Here()
    assert spell_path(here, "C:\\Temp\\a b.txt") == "C:/Temp/a b.txt"
    here.posix = True
    assert spell_path(here, "/tmp/a\\b") == "/tmp/a\\b"


async def test_the_shell_of_a_disk_is_kept_for_the_next_command() -> None:
    async with opened() as (host, session):
        for _ in range(2):
            async with session.disk() as disk:
                assert (await disk.look("/")) is not None
        assert len(host.server.service.shells) == 1


async def test_a_helper_that_is_killed_is_a_broken_contact_and_not_a_refusal() -> None:
    async with opened() as (_, session), session.disk() as disk:
        assert isinstance(disk, WinrmDisk)
        await disk.look("/")
        await disk._channel._process.kill(0)
        with pytest.raises(RemoteFailure) as failed:
            await look_often(disk)
        assert failed.value.code is ErrorCode.CONNECTION_LOST


async def look_often(disk: WinrmDisk) -> None:
    for _ in range(100):
        await disk.look("/")


async def test_the_helper_ends_if_its_user_fails() -> None:
    async with opened() as (host, session):
        waiting = asyncio.create_task(hold_open(session))
        await until(lambda: host.server.service.shells)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await until(lambda: not any(s.commands for s in host.server.service.shells.values()))


async def hold_open(session: Session) -> None:
    async with session.disk() as disk:
        await disk.look("/")
        await asyncio.Event().wait()


async def write_often(session: Session, path: str, before: Callable[[], None]) -> None:
    async with session.disk() as disk:
        file = await disk.draft(path, must_be_new=True)
        before()
        await asyncio.gather(*(file.write(n, b"x") for n in range(100)))


async def test_a_long_folder_comes_in_pieces(tmp_path: Path) -> None:
    names = {f"file-{n}" for n in range(LISTED_AT_ONCE * 2 + 1)}
    for name in names:
        (tmp_path / name).touch()
    async with opened() as (_, session), session.disk() as disk:
        assert {entry.name async for entry in disk.list(str(tmp_path))} == names
        found = await find(disk, f"{tmp_path}/file-1?", FindLimits())
        assert [Path(file.path).name for file in found] == [f"file-1{n}" for n in range(10)]


@pytest.mark.parametrize("kib", [150, 500])
async def test_writes_fit_into_the_envelopes_of_the_host(kib: int, tmp_path: Path) -> None:
    data, path = bytes(range(256)) * 8192, str(tmp_path / "file")  # 2 MiB
    async with opened(quotas=LabQuotas(envelope_kib=kib)) as (host, session):
        async with session.disk() as disk:
            file = await disk.draft(path, must_be_new=True)
            size = disk.request_bytes
            writes = [file.write(at, data[at : at + size]) for at in range(0, len(data), size)]
            await asyncio.gather(*writes)
            await file.close()
            assert (await disk.open(path)) is not None
        assert Path(path).read_bytes() == data
        largest = host.server.service.largest_request_bytes
        assert kib * 512 < largest <= kib << 10


async def test_a_host_that_hides_its_configuration_gets_small_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with opened() as (host, session):
        host.server.faults.fault_before["Get"] = 5
        async with session.disk() as disk:
            file = await disk.draft(str(path), must_be_new=True)
            await asyncio.gather(*(file.write(n << 17, b"x" * (1 << 17)) for n in range(4)))
            await file.close()
        assert path.read_bytes() == b"x" * (4 << 17)
        assert host.server.service.largest_request_bytes <= 150 << 10


@pytest.mark.parametrize("action", ["Receive", "Send"])
@pytest.mark.parametrize("when", ["close_before", "close_after"])
async def test_a_broken_connection_ends_every_request(
    action: str, when: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "file")
    async with opened() as (host, session):
        faults = getattr(host.server.faults, when)
        with pytest.raises(RemoteFailure) as failed:
            await write_often(session, path, lambda: faults.update({action: 1}))
        assert failed.value.code is ErrorCode.CONNECTION_LOST
        async with session.disk() as disk:
            assert (await disk.look(path)) is not None


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo 'no such program' >&2; exit 9", "no such program"),
        ("exit 5", "it ended with 5"),
        ("printf 'Windows PowerShell\\r\\n'; sleep 20", "answers are not those of the helper"),
    ],
)
async def test_a_host_without_our_helper_says_so(program: str, words: str) -> None:
    async with opened() as (host, session):
        fake = host.folder / "programs" / "powershell.exe"
        fake.write_text(f"#!/bin/sh\n{program}\n")
        with pytest.raises(RemoteFailure) as failed:
            async with session.disk():
                pass
        assert words in failed.value.message


async def test_a_refusal_of_the_host_names_the_file_and_the_reason(tmp_path: Path) -> None:
    async with opened() as (_, session), session.disk() as disk:
        missing = f"{tmp_path}/missing/file"
        for work in (
            disk.open(missing),
            disk.draft(missing, must_be_new=True),
            disk.digest(missing),
            disk.replace(missing, f"{tmp_path}/other"),
        ):
            with pytest.raises(RemoteFailure, match="No such file") as failed:
                await work
            assert failed.value.code is ErrorCode.TRANSFER
        assert await disk.look(missing) is None
        await disk.remove(missing)


async def test_after_a_failure_every_further_request_fails_with_it() -> None:
    async with opened() as (host, session), session.disk() as disk:
        host.server.faults.close_before["Send"] = 1
        for _ in range(2):
            with pytest.raises(RemoteFailure) as failed:
                await disk.look("/")
            assert failed.value.code is ErrorCode.CONNECTION_LOST
