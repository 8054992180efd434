"""WinRM: rates on one core compared with pypsrp in threads, a file both ways, output and cancel.

    PYTHONPATH=src:tests python bench/winrm.py [--seconds 3] [--mib 100]

The client has one core; the stand-in host runs in a separate process on the other cores. For the
rates with goals the host answers the line `echo ok` itself, without starting a process, so that the
client is measured: a real host is another machine, which starts the command on its own CPU. The
rate with `/bin/sh` for each command is printed without a goal. Both clients use the same host in
the same run. Each rate is shown with the CPU of both sides per operation, so that the limiting side
is visible. Exit code 1 if a goal is missed.
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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
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
from opsjobs.standalone.lab.machines import watch_children_by_descriptor
from opsjobs.standalone.lab.wsman.service import LabQuotas

THREADS = 32
AT_A_TIME = 5
WARM_MIB = 10
GROWTH_MIB_MAX = 8
"""The memory that a large file may take beyond a small one."""
PIECES = 60
CANCELS = 10
ANSWERED = "echo ok"
"""A line that the host answers without a process."""
STARTED = f"{ANSWERED};"
"""The same one for /bin/sh."""
OUTPUT = b"ok\n"
TICKS = f"for i in $(seq {PIECES}); do date +%s%N; sleep 0.1; done"


@dataclass(slots=True)
class Seen:
    """The figures, each with its goal."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(
        self, what: str, value: float, goal: float, unit: str, *, least: bool = False, cpu: str = ""
    ) -> None:
        """Print and store one figure; `least`: the goal is a minimum; `cpu`: that of each side."""
        met = value >= goal if least else value <= goal
        sign = "≥" if least else "≤"
        verdict = "yes" if met else "**no**"
        self.rows.append((what, f"{sign} {goal:g} {unit}", f"{value:.4g} {unit}", verdict, cpu))
        beside = f" ({cpu})" if cpu else ""
        print(f"{'  ' if met else '!!'} {what}: {value:.4g} {unit}{beside}", flush=True)

    @property
    def met(self) -> bool:
        """Whether all goals were met."""
        return all(row[3] == "yes" for row in self.rows)

    def table(self) -> str:
        """Return the figures as Markdown."""
        head = ("what", "goal", "seen", "met", "CPU of each side")
        lines = [head, ("---",) * len(head), *self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)


@dataclass(frozen=True, slots=True)
class Host:
    """The process of the stand-in host."""

    port: int
    pid: int

    def cpu(self) -> float:
        """Return the seconds of CPU that it and its ended commands have used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def serve(port: Any, cores: set[int]) -> None:
    async def run() -> None:
        async with windows_host(quotas=LabQuotas(shells=1000)) as host:
            host.server.service.answers[ANSWERED] = (OUTPUT, 0)
            port.value = host.server.port
            await asyncio.Event().wait()

    os.sched_setaffinity(0, cores)
    watch_children_by_descriptor()
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
    """The rate of an operation per second, and the CPU of client and host per operation in ms."""

    a_second: float
    client_ms: float
    host_ms: float

    def __str__(self) -> str:
        return f"client {self.client_ms:.2f} ms, host {self.host_ms:.2f} ms"


class Meter:
    """Measure the rate of an operation from now on."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._began, self._cpu, self._of_host = time.monotonic(), time.process_time(), host.cpu()

    def read(self, count: int) -> Rate:
        """Return the rate, given the number of operations."""
        spent, of_host = time.process_time() - self._cpu, self._host.cpu() - self._of_host
        seconds = time.monotonic() - self._began
        return Rate(count / seconds, spent * 1000 / count, of_host * 1000 / count)


async def repeat(
    work: Callable[[int], Awaitable[None]], host: Host, at_a_time: int, seconds: float
) -> Rate:
    """Return how often it is done."""
    ends, count = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal count
        while time.monotonic() < ends:
            count += 1
            await work(count)

    meter = Meter(host)
    await asyncio.gather(*(one() for _ in range(at_a_time)))
    return meter.read(count)


async def run(session: Session, line: str) -> None:
    *pieces, end = [piece async for piece in await session.start(line)]
    assert end == RemoteExit(0), end
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Output)) == OUTPUT


async def ours(host: Host, seconds: float) -> list[Rate]:
    """Measure commands on kept shells, logins with a new shell, and commands of /bin/sh."""
    pool = WinrmPool(WinrmConnector())

    kept = endpoint(host.port)

    async def command(_: int, line: str) -> None:
        async with pool.session(kept) as session:
            await run(session, line)

    async def login(number: int) -> None:
        alone = WinrmPool(WinrmConnector())
        async with alone.session(endpoint(host.port, f"win-{number}")) as session:
            await run(session, ANSWERED)
        await alone.close()

    await command(0, ANSWERED)
    found = [
        await repeat(partial(command, line=ANSWERED), host, AT_A_TIME, seconds),
        await repeat(login, host, THREADS, seconds),
        await repeat(partial(command, line=STARTED), host, AT_A_TIME, seconds),
    ]
    await pool.close()
    return found


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


def pypsrp(host: Host, seconds: float) -> list[Rate]:
    """Measure the same with pypsrp in threads."""

    def connect() -> WSMan:
        return WSMan(
            "127.0.0.1",
            port=host.port,
            username=USER,
            password=PASSWORD,
            ssl=False,
            auth="negotiate",
            encryption="always",
        )

    def execute(shell: WinRS, line: str) -> None:
        process = Process(shell, line)
        process.begin_invoke()
        process.send(b"", end=True)
        process.end_invoke()
        process.signal(SignalCode.TERMINATE)
        assert (process.rc, process.stdout) == (0, OUTPUT)

    def commands(ends: float, line: str) -> int:
        count = 0
        with connect() as wsman, WinRS(wsman) as shell:
            while time.monotonic() < ends:
                execute(shell, line)
                count += 1
        return count

    def logins(ends: float) -> int:
        count = 0
        while time.monotonic() < ends:
            with connect() as wsman, WinRS(wsman) as shell:
                execute(shell, ANSWERED)
            count += 1
        return count

    def rate(work: Callable[[float], int], threads: int) -> Rate:
        meter = Meter(host)
        with ThreadPoolExecutor(threads) as pool:
            return meter.read(sum(pool.map(work, [time.monotonic() + seconds] * threads)))

    return [
        rate(partial(commands, line=ANSWERED), AT_A_TIME),
        rate(logins, THREADS),
        rate(partial(commands, line=STARTED), AT_A_TIME),
    ]


def compare(host: Host, seconds: float, seen: Seen) -> None:
    """Check the rates of this client, and their ratio to those of pypsrp."""
    *found, shell = uvloop.run(ours(host, seconds))
    *theirs, their_shell = pypsrp(host, seconds)
    for what, goal, our, their in zip(
        ("commands on kept shells", "connect, login, shell and command"),
        (500, 300),
        found,
        theirs,
        strict=True,
    ):
        seen.add(what, our.a_second, goal, "/s", least=True, cpu=str(our))
        ratio, beside = our.a_second / their.a_second, f"pypsrp {their.a_second:.0f}/s: {their}"
        seen.add(f"{what}, compared with pypsrp in threads", ratio, 2, "x", least=True, cpu=beside)
    print(
        f"   commands on kept shells that start /bin/sh: {shell.a_second:.0f}/s ({shell}); "
        f"pypsrp {their_shell.a_second:.0f}/s ({their_shell})"
    )


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--mib", type=int, default=100)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    cores = os.sched_getaffinity(0)
    ours_alone = {max(cores)}
    port = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(
        target=serve, args=(port, cores - ours_alone or cores), daemon=True
    )
    process.start()
    os.sched_setaffinity(0, ours_alone)
    while port.value == 0:
        time.sleep(0.05)
    assert process.pid is not None
    host, seen = Host(port.value, process.pid), Seen()
    uvloop.run(file_both_ways(host.port, given.mib, seen))
    compare(host, given.seconds, seen)
    uvloop.run(delays(host.port, seen))
    process.terminate()
    print(f"\n{seen.table()}")
    return 0 if seen.met else 1


if __name__ == "__main__":
    sys.exit(main())
