"""`opsjobs up` as a user runs it: real processes, and commands against them."""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kit.command_server import run_command

START_SECONDS = 120
COMMAND_SECONDS = 120
POLL_SECONDS = 0.5
"""The pause between two tries of a command."""
OPSJOBS = [sys.executable, "-m", "opsjobs"]
_OUTSIDE = ("DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEYS", "METRICS_PORT", "OPSJOBS_")


class UpProcess:
    """A running `opsjobs up` on `data`, with its output."""

    def __init__(
        self,
        data: Path,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        before: Sequence[str],
    ) -> None:
        self.data = data
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OUTSIDE)}
        self.environment = {
            **inherited,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OPSJOBS_DATA_DIR": str(data),
            **settings,
        }
        self.output: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*before, *OPSJOBS, "up", "--port", "0", *arguments],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        threading.Thread(target=self._read, args=[self.process.stdout], daemon=True).start()

    def expect(self, words: str, seconds: float = START_SECONDS) -> str:
        """Return the next line of output that contains these words."""
        deadline = time.monotonic() + seconds
        while (line := self._lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            self.output.append(line)
            if words in line:
                return line
        raise AssertionError(f"it ended without the output {words!r}: {self.output}")

    def run(self, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run an `opsjobs` command against it."""
        if not before and arguments[0] != "up":
            done = run_command(arguments, self.environment, seconds=COMMAND_SECONDS)
            out, err = done.stdout.decode(), done.stderr.decode()
            return subprocess.CompletedProcess(done.args, done.returncode, out, err)
        return subprocess.run(
            [*before, *OPSJOBS, *arguments],
            env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip

    def run_until_it_works(self, *arguments: str) -> str:
        """Repeat the command until it succeeds, such as during a restart; return its output."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while (done := self.run(*arguments)).returncode and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def children(self) -> dict[str, int]:
        """Return its processes by name: api, worker, scheduler, postgres, valkey, lab."""
        return {_name(line): pid for pid, line in _children(self.process.pid)}

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send the signal; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(COMMAND_SECONDS)

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


@contextmanager
def opsjobs_up(
    data: Path,
    *arguments: str,
    settings: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> Iterator[UpProcess]:
    """Start a service and yield it once it is ready; end it after the block, by force if needed.

    `before` is put before the command (`unshare …`).
    """
    found = UpProcess(data, arguments, settings or {}, before)
    try:
        found.expect("next, in another terminal")
        yield found
    finally:
        try:
            found.stop()
        except subprocess.TimeoutExpired:
            found.process.kill()
            found.process.wait()


@contextmanager
def watched_processes(pids: Sequence[int]) -> Iterator[list[int]]:
    """Return handles with which `wait_for_ends` sees the end of processes of other parents."""
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        yield handles
    finally:
        for handle in handles:
            os.close(handle)


def wait_for_ends(handles: Sequence[int], seconds: float = 60) -> None:
    """Return when all of them have ended. Raises AssertionError if one stays alive."""
    deadline = time.monotonic() + seconds
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000), "a process lives on"


def _children(parent: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and status[0] != "Z":
                found.append(
                    (
                        int(folder.name),
                        (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(),
                    )
                )
        except OSError:
            continue
    return found


def _name(line: str) -> str:
    words = (
        "opsjobs api",
        "opsjobs worker",
        "opsjobs scheduler",
        "opsjobs.standalone.lab.machines",
        "valkey-server",
        "postgres -D",
    )
    word = next((w for w in words if w in line), line)
    return (
        word.replace("opsjobs ", "")
        .replace("opsjobs.standalone.lab.machines", "lab")
        .replace("-server", "")
        .replace(" -D", "")
    )
