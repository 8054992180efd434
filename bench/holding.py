"""The order protocol of the peers that hold connections: `cold N`, `warm N`, `close`, each answered by a line of JSON.

A round is `echo ok` on every machine, N at a time; `cold` lets go of all connections first. Not imported: started by peers.py
as `python holding.py asyncssh|parallel-ssh KEY_FILE MACHINES.json`, so that each peer's CPU can be told from ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

COMMAND = "echo ok"


class Fleet(Protocol):
    """A library under test."""

    def round(self, parallel: int) -> list[str]:
        """Run the command everywhere; the hosts that did not say ok."""

    def close(self) -> None:
        """Let go of every connection."""


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
                return None if answer.exit_status == 0 and answer.stdout == b"ok\n" else machine["host"]

        answers = await asyncio.gather(*(one(machine) for machine in self._plan["machines"]))
        return [host for host in answers if host is not None]

    async def _connect(self, machine: dict[str, Any]) -> Any:
        known = self._asyncssh.import_known_hosts(f"[{machine['host']}]:{machine['port']} {machine['host_key']}\n")
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
            hosts, host_config=each, user=self._plan["user"], pkey=self._key_file, pool_size=parallel, allow_agent=False
        )


FLEETS = {"asyncssh": Asyncssh, "parallel-ssh": ParallelSsh}


def serve(kind: str, key_file: str, machine_file: str) -> None:
    """Until standard input ends."""
    fleet: Fleet = FLEETS[kind](json.loads(Path(machine_file).read_text()), key_file)
    for order in sys.stdin:
        word, _, number = order.strip().partition(" ")
        if word != "warm":
            fleet.close()
        answer: dict[str, Any] = {"seconds": 0.0, "cpu": 0.0, "bad": []}
        if word != "close":
            began, cpu = time.perf_counter(), time.process_time()
            bad = fleet.round(int(number))
            answer = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "bad": bad}
        print(json.dumps(answer), flush=True)
    fleet.close()


if __name__ == "__main__":
    serve(*sys.argv[1:4])
