"""The order protocol of the peers that hold connections: `cold N`, `warm N`, `close`, each with a line of JSON as response.

A round is `echo ok` on every machine, N at a time; `cold` closes all connections first. Not imported: started by peers.py
as `python holding.py asyncssh|parallel-ssh KEY_FILE MACHINES.json`, so that each peer's CPU can be measured apart from that of opsjobs.

`.venv/bin/python bench/holding.py memory [HANDSHAKES]` is another measurement: so many cold handshakes through a worker's own
pool, to 2,000 targets in turn with at most 1,000 connections open, against a light server in a process of its own. It prints the
resident memory before, at its maximum and when all connections are closed, and the longest pauses of the loop and of the collector.
Exit code 1 if it misses a goal: at most +100 MB, +30 MB when idle, no pause of the collector over 200 ms.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

COMMAND = "echo ok"


class Fleet(Protocol):
    """A library under test."""

    def round(self, parallel: int) -> list[str]:
        """Run the command everywhere; return the hosts that did not print ok."""

    def close(self) -> None:
        """Close every connection."""


class Asyncssh:
    """Bare asyncssh, the ceiling: its defaults, host keys pinned, no configuration file, no agent."""

    def __init__(self, plan: dict[str, Any], key_file: str) -> None:
        import asyncssh  # noqa: PLC0415  only one of the two libraries is installed

        self._asyncssh = asyncssh
        self._plan = plan
        self._key = asyncssh.read_private_key(key_file)
        self._held: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()

    def round(self, parallel: int) -> list[str]:
        return self._loop.run_until_complete(self._round(parallel))

    def close(self) -> None:
        self._loop.run_until_complete(self._close())

    async def _round(self, parallel: int) -> list[str]:
        room = asyncio.Semaphore(parallel)

        async def one(machine: dict[str, Any]) -> str | None:
            async with room:
                connection = self._held.get(machine["host"]) or await self._connect(machine)
                answer = await connection.run(COMMAND, encoding=None)
                return (
                    None
                    if answer.exit_status == 0 and answer.stdout == b"ok\n"
                    else machine["host"]
                )

        answers = await asyncio.gather(*(one(machine) for machine in self._plan["machines"]))
        return [host for host in answers if host is not None]

    async def _connect(self, machine: dict[str, Any]) -> Any:
        known = self._asyncssh.import_known_hosts(
            f"[{machine['host']}]:{machine['port']} {machine['host_key']}\n"
        )
        self._held[machine["host"]] = connection = await self._asyncssh.connect(
            machine["host"],
            machine["port"],
            username=self._plan["user"],
            client_keys=[self._key],
            known_hosts=known,
            config=None,
            agent_path=None,
        )
        return connection

    async def _close(self) -> None:
        for connection in self._held.values():
            connection.close()
        await asyncio.gather(*(connection.wait_closed() for connection in self._held.values()))
        self._held.clear()


class ParallelSsh:
    """parallel-ssh; it does not check host keys."""

    def __init__(self, plan: dict[str, Any], key_file: str) -> None:
        self._plan = plan
        self._key_file = key_file
        self._client: Any = None
        self._parallel = 0

    def round(self, parallel: int) -> list[str]:
        if self._client is None or self._parallel != parallel:
            self._client, self._parallel = self._new(parallel), parallel
        bad = []
        for answer in self._client.run_command(COMMAND, stop_on_errors=False):
            said = list(answer.stdout or ())
            if said != ["ok"] or answer.exit_code != 0:
                bad.append(answer.host)
        return bad

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect() if hasattr(self._client, "disconnect") else None
        self._client = None

    def _new(self, parallel: int) -> Any:
        from pssh.clients import ParallelSSHClient  # noqa: PLC0415  only one of the two libraries is installed
        from pssh.config import HostConfig  # noqa: PLC0415  likewise

        machines = self._plan["machines"]
        each = [HostConfig(port=machine["port"]) for machine in machines]
        hosts = [machine["host"] for machine in machines]
        return ParallelSSHClient(
            hosts,
            host_config=each,
            user=self._plan["user"],
            pkey=self._key_file,
            pool_size=parallel,
            allow_agent=False,
        )


FLEETS: dict[str, Callable[[dict[str, Any], str], Fleet]] = {
    "asyncssh": Asyncssh,
    "parallel-ssh": ParallelSsh,
}


def serve(kind: str, key_file: str, machine_file: str) -> None:
    """Serve until standard input ends."""
    fleet: Fleet = FLEETS[kind](json.loads(Path(machine_file).read_text()), key_file)
    for order in sys.stdin:
        word, _, number = order.strip().partition(" ")
        if word != "warm":
            fleet.close()
        answer: dict[str, Any] = {"seconds": 0.0, "cpu": 0.0, "bad": []}
        if word != "close":
            began, cpu = time.perf_counter(), time.process_time()
            bad = fleet.round(int(number))
            answer = {
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "bad": bad,
            }
        print(json.dumps(answer), flush=True)
    fleet.close()


TARGETS = 2_000
AT_ONCE = 100
IDLE_SECONDS = 10.0
PEAK_MB, IDLE_MB, PAUSE_SECONDS = 100.0, 30.0, 0.2


async def light_server() -> None:
    """Run an SSH server that accepts every login and prints `hi`; print its port and host key."""
    import asyncssh  # noqa: PLC0415  as above

    class Open(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:  # noqa: ARG002  whoever it is
            return False

    def greet(process: Any) -> None:
        process.stdout.write("hi\n")
        process.exit(0)

    key = asyncssh.generate_private_key("ssh-ed25519")
    options: Any = {"server_host_keys": [key], "process_factory": greet, "line_editor": False}
    server = await asyncssh.create_server(Open, "127.0.0.1", 0, **options)
    print(server.get_port(), key.export_public_key().decode().strip(), flush=True)
    await asyncio.Event().wait()


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


class Pauses:
    """The longest block of the loop, in time and in CPU, and the longest garbage collection, in CPU."""

    def __init__(self) -> None:
        self.loop = self.loop_cpu = self.collector = 0.0
        self.collections = 0
        self._began = 0.0
        gc.callbacks.append(self._collected)

    def _collected(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
            return
        self.collections += 1
        self.collector = max(self.collector, time.thread_time() - self._began)

    async def watch(self) -> None:
        """Watch until cancelled."""
        while True:
            began, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.005)
            self.loop = max(self.loop, time.monotonic() - began - 0.005)
            self.loop_cpu = max(self.loop_cpu, time.thread_time() - cpu)


class KeptElsewhere:
    """Circuits as in a worker: stored outside this process."""

    async def ask(self, asks: Any) -> Any:
        """Allow every login."""
        from opsjobs.model.circuit import Circuit, Right  # noqa: PLC0415  peers have no opsjobs

        return [(Right.FREE, Circuit(ask.login)) for ask in asks]

    async def report(self, reports: Any) -> Any:
        """Change nothing."""
        return [None for _ in reports]

    async def watch(self, held: Any) -> Any:  # noqa: ARG002  all are well
        """Report no open circuit."""
        return set()


async def shake_hands(handshakes: int, port: int, host_key: str) -> bool:
    """Measure the handshakes; return whether all goals were met."""
    import asyncssh  # noqa: PLC0415  as above

    from opsjobs.composition.process import give_back, spare_the_collector  # noqa: PLC0415
    from opsjobs.model.credential import Credential, CredentialType  # noqa: PLC0415  as above
    from opsjobs.model.secret import Secret  # noqa: PLC0415
    from opsjobs.model.target import Endpoint, Target, Transport  # noqa: PLC0415
    from opsjobs.remote.circuit_breaker import Breaker  # noqa: PLC0415
    from opsjobs.remote.ssh.connect import Connector  # noqa: PLC0415
    from opsjobs.remote.ssh.pool import PoolLimits, SshPool  # noqa: PLC0415

    key = Secret(asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
    login = Credential("1", 1, "login", CredentialType.SSH_KEY, "deploy", private_key=key)
    limits = PoolLimits(
        handshakes_per_host=AT_ONCE, handshakes_a_second=0, idle_seconds=IDLE_SECONDS
    )
    pool = SshPool(Connector(), limits, breaker=Breaker(KeptElsewhere()))
    pauses, peak, done = Pauses(), 0.0, 0

    async def work() -> None:
        nonlocal done, peak
        while done < handshakes:
            done += 1
            nth = done
            name = f"web-{nth % TARGETS}"
            target = Target(name, name, "127.0.0.1", port, Transport.SSH, host_keys=(host_key,))
            async with pool.session(Endpoint(target, login)) as session:
                async for _ in await session.start("echo hi"):
                    pass
            peak = max(peak, resident_mb())
            if nth % 5_000 == 0:
                print(
                    f"{nth:6}  {resident_mb():6.0f} MB  {time.monotonic() - began:5.0f} s",
                    flush=True,
                )

    spare_the_collector()
    base, began, cpu = resident_mb(), time.monotonic(), time.process_time()
    watching = asyncio.create_task(pauses.watch())
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    cpu = time.process_time() - cpu
    while pool.connections:
        await asyncio.sleep(0.1)
    await give_back()
    idle = resident_mb()
    watching.cancel()
    await pool.close()
    print(
        f"{handshakes} handshakes in {time.monotonic() - began:.0f} s, {cpu / handshakes * 1000:.1f} ms of CPU each"
    )
    print(
        f"memory: {base:.0f} MB before, +{peak - base:.0f} MB at most, +{idle - base:.0f} MB when idle"
    )
    print(
        f"longest pause: loop {pauses.loop * 1000:.0f} ms ({pauses.loop_cpu * 1000:.0f} ms of CPU), ",
        end="",
    )
    print(f"collector {pauses.collector * 1000:.0f} ms of CPU in {pauses.collections} collections")
    return peak - base <= PEAK_MB and idle - base <= IDLE_MB and pauses.collector <= PAUSE_SECONDS


def memory(handshakes: int) -> int:
    """Run the measurement; return the exit code."""
    import uvloop  # noqa: PLC0415  as in a worker

    server = subprocess.Popen(
        [sys.executable, __file__, "light-server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port, host_key = server.stdout.readline().strip().split(" ", 1)
        return 0 if uvloop.run(shake_hands(handshakes, int(port), host_key)) else 1
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["memory", *more]:
            sys.exit(memory(int(more[0]) if more else 50_000))
        case ["light-server"]:
            asyncio.run(light_server())
        case _:
            serve(*sys.argv[1:4])
