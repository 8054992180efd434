"""WinRM: commands and logins a second on one core, beside pypsrp in threads; and one file.

    PYTHONPATH=src:tests python bench/winrm.py [--seconds 3] [--mib 100]

The stand-in host runs in a process of its own, on the other core. It starts `/bin/sh` for each
command, so both clients wait for it; what is compared is the client.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import random
import resource
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan

from kit.windows_hosts import PASSWORD, USER, password_credential, windows_host
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.model.winrm import WinrmOptions
from opsjobs.remote.download import read_pieces
from opsjobs.remote.session import RemoteExit
from opsjobs.remote.upload import WINDOW_BYTES, FileAttributes, Upload, stage
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.standalone.lab.wsman.service import LabQuotas

THREADS = 32
AT_A_TIME = 5


def serve(port: Any) -> None:
    async def run() -> None:
        async with windows_host(quotas=LabQuotas(shells=1000)) as host:
            port.value = host.server.port
            await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


def endpoint(port: int, name: str = "win-1") -> Endpoint:
    target = Target(
        f"id-{name}",
        name,
        "127.0.0.1",
        port,
        Transport.WINRM,
        "windows",
        winrm=WinrmOptions(scheme="http"),
    )
    return Endpoint(target, password_credential())


class Rate(NamedTuple):
    """How often something is done a second, and the client's CPU in ms each time."""

    a_second: float
    cpu_ms: float


async def repeat(work: Callable[[int], Awaitable[None]], at_a_time: int, seconds: float) -> Rate:
    """How often it is done."""
    cpu = time.process_time()
    ends, count = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal count
        while time.monotonic() < ends:
            count += 1
            await work(count)

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(at_a_time)))
    spent = (time.process_time() - cpu) * 1000 / count
    return Rate(count / (time.monotonic() - began), spent)


async def ours(port: int, seconds: float) -> tuple[Rate, Rate]:
    """Commands on kept shells, and logins with a new shell and a command."""
    pool = WinrmPool(WinrmConnector())

    async def command(_: int) -> None:
        async with pool.session(endpoint(port)) as session:
            last = [piece async for piece in await session.start("exit 0")][-1]
            assert last == RemoteExit(0)

    async def login(number: int) -> None:
        found = endpoint(port, f"win-{number}")
        alone = WinrmPool(WinrmConnector())
        async with alone.session(replace(found)) as session:
            last = [piece async for piece in await session.start("exit 0")][-1]
            assert last == RemoteExit(0)
        await alone.close()

    await command(0)
    commands = await repeat(command, AT_A_TIME, seconds)
    logins = await repeat(login, THREADS, seconds)
    await pool.close()
    return commands, logins


@dataclass(frozen=True)
class Noise:
    """A source of so many bytes, made as they are read."""

    size: int
    piece: bytes = random.Random(1).randbytes(1 << 20)

    @property
    def sha256(self) -> bytes:
        digest = hashlib.sha256()
        for _ in range(self.size >> 20):
            digest.update(self.piece)
        return digest.digest()

    async def pieces(self, offset: int) -> AsyncIterator[bytes]:
        while offset < self.size:
            within = offset % len(self.piece)
            yield self.piece[within:]
            offset += len(self.piece) - within


async def file_both_ways(port: int, mib: int) -> None:
    """Upload and download one file; print the rates and the growth of this process."""
    pool, source = WinrmPool(WinrmConnector()), Noise(mib << 20)
    with tempfile.TemporaryDirectory(prefix="opsjobs-bench-") as folder:
        path = f"{folder}/file"
        async with pool.session(endpoint(port)) as session, session.disk() as disk:
            before, began = _peak_mib(), time.monotonic()
            order = Upload(source, path, FileAttributes(), "bench", lambda _: None)
            assert await stage(disk, order)
            await disk.replace(order.draft, path)
            up, digest = time.monotonic(), hashlib.sha256()
            file = await disk.open(path)
            async for piece in read_pieces(file, 0, source.size, disk.request_bytes, WINDOW_BYTES):
                digest.update(piece)
            down = time.monotonic()
            assert digest.digest() == source.sha256
        print(
            f"{mib} MiB: up {mib / (up - began):.0f} MiB/s with its hash, down "
            f"{mib / (down - up):.0f} MiB/s; {_peak_mib() - before} MiB more memory"
        )
    await pool.close()


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def pypsrp(port: int, seconds: float) -> tuple[Rate, Rate]:
    """The same with pypsrp in threads."""

    def connect() -> WSMan:
        return WSMan(
            "127.0.0.1",
            port=port,
            username=USER,
            password=PASSWORD,
            ssl=False,
            auth="negotiate",
            encryption="always",
        )

    def run(shell: WinRS) -> None:
        process = Process(shell, "exit 0")
        process.begin_invoke()
        process.send(b"", end=True)
        process.end_invoke()
        process.signal(SignalCode.TERMINATE)

    def commands(ends: float) -> int:
        count = 0
        with connect() as wsman, WinRS(wsman) as shell:
            while time.monotonic() < ends:
                run(shell)
                count += 1
        return count

    def logins(ends: float) -> int:
        count = 0
        while time.monotonic() < ends:
            with connect() as wsman, WinRS(wsman) as shell:
                run(shell)
            count += 1
        return count

    def rate(work: Callable[[float], int], threads: int) -> Rate:
        began, cpu = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            count = sum(pool.map(work, [began + seconds] * threads))
        spent = (time.process_time() - cpu) * 1000 / count
        return Rate(count / (time.monotonic() - began), spent)

    return rate(commands, AT_A_TIME), rate(logins, THREADS)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--mib", type=int, default=100)
    seconds, mib = options.parse_args().seconds, options.parse_args().mib
    warnings.simplefilter("ignore")
    port = multiprocessing.Value("i", 0)
    host = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    host.start()
    while port.value == 0:
        time.sleep(0.05)
    asyncio.run(file_both_ways(port.value, mib))
    found = asyncio.run(ours(port.value, seconds))
    theirs = pypsrp(port.value, seconds)
    names = ("commands on kept shells", "login, shell, command")
    for name, our, their in zip(names, found, theirs, strict=True):
        print(
            f"{name:24} {our.a_second:6.0f}/s {our.cpu_ms:6.2f} ms CPU   pypsrp "
            f"{their.a_second:6.0f}/s {their.cpu_ms:6.2f} ms CPU   "
            f"{our.a_second / their.a_second:4.1f} x the rate, "
            f"{their.cpu_ms / our.cpu_ms:4.1f} x for its CPU"
        )
    host.terminate()


if __name__ == "__main__":
    main()
