"""The process of the lab: one SSH server per machine and port, only on 127.0.0.1.

Run as `python -m opsjobs.standalone.lab.machines FOLDER COUNT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from opsjobs.model.errors import Unavailable
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine, machine_names
from opsjobs.standalone.lab.session import LabSession

ADDRESS = "127.0.0.1"
FIRST_PORT = 20_022
LAST_PORT = 32_767  # above this are the ports that the kernel assigns to clients
HANDSHAKES_WAITING = 256


class Lab:
    """The machines lab-1 … lab-N, with the keys and ports of one folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = LabFolder(folder)
        self._names = machine_names(count)
        self._servers: list[asyncssh.SSHAcceptor] = []

    async def start(self) -> LabRecord:
        """Listen on all ports, the previous ones if they are free, and write the record.

        Raises Unavailable.
        """
        self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        allow_open_files()
        host_key, client_key = _load_key(self._folder.host_key), _load_key(self._folder.client_key)
        user = pwd.getpwuid(os.geteuid()).pw_name
        options = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[host_key],
            public_key_auth=True,
            password_auth=False,
            kbdint_auth=False,
            allow_pty=False,
            agent_forwarding=False,
            encoding=None,
            login_timeout=30,
            keepalive_interval=0,
        )
        machines = []
        for name, listener in zip(
            self._names, open_listeners(self._names, self._folder.ports()), strict=True
        ):
            machines.append(Machine(name, listener.getsockname()[1]))
            self._servers.append(
                await self._listen(
                    name, listener, _AcceptedLogin(user, client_key.public_data), options
                )
            )
        record = LabRecord(
            os.getpid(), user, host_key.export_public_key().decode().strip(), tuple(machines)
        )
        self._folder.write(record)
        return record

    async def stop(self) -> None:
        """Close all ports."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _listen(
        self,
        name: str,
        listener: socket.socket,
        guests: _AcceptedLogin,
        options: asyncssh.SSHServerConnectionOptions,
    ) -> asyncssh.SSHAcceptor:
        home = self._folder.home(name)
        return await asyncssh.listen(
            sock=listener,
            server_factory=lambda: _LabServer(name, home, guests),
            options=options,
        )


@dataclass(frozen=True, slots=True)
class _AcceptedLogin:
    """The accepted login: the user that the lab runs as, with the lab's own key."""

    user: str
    public_key: bytes


class _LabServer(asyncssh.SSHServer):
    """One connection to one machine."""

    def __init__(self, machine: str, home: Path, guests: _AcceptedLogin) -> None:
        self._machine = machine
        self._home = home
        self._guests = guests

    def public_key_auth_supported(self) -> bool:
        """Return True: a public key is the only way to log in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Return True for the lab's user and key; asyncssh then checks the proof."""
        return username == self._guests.user and key.public_data == self._guests.public_key

    def session_requested(self) -> LabSession:
        """Open a session channel."""
        return LabSession(self._machine, self._home)


async def serve(folder: Path, count: int) -> None:
    """Run the lab until SIGTERM or SIGINT."""
    lab = Lab(folder, count)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await lab.start()
    await ended.wait()
    await lab.stop()


def watch_children_by_descriptor() -> None:
    """On Python 3.11, make asyncio use pidfd rather than start a thread for each process."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        watcher = asyncio.PidfdChildWatcher()
        asyncio.set_child_watcher(watcher)


def _load_key(path: Path) -> asyncssh.SSHKey:
    if not path.exists():
        making = path.with_suffix(".making")
        making.unlink(missing_ok=True)
        asyncssh.generate_private_key(
            "ssh-ed25519", comment=f"opsjobs lab {path.name}"
        ).write_private_key(making)
        making.chmod(0o600)
        making.rename(path)
    return asyncssh.read_private_key(path)


def open_listeners(names: list[str], wanted: dict[str, int]) -> list[socket.socket]:
    """Return a listening socket for each name, on its wanted port if that is free.

    Raises Unavailable.
    """
    found: list[socket.socket] = []
    free = (port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in wanted.values())
    for name in names:
        listener = _bind(wanted[name]) if name in wanted else None
        while listener is None:
            port = next(free, None)
            if port is None:
                raise Unavailable(
                    f"The lab finds no free port for {name} between {FIRST_PORT} and {LAST_PORT} "
                    f"on {ADDRESS}."
                )
            listener = _bind(port)
        found.append(listener)
    return found


def _bind(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(HANDSHAKES_WAITING)
    except OSError:
        listener.close()
        return None
    return listener


def allow_open_files() -> None:
    """Raise the limit of open files: a machine needs a port, and each command three pipes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    watch_children_by_descriptor()
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
