"""Output of any size is exact, and needs no memory while it waits."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import time
from pathlib import Path

from kit.backing_servers import open_folder
from kit.command_runs import read_to_end, run
from kit.machines import endpoint_of, local_endpoint
from kit.sshd import Sshd
from opsjobs.model.execution import CancelProof
from opsjobs.model.target import Endpoint
from opsjobs.remote.local import LocalSessions
from opsjobs.remote.session import Output, RemoteExit, Sessions
from remote.conftest import pool

MIB = 1 << 20
# More than ten times the allowed growth of the process. (A whole gigabyte goes through the service
# in tests/e2e/test_output.py.)
FLOOD_BYTES = 200_000_000


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_50_mib_come_back_exactly(server: Sshd, tmp_path: Path) -> None:
    async with pool() as sessions:
        command = "head -c 52428800 /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2>/dev/null"
        seen, count = hashlib.sha256(), 0
        async with sessions.session(endpoint_of(server)) as session:
            async for piece in await session.start(command):
                if isinstance(piece, Output):
                    seen.update(piece.data)
                    count += len(piece.data)
        expected, _, _ = await run(sessions, endpoint_of(server), f"{command} | sha256sum")
        assert count == 50 * MIB
        assert seen.hexdigest() == expected.decode().split()[0]


async def flood(sessions: Sessions, where: Endpoint, size_bytes: int) -> tuple[int, int]:
    """Read a flood; return its size, and the growth of the process."""
    before, most, count, pieces = rss_bytes(), 0, 0, 0
    async with sessions.session(where) as session:
        async for piece in await session.start(f"head -c {size_bytes} /dev/zero"):
            if isinstance(piece, Output):
                count += len(piece.data)
                pieces += 1
                if pieces % 100 == 0:
                    most = max(most, rss_bytes())
    return count, most - before


async def test_a_flood_of_200_mb_over_ssh_costs_no_memory(server: Sshd) -> None:
    async with pool() as sessions:
        count, grown = await flood(sessions, endpoint_of(server), FLOOD_BYTES)
        assert count == FLOOD_BYTES
        assert grown < 16 * MIB


async def test_a_flood_of_200_mb_on_this_machine_costs_no_memory() -> None:
    count, grown = await flood(LocalSessions(), local_endpoint(), FLOOD_BYTES)
    assert count == FLOOD_BYTES
    assert grown < 16 * MIB


async def test_a_flood_that_nobody_reads_waits_on_the_target(server: Sshd) -> None:
    async with pool() as sessions:
        await run(sessions, endpoint_of(server), "true")
        for place, where in ((sessions, endpoint_of(server)), (LocalSessions(), local_endpoint())):
            before = rss_bytes()
            async with place.session(where) as session:  # type: ignore[attr-defined]
                process = await session.start("yes")
                pieces = aiter(process)
                await anext(pieces)
                deadline = time.monotonic() + 1.0
                while time.monotonic() < deadline:
                    await asyncio.sleep(0.05)
                assert rss_bytes() - before < 8 * MIB
                assert await process.kill(1.0) is CancelProof.KILLED
                # The output in flight can still be read, and it is not much.
                left = 0
                async for piece in pieces:
                    left += len(piece.data) if isinstance(piece, Output) else 0
                assert left < MIB


async def test_a_slow_reader_gets_everything(server: Sshd) -> None:
    async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
        count = 0
        async for piece in await session.start("head -c 3000000 /dev/zero; echo end >&2; exit 9"):
            if isinstance(piece, RemoteExit):
                assert piece == RemoteExit(9)
            else:
                count += len(piece.data)
                await asyncio.sleep(0.001)
        assert count == 3_000_004


async def test_two_streams_interleave_in_the_order_of_arrival(server: Sshd) -> None:
    with open_folder() as folder:
        folder.chmod(0o755)
        until = [f"until [ -e {folder}/{n} ]; do sleep 0.05; done" for n in (1, 2)]
        command = f"echo 1; {until[0]}; echo 2 >&2; {until[1]}; echo 3"
        order = []
        async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
            async for piece in await session.start(command):
                if isinstance(piece, Output):
                    order.append((piece.stream, piece.data))
                    (folder / f"{len(order)}").touch()
        assert order == [("stdout", b"1\n"), ("stderr", b"2\n"), ("stdout", b"3\n")]


async def test_output_of_a_login_script_is_output_too(server: Sshd) -> None:
    async with pool() as sessions, sessions.session(endpoint_of(server)) as session:
        process = await session.start("echo opsjobs:notamark; echo ok")
        assert (await read_to_end(process))[0] == b"opsjobs:notamark\nok\n"
