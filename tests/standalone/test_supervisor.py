"""Processes are kept alive, cleaned up after their death, and ended in order."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opsjobs.model.errors import Unavailable
from opsjobs.standalone.spawn import spawn
from opsjobs.standalone.supervisor import SupervisedProcess, Supervisor

SECONDS = 60.0
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()",
]


class RecordedCommand:
    """Starts a command whenever it is requested, and records each start."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.log = folder / "it.log"
        self.command = command
        self.starts: queue.Queue[subprocess.Popen[bytes]] = queue.Queue()

    def start(self) -> subprocess.Popen[bytes]:
        process = spawn(self.command, log=self.log, environment=dict(os.environ))
        self.starts.put(process)
        return process


@contextmanager
def supervised(
    start: Callable[[], subprocess.Popen[bytes]], **chosen: object
) -> Iterator[tuple[Supervisor, list[str]]]:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    supervisor.start([SupervisedProcess("it", start, **chosen)])  # type: ignore[arg-type]
    try:
        yield supervisor, said
    finally:
        supervisor.stop()


def test_a_dead_process_is_reported_and_restarted(tmp_path: Path) -> None:
    watched = RecordedCommand(tmp_path, ["/bin/sleep", "600"])
    mourned: queue.Queue[int] = queue.Queue()
    with supervised(watched.start, died=mourned.put) as (_, said):
        first = watched.starts.get(timeout=SECONDS)
        first.kill()
        assert mourned.get(timeout=SECONDS) == first.pid
        second = watched.starts.get(timeout=SECONDS)
        assert second.pid != first.pid
        assert said[0] == f"it (process {first.pid}) ended by SIGKILL: starting it again"


def test_a_failed_restart_is_retried(tmp_path: Path) -> None:
    watched = RecordedCommand(tmp_path, ["/bin/sleep", "600"])
    refusals: list[Unavailable] = []

    def start() -> subprocess.Popen[bytes]:
        if refusals:
            raise refusals.pop()
        return watched.start()

    with supervised(start) as (_, said):
        refusals += [Unavailable("no room"), Unavailable("no room")]
        watched.starts.get(timeout=SECONDS).kill()
        watched.starts.get(timeout=SECONDS)
        assert said[1:3] == ["it does not start: no room"] * 2


def test_a_failed_first_start_is_raised() -> None:
    def start() -> subprocess.Popen[bytes]:
        raise Unavailable("nothing there")

    with pytest.raises(Unavailable, match="nothing there"), supervised(start):
        pass


def test_a_process_that_ignores_signals_is_killed(tmp_path: Path) -> None:
    watched = RecordedCommand(tmp_path, STUBBORN)
    with supervised(watched.start, signals=[(signal.SIGTERM, 0.3), (signal.SIGKILL, SECONDS)]) as (
        supervisor,
        said,
    ):
        process = watched.starts.get(timeout=SECONDS)
        until_first_line(watched.log)
        supervisor.stop()
        assert process.returncode == -signal.SIGKILL
        assert said == ["it does not end on SIGTERM"]


def test_hurry_skips_the_remaining_grace(tmp_path: Path) -> None:
    watched = RecordedCommand(tmp_path, STUBBORN)
    with supervised(
        watched.start, signals=[(signal.SIGTERM, 600.0), (signal.SIGKILL, SECONDS)]
    ) as (supervisor, _):
        process = watched.starts.get(timeout=SECONDS)
        until_first_line(watched.log)
        before = signal.signal(signal.SIGALRM, lambda *_: supervisor.hurry())
        # Again and again: what comes before the stop has begun does nothing.
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            supervisor.stop()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert process.returncode == -signal.SIGKILL


def until_first_line(log: Path) -> None:
    """Wait until the process has written its first line."""
    with subprocess.Popen(
        ["/usr/bin/tail", "-n", "+1", "-f", str(log)], stdout=subprocess.PIPE
    ) as tail:
        assert tail.stdout is not None
        tail.stdout.readline()
        tail.kill()
