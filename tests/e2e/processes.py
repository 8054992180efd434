"""Processes of the service that tests kill, freeze and watch, and waits for conditions."""

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
# Each look costs the service and its machines resources: the longer a wait lasts, the rarer they
# are.
LOOK_SECONDS_FIRST, LOOK_SECONDS_LAST = 0.02, 0.25

Json = dict[str, Any]


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Wait until it is true. Raises AssertionError if that takes too long."""
    ends, pause, never = time.monotonic() + seconds, LOOK_SECONDS_FIRST, threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        never.wait(pause)
        pause = min(pause * 1.25, LOOK_SECONDS_LAST)


@dataclass(slots=True)
class Latch:
    """A pipe that commands wait to read, until the test opens it.

    They end when the test lets them, however slow the machine is, and use no CPU before.
    """

    path: Path
    _opened: int | None = None

    def __post_init__(self) -> None:
        os.mkfifo(self.path)
        self.path.chmod(0o644)

    @property
    def wait(self) -> str:
        """Return shell code that continues once it is open.

        A pipe without a writer cannot be opened; the reader sleeps.
        """
        return f": <{self.path}"

    def open(self) -> None:
        """Let them continue, and later ones, too."""
        self._opened = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Remove it: no command waits any more."""
        if self._opened is not None:
            os.close(self._opened)


def still_running(*marks: str) -> list[int]:
    """Return processes of this machine with a mark.

    All targets are this machine; the mark is in the command line (direct commands) or environment.
    """
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
        """True if it runs, or is frozen."""
        return self.process.poll() is None

    @property
    def title(self) -> str:
        """The name of a worker in the database."""
        return f"{socket.gethostname()}-{self.process.pid}"

    def kill(self) -> None:
        """Kill it at once, like a power cut."""
        self.process.kill()
        self.process.wait(SECONDS)

    def end(self, how: signal.Signals = signal.SIGTERM, seconds: float = SECONDS) -> int:
        """Terminate it; return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(seconds)

    def freeze(self) -> None:
        """Freeze it: it does nothing, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it continue, without knowing that time has passed."""
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
        """The largest memory that it ever had (VmHWM), since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

    def forget_peak(self) -> None:
        """Count the peak from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
