"""Processes of the service, to be killed, frozen and looked at, and waiting for what is to come true."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 90.0
# Looking costs the service and its machines what they need themselves: of what takes longer, it is done less often.
LOOK_SECONDS_FIRST, LOOK_SECONDS_LAST = 0.02, 0.25

Json = dict[str, Any]


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until it holds; AssertionError where it does not in time."""
    ends, pause, never = time.monotonic() + seconds, LOOK_SECONDS_FIRST, threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        never.wait(pause)
        pause = min(pause * 1.25, LOOK_SECONDS_LAST)


@dataclass(slots=True)
class Latch:
    """A pipe that commands wait to read: they end when the test says so, however slow the machine is, and cost nothing before."""

    path: Path
    _opened: int | None = None

    def __post_init__(self) -> None:
        os.mkfifo(self.path)
        self.path.chmod(0o644)

    @property
    def wait(self) -> str:
        """Shell that goes on once it is open: a pipe without a writer cannot be opened, and whoever tries sleeps."""
        return f": <{self.path}"

    def open(self) -> None:
        """Let them go on, and whoever comes later."""
        self._opened = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Nobody waits any more."""
        if self._opened is not None:
            os.close(self._opened)


def still_running(*marks: str) -> list[int]:
    """Processes of this machine, which all targets are, with a mark in their command line (direct commands) or environment."""
    found, wanted = [], [mark.encode() for mark in marks]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(mark in line for mark in wanted):
            found.append(int(folder.name))
    return found


@dataclass
class ServiceProcess:
    """One process of the service."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    frozen: bool = False

    @property
    def alive(self) -> bool:
        """It runs, or could."""
        return self.process.poll() is None

    @property
    def title(self) -> str:
        """The name under which a worker is on record."""
        return f"{socket.gethostname()}-{self.process.pid}"

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self.process.kill()
        self.process.wait(SECONDS)

    def end(self, how: signal.Signals = signal.SIGTERM, seconds: float = SECONDS) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(seconds)

    def freeze(self) -> None:
        """Stop its clock, so to say: it does nothing, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """It goes on, not knowing that time has passed."""
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def said(self, event: str) -> list[Json]:
        """Its log lines of this event."""
        text = self.log.read_text(errors="replace")
        # The last line may still be on its way.
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = (line for line in whole if line.startswith("{"))
        return [told for line in lines if (told := json.loads(line)).get("event") == event]

    def peak_kib(self) -> int:
        """The most memory that it ever held (VmHWM), since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

    def forget_peak(self) -> None:
        """From now on the peak is counted again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
