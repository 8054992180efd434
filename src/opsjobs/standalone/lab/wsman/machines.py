"""The process of the stand-in Windows hosts: one WinRM port per host, only on 127.0.0.1.

Run as `python -m opsjobs.standalone.lab.wsman.machines FOLDER COUNT`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine, machine_names
from opsjobs.standalone.lab.machines import (
    allow_open_files,
    open_listeners,
    watch_children_by_descriptor,
)
from opsjobs.standalone.lab.wsman.server import LabLogins, WsmanServer, publish_logins

USER = "lab"
PREFIX = "lab-win"


async def start_hosts(path: Path, count: int) -> list[WsmanServer]:
    """Listen on all ports, the previous ones if they are free, and write the record.

    Raises Unavailable.
    """
    folder = LabFolder(path)
    allow_open_files()
    logins = LabLogins({USER: _load_password(folder.password)}, schemes=("Negotiate",))
    publish_logins(logins, path / "logins")
    names = machine_names(count, PREFIX)
    servers, machines = [], []
    for name, listener in zip(names, open_listeners(names, folder.ports()), strict=True):
        server = WsmanServer(logins, folder.home(name))
        await server.start(listener)
        servers.append(server)
        machines.append(Machine(name, server.port))
    folder.write(LabRecord(os.getpid(), USER, "", tuple(machines)))
    return servers


def _load_password(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


async def serve(path: Path, count: int) -> None:
    """Run the hosts until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    servers = await start_hosts(path, count)
    await ended.wait()
    for server in servers:
        await server.stop()


if __name__ == "__main__":
    watch_children_by_descriptor()
    Path(sys.argv[1]).mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
