"""Files over a network that breaks in the middle: ledger, worker, OpenSSH and SFTP are real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engine.harness import Harness, harness
from engine.test_transfers import MIB, artifacts, get, noise, put, stored
from kit.backing_servers import open_folder
from kit.machines import endpoint_of
from kit.sshd import Sshd, sshd
from kit.tcp_proxy import Cut, Proxy, proxy
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.target import Endpoint
from opsjobs.remote.ssh.connect import Connector
from opsjobs.remote.ssh.pool import SshPool
from opsjobs.store.transaction import Database

MACHINES = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as running:
        yield running


@dataclass(frozen=True, slots=True)
class Net:
    """A harness of real machines, each behind a network of its own; all of them see one folder."""

    on: Harness
    pool: SshPool
    ways: Sequence[Proxy]
    folder: Path

    def break_each_after(self, size_bytes: int, *, answers: bool = False) -> None:
        """Break every machine's connection once, after so many bytes to it (or from it)."""
        for way in self.ways:
            way.faults.cut = Cut(size_bytes, answers)

    @property
    def cuts_left(self) -> int:
        """The number of connections that have not broken yet."""
        return sum(way.faults.cut is not None for way in self.ways)


@asynccontextmanager
async def net(database: Database, server: Sshd) -> AsyncIterator[Net]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        folder.chmod(0o777)
        # First, so that it is closed last: proxies and their connections are tasks, and it counts
        # the tasks that are left.
        on = await stack.enter_async_context(harness(database))
        ways = [
            await stack.enter_async_context(proxy(server.host, server.port))
            for _ in range(MACHINES)
        ]
        pool = SshPool(Connector())
        stack.push_async_callback(pool.close)
        where = endpoint_of(server)

        async def endpoints(target_ids: Sequence[str]) -> dict[str, Endpoint]:
            near = {i: ways[int(i) - 1] for i in target_ids}
            changes = {
                i: {"id": i, "name": f"web-{i}", "host": way.host, "port": way.port}
                for i, way in near.items()
            }
            return {
                i: replace(where, target=replace(where.target, **changes[i])) for i in target_ids
            }  # type: ignore[arg-type]

        on.targets.endpoints = endpoints  # type: ignore[method-assign]
        yield Net(on, pool, ways, folder)


async def test_a_file_comes_to_every_machine_although_each_connection_breaks(
    database: Database, server: Sshd
) -> None:
    async with net(database, server) as at, at.on.worker(sessions=at.pool):
        data = noise(12 * MIB)
        file = await stored(at.on, data)
        at.break_each_after(6 * MIB)
        names = [f"web-{n}" for n in range(1, MACHINES + 1)]
        started = [await at.on.launch([put(file, f"{at.folder}/{name}")], [name]) for name in names]
        for execution in started:
            done = await at.on.ended(execution, 60)
            assert done.status is ExecutionStatus.COMPLETED, await at.on.results(done)
        assert at.cuts_left == 0
        assert sorted(path.name for path in at.folder.iterdir()) == names
        assert all((at.folder / name).read_bytes() == data for name in names)
        assert at.on.chunks.reads == 12


async def test_files_come_from_every_machine_although_each_connection_breaks(
    database: Database, server: Sshd
) -> None:
    async with net(database, server) as at, at.on.worker(sessions=at.pool):
        data = noise(12 * MIB, 5)
        (at.folder / "big.log").write_bytes(data)
        (at.folder / "small.log").write_bytes(b"small")
        at.break_each_after(6 * MIB, answers=True)
        done = await at.on.ended(await at.on.launch([get(f"{at.folder}/*.log")], MACHINES), 60)
        assert done.status is ExecutionStatus.COMPLETED, await at.on.results(done)
        assert at.cuts_left == 0
        expected = {
            (n, name): body
            for n in range(1, MACHINES + 1)
            for name, body in (("big", data), ("small", b"small"))
        }
        assert await artifacts(at.on, done) == {
            f"web-{n}:{at.folder}/{name}.log": body for (n, name), body in expected.items()
        }
