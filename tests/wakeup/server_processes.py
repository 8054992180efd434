"""Real processes, and a Redis of the test that can be stopped, frozen and restarted."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from kit import backing_servers
from opsjobs import bus
from opsjobs.standalone.valkey import Valkey

LINE_SECONDS_MAX = 60.0
SOURCE = Path(__file__).parents[2] / "src"


class Hosted:
    """`hosted.py` as a process; its lines can be waited for."""

    def __init__(self, *arguments: str, cwd: Path | None = None) -> None:
        self.lines: list[str] = []
        self._arrived: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hosted.py")), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._arrived.put(line.rstrip("\n"))
        self._arrived.put(None)

    def wait_for(self, start: str, seconds: float = LINE_SECONDS_MAX) -> str:
        """Return the next line that begins with `start` or contains it.

        Raises AssertionError if none arrives in time.
        """
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            try:
                line = self._arrived.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
            if start in line:
                return line
        raise AssertionError(
            f"no line with {start!r} within {seconds} s; there were:\n" + "\n".join(self.lines)
        )

    def lines_within(self, start: str, seconds: float) -> list[str]:
        """Return all lines with `start` that arrive within the time."""
        found = []
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            try:
                found.append(self.wait_for(start, left))
            except AssertionError:
                break
        return found

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal and wait; return the exit code and the seconds."""
        began = time.monotonic()
        self.process.send_signal(how)
        code = self.process.wait(90)
        return code, time.monotonic() - began

    def rest(self) -> list[str]:
        """Return all lines until the end, after the process has ended."""
        self._reader.join(60)
        while (line := self._arrived.get(timeout=60)) is not None:
            self.lines.append(line)
        return self.lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def own_redis() -> Iterator[Valkey]:
    """A running Valkey of this test, for `freeze` and `thaw`."""
    with backing_servers.open_folder() as folder:
        server = backing_servers.make_valkey(folder)
        server.start()
        try:
            yield server
        finally:
            if server.running:
                thaw(server)
            server.stop(2)


def give_redis_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the bus wait for answers of a Redis that is well, however loaded the machine is."""
    for limit in ("ANSWER_SECONDS_MAX", "SUBSCRIBE_SECONDS_MAX"):
        monkeypatch.setattr(bus, limit, 30.0)


def freeze(server: Valkey) -> None:
    """Freeze it: it accepts connections and does not respond."""
    assert server.process
    server.process.send_signal(signal.SIGSTOP)


def thaw(server: Valkey) -> None:
    """Let it continue."""
    assert server.process
    server.process.send_signal(signal.SIGCONT)


def until(condition: object, seconds: float = 60.0) -> None:
    """Wait until `condition()` is true. Raises AssertionError if it is not in time."""
    assert callable(condition)
    ends = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError("it did not come true in time")
        pause.wait(0.01)
