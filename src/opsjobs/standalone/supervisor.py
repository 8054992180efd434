"""Keep processes alive, with one thread each.

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
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SupervisedProcess:
    """The configuration of one process: its start, its stop and its death.

    `start` returns the process once it can be used, or raises Failure. `signals` are sent one after
    another, each with the seconds to wait for the exit before the next. `died` is called with the
    id of a process that ended by itself, before the next one starts.
    """

    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    signals: Sequence[tuple[signal.Signals, float]] = (
        (signal.SIGTERM, 15.0),
        (signal.SIGKILL, 5.0),
    )
    died: Callable[[int], None] | None = None


class Supervisor:
    """The processes of one `up`."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._kept: dict[str, _KeptProcess] = {}

    def start(self, processes: Sequence[SupervisedProcess]) -> None:
        """Start them in parallel and return when all are usable; raise the first failure."""
        new = [_KeptProcess(process, self._say) for process in processes]
        for kept in new:
            kept.start()
            self._kept[kept.process.name] = kept
        for kept in new:
            kept.first.result()

    def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop these processes (None: all) in parallel with escalating signals; wait for them."""
        leaving = [
            self._kept[name]
            for name in (self._kept if names is None else names)
            if name in self._kept
        ]
        for kept in leaving:
            kept.ask()
        for kept in leaving:
            kept.finish()
            del self._kept[kept.process.name]

    def hurry(self) -> None:
        """Skip the remaining grace of each process that is stopping. Safe in a signal handler."""
        for kept in list(self._kept.values()):
            kept.hurry()

    def deaths(self, name: str) -> int:
        """Return the number of deaths in a row; one after a long run counts as the first."""
        return self._kept[name].deaths


class _KeptProcess(threading.Thread):
    """Supervise one process over its restarts.

    This thread is the parent: the process dies when the thread does.
    """

    def __init__(self, process: SupervisedProcess, say: Say) -> None:
        super().__init__(name=f"keep-{process.name}", daemon=True)
        self.process = process
        self.first: Future[None] = Future()
        self.deaths = 0
        self._say = say
        self._leaving = threading.Event()
        self._asked_at = 0.0
        self._running: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the process, restart it, and end it."""
        try:
            self._running = self.process.start()
        except BaseException as broken:  # noqa: BLE001  raised by the caller that waits for `first`
            self.first.set_exception(broken)
            return
        self.first.set_result(None)
        while not self._leaving.is_set():
            self._live(self._running)
        # If the stop was requested during a start, the process has not been signalled yet.
        self._running.send_signal(self.process.signals[0][0])
        self._running.wait()

    def ask(self) -> None:
        """Send the first signal."""
        self._asked_at = time.monotonic()
        self._leaving.set()
        self._send(self.process.signals[0][0])

    def hurry(self) -> None:
        """Send the next signal at once."""
        if self._leaving.is_set():
            self._send(self.process.signals[1][0])

    def finish(self) -> None:
        """Wait for the exit, with one signal after another."""
        deadline = self._asked_at
        for (how, patience), harder in zip(
            self.process.signals, [*self.process.signals[1:], None], strict=True
        ):
            deadline = max(deadline + patience, time.monotonic())
            self.join(deadline - time.monotonic())
            if not self.is_alive():
                return
            self._say(f"{self.process.name} does not end on {how.name}")
            if harder:
                self._send(harder[0])

    def _send(self, how: signal.Signals) -> None:
        if (running := self._running) is not None:
            running.send_signal(how)

    def _live(self, running: subprocess.Popen[bytes]) -> None:
        """Wait for the exit and start the next process if no stop was requested."""
        began = time.monotonic()
        running.wait()
        if self._leaving.is_set():
            return
        self.deaths = 1 if time.monotonic() - began > HEALTHY_AFTER_SECONDS else self.deaths + 1
        self._say(
            f"{self.process.name} (process {running.pid}) ended {_how(running.returncode)}: "
            "starting it again"
        )
        self._mourn(running.pid)
        self._restart()

    def _mourn(self, pid: int) -> None:
        if self.process.died is not None:
            try:
                self.process.died(pid)
            except (Failure, OSError) as broken:
                self._say(f"after the end of {self.process.name}: {broken}")

    def _restart(self) -> None:
        delay = BACKOFF_FIRST_SECONDS * 2 ** min(self.deaths - 1, 10)
        while not self._leaving.wait(min(delay, BACKOFF_MOST_SECONDS)):
            try:
                self._running = self.process.start()
            except (Failure, OSError) as broken:
                self.deaths += 1
                delay *= 2
                self._say(f"{self.process.name} does not start: {broken}")
            else:
                self._say(f"{self.process.name} runs again (process {self._running.pid})")
                return


def _how(returncode: int) -> str:
    return f"by {signal.Signals(-returncode).name}" if returncode < 0 else f"with {returncode}"
