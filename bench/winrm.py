"""WinRM: rates on one core compared with pypsrp in threads, a file both ways, output and cancel.

    PYTHONPATH=src:tests python bench/winrm.py [--seconds 3] [--mib 100]

The stand-in host runs in a separate process, on any core. It starts `/bin/sh` for each command,
so both clients wait for it; what is compared is the client. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, NamedTuple
from uuid import uuid4

import uvloop
from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan

from kit.windows_hosts import PASSWORD, USER, password_credential, windows_host
from opsjobs.model.execution import CancelProof
from opsjobs.model.program import RunKey, StartOrder
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.model.winrm import WinrmOptions
from opsjobs.remote.download import read_pieces
from opsjobs.remote.session import Output, RemoteExit, RemoteProcess, Session
from opsjobs.remote.upload import WINDOW_BYTES, FileAttributes, Upload, stage
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool
from opsjobs.standalone.lab.wsman.service import LabQuotas

THREADS = 32
AT_A_TIME = 5
WARM_MIB = 10
GROWTH_MIB_MAX = 8
"""The memory that a large file may take beyond a small one."""
PIECES = 60
CANCELS = 10
TICKS = f"for i in $(seq {PIECES}); do date +%s%N; sleep 0.1; done"


@dataclass(slots=True)
class Seen:
    """The figures, each with its goal."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def add(self, what: str, value: float, goal: float, unit: str, *, least: bool = False) -> None:
        """Print and store one figure; `least`: the goal is a minimum."""
        met = value >= goal if least else value <= goal
        sign = "≥" if least else "≤"
        self.rows.append((what, f"{sign} {goal:g} {unit}", f"{value:.4g} {unit}", met))
        print(f"{'  ' if met else '!!'} {what}: {value:.4g} {unit}", flush=True)

    @property
    def met(self) -> bool:
        """Whether all goals were met."""
        return all(row[3] for row in self.rows)

    def table(self) -> str:
        """Return the figures as Markdown."""
        lines = [
            f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |"
            for what, goal, value, met in self.rows
        ]
        return "\n".join(["| what | goal | seen | met |", "|---|---|---|---|", *lines])


def serve(port: Any) -> None:
    async def run() -> None:
        async with windows_host(quotas=LabQuotas(shells=1000)) as host:
            port.value = host.server.port
            await asyncio.Event().wait()

    # uvloop starts processes by fork, which takes several times as long here as asyncio's vfork.
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
    """The rate of an operation per second, and the client's CPU per operation in ms."""

    a_second: float
    cpu_ms: float


async def repeat(work: Callable[[int], Awaitable[None]], at_a_time: int, seconds: float) -> Rate:
    """Return how often it is done."""
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
    """Measure commands on kept shells, and logins with a new shell and a command."""
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
    """A source of so many bytes, generated as they are read."""

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


async def file_both_ways(port: int, mib: int, seen: Seen) -> None:
    """Upload and download a small file, then a large one; check the growth of this process."""
    pool = WinrmPool(WinrmConnector())
    async with pool.session(endpoint(port)) as session, session.disk() as disk:
        await _transfer(disk, WARM_MIB)
        before = _peak_mib()
        up, down = await _transfer(disk, mib)
    print(f"   {mib} MiB, each with its hash: up {up:.0f} MiB/s, down {down:.0f} MiB/s")
    growth = f"memory for {mib} MiB both ways, beyond that for {WARM_MIB} MiB"
    seen.add(growth, _peak_mib() - before, GROWTH_MIB_MAX, "MiB")
    await pool.close()


async def _transfer(disk: Any, mib: int) -> tuple[float, float]:
    """Upload and download one file; return the rates. Its hash must match both ways."""
    source = Noise(mib << 20)
    with tempfile.TemporaryDirectory(prefix="opsjobs-bench-") as folder:
        path, began = f"{folder}/file", time.monotonic()
        order = Upload(source, path, FileAttributes(), "bench", lambda _: None)
        assert await stage(disk, order)
        await disk.replace(order.draft, path)
        up, digest = time.monotonic(), hashlib.sha256()
        file = await disk.open(path)
        async for piece in read_pieces(file, 0, source.size, disk.request_bytes, WINDOW_BYTES):
            digest.update(piece)
        down = time.monotonic()
        assert digest.digest() == source.sha256
    return mib / (up - began), mib / (down - up)


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


async def delays(port: int, seen: Seen) -> None:
    """Check the delay of output and the time of cancels, for both kinds of runs."""
    pool = WinrmPool(WinrmConnector())
    async with pool.session(endpoint(port)) as session:
        direct, durable = _direct(session), await _durable(session)
        for kind, start in (("direct", direct), ("durable", durable)):
            late = await _lateness(await start(TICKS))
            print(
                f"   output of a {kind} command: half of {len(late)} within {median(late):.0f} ms"
            )
            seen.add(f"slowest piece of output, {kind} command", max(late), 300, "ms")
            spent = [await _cancel(await start("echo up; sleep 600")) for _ in range(CANCELS)]
            what = f"slowest of {CANCELS} cancels while Receive hangs, {kind} command"
            seen.add(what, max(spent), 1000, "ms")
    await pool.close()


Start = Callable[[str], Awaitable[RemoteProcess]]


def _direct(session: Session) -> Start:
    return session.start


async def _durable(session: Session) -> Start:
    durable = session.durable()
    assert durable is not None
    identity = await durable.identity()

    async def start(command: str) -> RemoteProcess:
        order = StartOrder(RunKey(uuid4(), "step-1", 1), command, 3600.0)
        return await durable.begin(order, identity)

    return start


async def _lateness(process: RemoteProcess) -> list[float]:
    """Return how many ms after it was written each line arrived."""
    found, rest = [], b""
    async for piece in process:
        now = time.time_ns()
        if isinstance(piece, Output):
            *lines, rest = (rest + piece.data).split(b"\n")
            found += [(now - int(line)) / 1e6 for line in lines]
    assert len(found) == PIECES
    return found


async def _cancel(process: RemoteProcess) -> float:
    """Return how many ms a cancel takes once the host holds a request for output."""
    await anext(aiter(process))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    assert await process.kill(5.0) is CancelProof.KILLED
    spent = (time.monotonic() - began) * 1000
    await process.close()
    return spent


def pypsrp(port: int, seconds: float) -> tuple[Rate, Rate]:
    """Measure the same with pypsrp in threads."""

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


def compare(port: int, seconds: float, seen: Seen) -> None:
    """Check the rates of this client, and their ratio to those of pypsrp."""
    found = uvloop.run(ours(port, seconds))
    theirs = pypsrp(port, seconds)
    for what, goal, our, their in zip(
        ("commands on kept shells", "connect, login, shell and command"),
        (500, 300),
        found,
        theirs,
        strict=True,
    ):
        print(
            f"   {what}: {our.cpu_ms:.2f} ms CPU each; pypsrp {their.a_second:.0f}/s, "
            f"{their.cpu_ms:.2f} ms"
        )
        seen.add(what, our.a_second, goal, "/s", least=True)
        ratio = our.a_second / their.a_second
        seen.add(f"{what}, compared with pypsrp in threads", ratio, 2, "x", least=True)


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--mib", type=int, default=100)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    port = multiprocessing.Value("i", 0)
    host = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    host.start()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for the client
    while port.value == 0:
        time.sleep(0.05)
    seen = Seen()
    uvloop.run(file_both_ways(port.value, given.mib, seen))
    compare(port.value, given.seconds, seen)
    uvloop.run(delays(port.value, seen))
    host.terminate()
    print(f"\n{seen.table()}")
    return 0 if seen.met else 1


if __name__ == "__main__":
    sys.exit(main())
