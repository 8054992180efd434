"""Stand-in Windows hosts, each at an address of its own, all in one process that can be killed.

Run as `python -m chaos.windows FOLDER ADDRESS ...`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e.processes import wait_until
from kit.windows_hosts import PASSWORD, USER
from opsjobs.standalone.lab.wsman.server import LabLogins, WsmanServer, publish_logins
from opsjobs.standalone.spawn import bare_environment, spawn

PORT = 5985
LOGIN = {"type": "password", "username": USER, "password": PASSWORD}


class WindowsHosts:
    """The hosts; their programs continue when their process is killed.

    A restarted WinRM service behaves the same way.
    """

    def __init__(self, addresses: Sequence[str], folder: Path) -> None:
        self.addresses = list(addresses)
        self._folder = folder
        self._log = folder / "windows.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start to listen."""
        command = [sys.executable, "-m", "chaos.windows", str(self._folder), *self.addresses]
        environment = {**bare_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = spawn(command, log=self._log, environment=environment)
        wait_until(self._listen, f"the Windows hosts listen: {self._log}")

    def _listen(self) -> bool:
        for address in self.addresses:
            with socket.socket() as tried:
                if tried.connect_ex((address, PORT)) != 0:
                    return False
        return True

    def kill(self) -> None:
        """Kill it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def heal(self) -> None:
        """Restore what was taken away."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def processes(self) -> dict[int, str]:
        """Return the processes of durable runs on these hosts, each with the run's key."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"HOME={self._folder}/".encode() in b"\0".join(environment):
                for variable in environment:
                    if variable.startswith(b"OPSJOBS_RUN="):
                        found[int(entry.name)] = variable[12:].decode()
        return found


async def serve(folder: Path, addresses: Sequence[str]) -> None:
    """Run the hosts until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    logins = LabLogins({USER: PASSWORD})
    publish_logins(logins, folder / "logins")
    for address in addresses:
        place = folder / address
        place.mkdir(exist_ok=True)
        await WsmanServer(logins, place).start(socket.create_server((address, PORT)))
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2:]))
