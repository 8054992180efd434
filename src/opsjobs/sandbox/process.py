"""One checking process, seen from the process that asks it.

It is started, asked, and killed if it does not answer in time.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import opsjobs
from opsjobs.model.errors import Unavailable
from opsjobs.model.safety_verdict import Finding
from opsjobs.sandbox import protocol

START_SECONDS = 30.0
ANSWER_SECONDS = 8.0
"""Wall clock time for an answer.

The process itself exits after 2 s of CPU time; this limit is for a process that is stopped, or
gets no CPU.
"""
ENDING_SECONDS = 2.0
TIME, MEMORY, CRASH = "time", "memory", "crash"
_REASONS = {-signal.SIGPROF: TIME, -signal.SIGABRT: MEMORY}
"""Reasons by the exit status of the process. A grammar that gets no memory aborts."""
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_DETAIL = "The safety check cannot run now: try again in a minute."


class Failed(Exception):
    """No answer arrived. `reason`: TIME, MEMORY or CRASH; the process has exited."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class JudgeProcess:
    """A checking process. Calls block: for threads, not an event loop. One question at a time."""

    def __init__(self) -> None:
        """Start it, and wait until it has loaded its rules. Raises Unavailable."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "opsjobs.sandbox.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                bufsize=0,
            )
        except OSError as refused:
            raise Unavailable(
                f"the process that checks texts cannot be started: {refused}", detail=_DETAIL
            ) from refused
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        try:
            self._read(time.monotonic() + START_SECONDS)
        except (Failed, protocol.Malformed) as failed:
            status = self.end()
            raise Unavailable(
                f"the process that checks texts ended at its start: {failed}, status {status}",
                detail=_DETAIL,
            ) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, body: bytes, seconds: float = ANSWER_SECONDS) -> tuple[tuple[Finding, ...], bool]:
        """Return the findings, and whether the process exits after them. Raises Failed."""
        until = time.monotonic() + seconds
        try:
            self._write(protocol.framed(body), until)
            found, leaves = protocol.decode_answer(self._read(until))
        except protocol.Malformed:
            self.end()
            raise Failed(CRASH) from None
        except Failed as failed:
            status = self.end()
            raise Failed(_REASONS.get(status or 0, failed.reason)) from None
        if isinstance(found, str):
            self.end()
            raise Failed(found)
        return found, leaves

    @property
    def has_ended(self) -> bool:
        """True if the process has exited, for example because it was killed."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill it, from a thread other than the asking one, which gets Failed."""
        self._process.kill()

    def end(self) -> int | None:
        """End it, even if it is busy, and return its exit status."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        # A process that exits closes its output shortly before its status can be read: wait for it.
        status = _waited(process, ENDING_SECONDS if self._is_at_its_end() else 0.0)
        if status is None:
            process.kill()
            status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return status

    def _is_at_its_end(self) -> bool:
        try:
            return self._process.poll() is not None or os.read(self._out, 1) == b""
        except (OSError, ValueError):
            return False

    def _write(self, data: bytes, until: float) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                self._wait(until, to_write=True)
            except (BrokenPipeError, ValueError):
                raise Failed(CRASH) from None

    def _read(self, until: float) -> bytes:
        return self._exactly(protocol.length_of(self._exactly(protocol.HEADER.size, until)), until)

    def _exactly(self, count: int, until: float) -> bytes:
        found = b""
        while len(found) < count:
            try:
                piece = os.read(self._out, count - len(found))
            except BlockingIOError:
                self._wait(until, to_write=False)
                continue
            if not piece:
                raise Failed(CRASH)
            found += piece
        return found

    def _wait(self, until: float, *, to_write: bool) -> None:
        """Wait for the pipe. Raises Failed when the time is up.

        `poll` has no upper limit of descriptor numbers.
        """
        pipe, event = (self._in, select.POLLOUT) if to_write else (self._out, select.POLLIN)
        waiting = select.poll()
        waiting.register(pipe, event)
        left = until - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1_000):
            raise Failed(TIME)


def _waited(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _environment() -> dict[str, str]:
    """Return the environment of the process, without this process's own, which has secrets.

    It holds the path of this package, the encoding, and the variables that an interpreter may need
    to start.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(Path(opsjobs.__file__).parents[1]), "LANG": "C.UTF-8"}
