"""Compare fan-out over our pool with bare asyncssh on the same sshd in the same run.

Run it with `python -m kit.fanout [targets] [parallel]`.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import asyncssh

from kit.machines import endpoint_of
from kit.sshd import Sshd, sshd
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool

ROUNDS = 3
COMMAND, ANSWER = "echo ok", b"ok\n"
Figure = tuple[float, float]
"""Targets per second, and CPU time of this process in milliseconds per target."""


async def fan_out(
    one: Callable[[Endpoint], Awaitable[None]], targets: Sequence[Endpoint], parallel: int
) -> Figure:
    """Run it on all targets, so many at a time."""
    left = iter(targets)

    async def work() -> None:
        for target in left:
            await one(target)

    started, cpu_before = time.perf_counter(), _cpu_seconds()
    await asyncio.gather(*(work() for _ in range(parallel)))
    count = len(targets)
    return count / (time.perf_counter() - started), (_cpu_seconds() - cpu_before) / count * 1000


class Bare:
    """Fan-out with asyncssh alone."""

    def __init__(self, server: Sshd) -> None:
        self._user = server.user
        self._key = asyncssh.import_private_key(server.private_key)
        self._known = ([asyncssh.import_public_key(line) for line in server.host_keys], [], [])
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}

    async def run(self, where: Endpoint) -> None:
        """Run the command; connect if there is no connection yet."""
        target = where.target
        if target.name not in self._connections:
            self._connections[target.name] = await asyncssh.connect(
                target.host,
                target.port,
                username=self._user,
                client_keys=[self._key],
                known_hosts=self._known,
                config=None,
                agent_path=None,
            )
        result = await self._connections[target.name].run(COMMAND, encoding=None)
        assert result.stdout == ANSWER

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
            await connection.wait_closed()


class Ours:
    """Fan-out with the pool."""

    def __init__(self) -> None:
        self._pool = SshPool(Connector())

    async def run(self, where: Endpoint) -> None:
        """Run the command over the pool."""
        async with self._pool.session(where) as session:
            process = await session.start(COMMAND)
            heard = [piece.data async for piece in process if isinstance(piece, Output)]
        assert b"".join(heard) == ANSWER

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


async def compare(server: Sshd, targets: int, parallel: int) -> dict[str, Figure]:
    """Return the median figures of both, cold and warm, measured in turns."""
    where = [
        endpoint_of(server, name=f"m{n}", host=f"127.0.{1 + n // 250}.{1 + n % 250}")
        for n in range(targets)
    ]
    figures: dict[str, list[Figure]] = defaultdict(list)
    for _ in range(ROUNDS):
        ways = {"bare": Bare(server), "ours": Ours()}
        for name, way in ways.items():
            figures[f"{name} cold"].append(await fan_out(way.run, where, parallel))
        for _ in range(ROUNDS):
            for name, way in ways.items():
                figures[f"{name} warm"].append(await fan_out(way.run, where * 3, parallel))
        for way in ways.values():
            await way.close()
    return {
        name: (statistics.median(f[0] for f in all_), statistics.median(f[1] for f in all_))
        for name, all_ in figures.items()
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(targets: int = 200, parallel: int = 50) -> None:
    """Measure and print."""
    with sshd(addresses=("0.0.0.0",)) as server:
        figures = asyncio.run(compare(server, targets, parallel))
    for name, (rate, cpu_ms) in sorted(figures.items()):
        sys.stdout.write(f"{name}: {rate:.0f} targets/s, {cpu_ms:.2f} ms of client CPU a target\n")
    for kind in ("cold", "warm"):
        sys.stdout.write(
            f"{kind}: {figures[f'ours {kind}'][0] / figures[f'bare {kind}'][0]:.3f} of bare asyncssh\n"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
