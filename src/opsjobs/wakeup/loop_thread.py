"""An event loop on its own thread, and a process that stops in time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Protocol, Self, TypeVar

import uvloop

from opsjobs.telemetry.logs import log

T = TypeVar("T")

# The maximum duration of a stop by default: a drain of 5 s, and the clean-up after it.
STOP_SECONDS_MAX = 12.0
# Time limit for Celery's thread to end; it holds no state, so a hung Redis delays nothing.
CELERY_SECONDS_MAX = 1.0
LOOP_END_SECONDS_MAX = 1.0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class Startable(Protocol):
    """A service that runs on the loop thread."""

    async def start(self) -> None:
        """Start; return when it runs."""

    async def stop(self) -> None:
        """Stop; return once it has ended."""


class LoopThread:
    """One service, started and stopped on an event loop with its own thread."""

    def __init__(self, part: Startable, name: str, *, stop_seconds: float | None = None) -> None:
        self._part = part
        self._stop_seconds = stop_seconds if stop_seconds is not None else STOP_SECONDS_MAX
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._once = threading.Lock()
        self._ended = threading.Event()
        self._starting: concurrent.futures.Future[None] | None = None

    def start(self) -> None:
        """Start the thread and the service.

        Raises the exceptions of the service's `start`, and SystemExit if `stop` was called first.
        """
        if self._once.locked():
            raise SystemExit(0)
        self._thread.start()
        self._starting = asyncio.run_coroutine_threadsafe(self._part.start(), self._loop)
        self._starting.result()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        """Run it on the loop and wait; cancel it and raise TimeoutError if it takes too long."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop the service, then the loop, within `stop_seconds`.

        Callable from any thread, any number of times.
        """
        if not self._once.acquire(blocking=False):
            self._ended.wait(self._stop_seconds + LOOP_END_SECONDS_MAX)
            return
        try:
            if self._thread.is_alive():
                self._stop_part()
                self._end_loop()
            else:
                self._loop.close()
        finally:
            self._ended.set()

    def _stop_part(self) -> None:
        if self._starting:
            self._starting.cancel()
        try:
            self.run(self._part.stop(), self._stop_seconds)
        except TimeoutError:
            log.error(
                "stop_timed_out", hint="the lease expires instead", seconds=self._stop_seconds
            )
        except Exception:  # noqa: BLE001  a failure here must not keep the process alive
            log.exception("stop_failed")

    def _end_loop(self) -> None:
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
            self.run(_cancel_all(), LOOP_END_SECONDS_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LOOP_END_SECONDS_MAX)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.get_running_loop().shutdown_asyncgens()


def run_until_signal(body: Callable[[], int], stop: Callable[[], None]) -> int:
    """Run `body` on a thread until it ends or a signal arrives, then run `stop`.

    Return the exit code. The main thread only waits for signals, so SIGTERM and SIGINT take effect
    at once whatever blocks `body` or `stop`, and the process ends in time even if `body` hangs. A
    second SIGINT ends the process at once.
    """
    with _SignalPipe() as signals:
        process = _Process(body, stop, signals)
        threading.Thread(target=process.run_body, name="opsjobs-celery", daemon=True).start()
        while (number := signals.read()) != _STOPPED:
            process.handle(number)
        return process.code


# Bytes on the pipe in addition to signal numbers.
_BODY_ENDED = 254
_STOPPED = 255


class _SignalPipe:
    """A pipe that delivers signals to the main thread.

    A lock would miss a signal that arrives just before the wait begins.
    """

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        # The pipe stays open: a thread that outlives the stop may still write to it.
        signal.set_wakeup_fd(-1)

    def read(self) -> int:
        """Wait for and return the next signal number or byte of a thread."""
        return os.read(self._read_end, 1)[0]

    def write(self, number: int) -> None:
        """Wake the main thread with this byte. Callable from any thread."""
        os.write(self._write_end, bytes((number,)))


def _ignore(_: int, __: FrameType | None) -> None:
    """Do nothing: the interpreter has written the signal to the pipe."""


class _Process:
    """The lifecycle of the process: running, stopping, stopped."""

    def __init__(
        self, body: Callable[[], int], stop: Callable[[], None], signals: _SignalPipe
    ) -> None:
        self.code = 0
        self._body = body
        self._stop = stop
        self._signals = signals
        self._body_ended = threading.Event()
        self._stopping = False
        self._interrupted = False

    def run_body(self) -> None:
        """Run the body; called on its own thread."""
        code = self._body_code()
        if not self._stopping:
            self.code = code
        self._body_ended.set()
        self._signals.write(_BODY_ENDED)

    def handle(self, number: int) -> None:
        """Start to stop, once: a signal arrived or the body ended."""
        if number == signal.SIGINT and self._interrupted:
            os._exit(EXIT_INTERRUPTED)
        self._interrupted = self._interrupted or number == signal.SIGINT
        if not self._stopping:
            self._stopping = True
            why = "ended" if number == _BODY_ENDED else signal.Signals(number).name
            log.info("stopping", why=why)
            threading.Thread(target=self._run_stop, name="opsjobs-stop", daemon=True).start()

    def _run_stop(self) -> None:
        try:
            self._stop()
            self._body_ended.wait(CELERY_SECONDS_MAX)
        finally:
            self._signals.write(_STOPPED)

    def _body_code(self) -> int:
        try:
            return self._body()
        except BaseException as error:  # noqa: BLE001  Celery ends its loops by SystemExit
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                return error.code
            log.critical("process_failed", exc_info=error)
            return EXIT_FAILED
