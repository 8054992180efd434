"""Bare asyncssh in a process of its own: the ceiling. Takes orders on standard input, answers each with a line of JSON.

Arguments: the key file, and a file of JSON machines. Orders: `cold N`, `warm N`: `echo ok` on every machine, N at a time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import asyncssh


async def fan_out(machines: list[dict], user: str, key: asyncssh.SSHKey, parallel: int, held: dict[str, asyncssh.SSHClientConnection]) -> dict:
    """One round; the connections that `held` has are used, others are made and kept there."""
    room = asyncio.Semaphore(parallel)
    bad: list[str] = []

    async def one(machine: dict) -> None:
        async with room:
            connection = held.get(machine["host"])
            if connection is None:
                known = asyncssh.import_known_hosts(f"[{machine['host']}]:{machine['port']} {machine['host_key']}\n")
                connection = held[machine["host"]] = await asyncssh.connect(
                    machine["host"], machine["port"], username=user, client_keys=[key], known_hosts=known, config=None, agent_path=None
                )
            answer = await connection.run("echo ok", encoding=None)
            if answer.exit_status != 0 or answer.stdout != b"ok\n":
                bad.append(machine["host"])

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(machine) for machine in machines))
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "bad": bad}


async def let_go(held: dict[str, asyncssh.SSHClientConnection]) -> None:
    """Close all and wait until the machines have noticed."""
    for connection in held.values():
        connection.close()
    await asyncio.gather(*(connection.wait_closed() for connection in held.values()))
    held.clear()


async def serve(key_file: str, machine_file: str) -> None:
    """Until standard input ends."""
    plan = json.loads(Path(machine_file).read_text())
    key = asyncssh.read_private_key(key_file)
    held: dict[str, asyncssh.SSHClientConnection] = {}
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        kind, _, number = order.strip().partition(" ")
        if kind in ("cold", "close"):
            await let_go(held)
        answer = {} if kind == "close" else await fan_out(plan["machines"], plan["user"], key, int(number), held)
        print(json.dumps(answer), flush=True)
    await let_go(held)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:3]))
