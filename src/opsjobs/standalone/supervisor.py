"""Keep processes running, with one thread each.

The thread starts its process, waits for the exit and restarts it unless it was asked to end.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from opsjobs.model.errors import Failure

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MOST_SECONDS = 10.0
HEALTHY_AFTER_SECONDS = 10.0
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SupervisedProcess:
    """The configuration of one process: its start, its stop and its termination."""

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    """Returns the process once it can be used, or raises Failure."""
    signals: Sequence[tuple[signal.Signals, float]] = (
        (signal.SIGTERM, 15.0),
        (signal.SIGKILL, 5.0),
    )
    """Signals to send in turn, each with the seconds to wait for the exit before the next."""
    died: Callable[[int], None] | None = None
    """Called with the id of a process that ended by itself, before the next one starts."""


class Supervisor:
    """The processes of one `up`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._threads: dict[str, _ProcessThread] = {}

    def start(self, processes: Sequence[SupervisedProcess]) -> None:
        """Start them in parallel and return when all are usable; raise the first failure."""
        new = [_ProcessThread(process, self._report) for process in processes]
        for thread in new:
            thread.start()
            self._threads[thread.process.name] = thread
        for thread in new:
            thread.first_start.result()

    def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop these processes (None: all) in parallel with escalating signals; wait for them."""
        stopping = [
            self._threads[name]
            for name in (self._threads if names is None else names)
            if name in self._threads
        ]
        for thread in stopping:
            thread.request_stop()
        for thread in stopping:
            thread.finish()
            del self._threads[thread.process.name]

    def hurry(self) -> None:
        """Skip the rest of the grace period of stopping processes. Safe in a signal handler."""
        for thread in list(self._threads.values()):
            thread.hurry()

    def deaths(self, name: str) -> int:
        """Return the number of consecutive terminations; one after a long run counts as first."""
        return self._threads[name].deaths


class _ProcessThread(threading.Thread):
    """Supervise one process over its restarts.

    This thread is the parent: the process is killed when the thread ends.
    """

    def __init__(self, process: SupervisedProcess, report: Report) -> None:
        super().__init__(name=f"keep-{process.name}", daemon=True)
        self.process = process
        self.first_start: Future[None] = Future()
        self.deaths = 0
        self._report = report
        self._stopping = threading.Event()
        self._requested_at = 0.0
        self._running: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the process, restart it, and end it."""
        try:
            self._running = self.process.start()
        except BaseException as broken:  # noqa: BLE001  raised by `start`, which waits
            self.first_start.set_exception(broken)
            return
        self.first_start.set_result(None)
        while not self._stopping.is_set():
            self._wait_and_restart(self._running)
        # If the stop was requested during a start, the process has not been signalled yet.
        self._running.send_signal(self.process.signals[0][0])
        self._running.wait()

    def request_stop(self) -> None:
        """Send the first signal."""
        self._requested_at = time.monotonic()
        self._stopping.set()
        self._send(self.process.signals[0][0])

    def hurry(self) -> None:
        """Send the next signal at once."""
        if self._stopping.is_set():
            self._send(self.process.signals[1][0])

    def finish(self) -> None:
        """Wait for the exit, with one signal after another."""
        deadline = self._requested_at
        for (number, grace_seconds), next_signal in zip(
            self.process.signals, [*self.process.signals[1:], None], strict=True
        ):
            deadline = max(deadline + grace_seconds, time.monotonic())
            self.join(deadline - time.monotonic())
            if not self.is_alive():
                return
            self._report(f"{self.process.name} does not end on {number.name}")
            if next_signal:
                self._send(next_signal[0])

    def _send(self, number: signal.Signals) -> None:
        if (running := self._running) is not None:
            running.send_signal(number)

    def _wait_and_restart(self, running: subprocess.Popen[bytes]) -> None:
        """Wait for the exit and start the next process if no stop was requested."""
        began = time.monotonic()
        running.wait()
        if self._stopping.is_set():
            return
        self.deaths = 1 if time.monotonic() - began > HEALTHY_AFTER_SECONDS else self.deaths + 1
        ended = f"{self.process.name} (process {running.pid}) ended"
        self._report(f"{ended} {_render_exit(running.returncode)}: starting it again")
        self._call_died(running.pid)
        self._restart()

    def _call_died(self, pid: int) -> None:
        if self.process.died is not None:
            try:
                self.process.died(pid)
            except (Failure, OSError) as error:
                self._report(f"after the end of {self.process.name}: {error}")

    def _restart(self) -> None:
        delay = BACKOFF_FIRST_SECONDS * 2 ** min(self.deaths - 1, 10)
        while not self._stopping.wait(min(delay, BACKOFF_MOST_SECONDS)):
            try:
                self._running = self.process.start()
            except (Failure, OSError) as error:
                self.deaths += 1
                delay *= 2
                self._report(f"{self.process.name} does not start: {error}")
            else:
                self._report(f"{self.process.name} runs again (process {self._running.pid})")
                return


def _render_exit(returncode: int) -> str:
    return f"by {signal.Signals(-returncode).name}" if returncode < 0 else f"with {returncode}"
