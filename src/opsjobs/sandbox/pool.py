"""A few checking processes, started when they are needed and ended when they are idle."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import opsjobs
from opsjobs.model.errors import Unavailable
from opsjobs.model.safety_verdict import UNJUDGED, Finding, SafetyVerdict
from opsjobs.safety import TEXT_BYTES_MAX, SafetyQuestion, excerpt_of
from opsjobs.sandbox import protocol
from opsjobs.telemetry.logs import log

PROCESSES_MAX = 2
QUEUE_MAX = 256
CHECKS_MAX = 16
"""The most waiting requests of users to check a text.

They share one process, so that another one stays free for launches.
"""
IDLE_SECONDS = 300.0
TRIES = 2
"""Attempts for one text.

A process may also be killed from outside, or because the host is out of memory: one crash does not
show that the text is the cause.
"""
FAILURES_KEPT = 1_000
FAILURE_SECONDS = 600.0
START_SECONDS = 30.0
ANSWER_SECONDS = 8.0
"""Wall clock time for an answer.

The process itself exits after 2 s of CPU time; this limit is for a process that is stopped, or
gets no CPU.
"""
ENDING_SECONDS = 2.0
TIME, MEMORY, CRASH = "time", "memory", "crash"
_STATUS_REASONS = {-signal.SIGPROF: TIME, -signal.SIGABRT: MEMORY}
"""Reasons by the exit status of the process. A grammar that gets no memory aborts."""
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_DETAIL = "The safety check cannot run now: try again in a minute."
_REASONS = {
    TIME: "Checking it takes more time than one text may take.",
    MEMORY: "Checking it takes more memory than one text may take.",
    CRASH: "Checking it crashed the process that checks texts.",
}


class SafetyCheckPool:
    """The safety check as an asynchronous function.

    A text that cannot be checked gets a finding that requires an approval.
    """

    def __init__(
        self, failed: Callable[[str], None] = lambda _: None, *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """Create the pool without starting a process.

        `failed` is called with the reason for each text that could not be checked.
        """
        self._failed = failed
        self._idle_seconds = idle_seconds
        self._threads = ThreadPoolExecutor(PROCESSES_MAX, thread_name_prefix="opsjobs-safety-check")
        self._processes = _Processes()
        self._lock = threading.Lock()
        self._asking: dict[bytes, Future[tuple[Finding, ...]]] = {}
        self._checks = 0
        self._one_check = asyncio.Semaphore(1)
        self._failures: OrderedDict[bytes, tuple[float, Finding]] = OrderedDict()
        self._retiring: asyncio.TimerHandle | None = None
        # Even if the pool is never closed, no process is left behind.
        self._finalizer = weakref.finalize(self, self._processes.close)

    async def check(self, question: SafetyQuestion) -> tuple[Finding, ...]:
        """Return the findings for this text. Raises Unavailable if it cannot be checked now."""
        digest = question.digest
        if (failure := self._remembered(digest)) is not None:
            return (failure,)
        try:
            # A caller that gives up does not stop the check: the next one with the same text
            # waits for it, or gets the answer.
            return await asyncio.shield(asyncio.wrap_future(self._submitted(question, digest)))
        finally:
            self._retire_later()

    def _submitted(self, question: SafetyQuestion, digest: bytes) -> Future[tuple[Finding, ...]]:
        with self._lock:
            if (asking := self._asking.get(digest)) is not None:
                return asking
            if len(self._asking) >= QUEUE_MAX:
                raise Unavailable(
                    f"{QUEUE_MAX} texts wait to be checked",
                    detail="The safety check is busy: try again in a second.",
                )
            asking = self._asking[digest] = self._threads.submit(self._ask, question, digest)
        asking.add_done_callback(lambda _: self._forget_question(digest))
        return asking

    def _forget_question(self, digest: bytes) -> None:
        with self._lock:
            self._asking.pop(digest, None)

    async def check_for_user(self, question: SafetyQuestion) -> tuple[Finding, ...]:
        """Check a text for a user, after all other questions. Raises Unavailable."""
        if self._checks >= CHECKS_MAX:
            raise Unavailable(
                f"{CHECKS_MAX} texts wait to be checked",
                detail="The safety check is busy: try again in a second.",
            )
        self._checks += 1
        try:
            async with self._one_check:
                return await self.check(question)
        finally:
            self._checks -= 1

    def pids(self) -> list[int]:
        """Return the process ids of all processes."""
        return self._processes.pids()

    @property
    def is_busy(self) -> bool:
        """True while a text is being checked or waits."""
        return bool(self._asking)

    def close(self) -> None:
        """End the processes; open questions fail."""
        if self._retiring is not None:
            self._retiring.cancel()
        self._finalizer()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ask(self, question: SafetyQuestion, digest: bytes) -> tuple[Finding, ...]:
        """On a thread of the pool. Raises Unavailable."""
        # The reader checks the size of the text itself; the size of its inputs is checked here.
        too_large = (
            len(question.text) > TEXT_BYTES_MAX or question.given_characters > TEXT_BYTES_MAX
        )
        body = protocol.encode_question(question, too_large=too_large)
        for last in (*[False] * (TRIES - 1), True):
            try:
                return self._processes.ask(body)
            except Failed as failed:
                if last or failed.reason != CRASH:
                    return (self._record_failure(question, digest, failed.reason),)
        raise AssertionError("unreachable")

    def _record_failure(self, question: SafetyQuestion, digest: bytes, reason: str) -> Finding:
        finding = Finding(
            UNJUDGED,
            SafetyVerdict.NEEDS_APPROVAL,
            _REASONS[reason],
            excerpt_of(question.text[:1_000]),
        )
        with self._lock:
            self._failures[digest] = (time.monotonic() + FAILURE_SECONDS, finding)
            if len(self._failures) > FAILURES_KEPT:
                self._failures.popitem(last=False)
        self._failed(reason)
        log.warning(
            "safety_check_aborted",
            reason=reason,
            interpreter=question.interpreter[:200],
            characters=len(question.text),
            digest=digest.hex(),
        )
        return finding

    def _remembered(self, digest: bytes) -> Finding | None:
        with self._lock:
            until, finding = self._failures.get(digest, (0.0, None))
        return finding if time.monotonic() < until else None

    def _retire_later(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
        self._retiring = asyncio.get_running_loop().call_later(self._idle_seconds, self._retire)

    def _retire(self) -> None:
        if not self.is_busy:
            self._processes.end_idle()


class _Processes:
    """The idle and the busy processes; used from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[JudgeProcess] = []
        self._busy: set[JudgeProcess] = set()
        self._closed = False

    def ask(self, body: bytes) -> tuple[Finding, ...]:
        """Ask an idle process, or a new one. Raises Failed, Unavailable."""
        process = self._take_process()
        try:
            found, leaves = process.ask(body)
        except Failed:
            with self._lock:
                self._busy.discard(process)
                if self._closed:
                    raise Unavailable("the process is shutting down") from None
            raise
        with self._lock:
            self._busy.discard(process)
            if not leaves and not self._closed:
                self._idle.append(process)
                return found
        process.end()
        return found

    def pids(self) -> list[int]:
        """Return the process ids of all processes."""
        with self._lock:
            return [process.pid for process in (*self._busy, *self._idle)]

    def end_idle(self) -> None:
        """End the processes that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def close(self) -> None:
        """End all; no more are started."""
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for process in busy:
            process.kill()
        self.end_idle()

    def _take_process(self) -> JudgeProcess:
        with self._lock:
            if self._closed:
                raise Unavailable("the process is shutting down")
            while self._idle:
                process = self._idle.pop()
                if not process.has_ended:
                    self._busy.add(process)
                    return process
                process.end()
        process = JudgeProcess()
        with self._lock:
            closed = self._closed
            if not closed:
                self._busy.add(process)
        if closed:
            process.end()
            raise Unavailable("the process is shutting down")
        return process


# --- one process: started, asked, and killed if it does not answer in time


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
            raise Failed(_STATUS_REASONS.get(status or 0, failed.reason)) from None
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
