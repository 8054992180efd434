"""What the worker's and the scheduler's process share: an event loop on a thread of its own, and an end that comes in time."""

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

from opsjobs.telemetry import log

T = TypeVar("T")

# The longest that a stop may take, unless the part asks for more: a drain of 5 s, and a little for what comes after.
STOP_SECONDS_AT_MOST = 12.0
# Celery's thread gets this long to end by itself; it holds nothing that matters, so nobody waits for a Redis that hangs.
CELERY_SECONDS_AT_MOST = 1.0
LOOP_END_SECONDS_AT_MOST = 1.0
EXIT_FAILED = 1
EXIT_AT_ONCE = 130


class Startable(Protocol):
    """What lives on the loop thread."""

    async def start(self) -> None:
        """Return when it runs."""

    async def stop(self) -> None:
        """Return when it has ended."""


class LoopThread:
    """One part, started and stopped on an event loop that has a thread for itself."""

    def __init__(self, part: Startable, name: str, *, stop_seconds: float | None = None) -> None:
        self._part = part
        self._stop_seconds = stop_seconds if stop_seconds is not None else STOP_SECONDS_AT_MOST
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._once = threading.Lock()
        self._ended = threading.Event()
        self._starting: concurrent.futures.Future[None] | None = None

    def start(self) -> None:
        """Start the thread and the part; raises what the part's `start` raises, and SystemExit when the stop came first."""
        if self._once.locked():
            raise SystemExit(0)
        self._thread.start()
        self._starting = asyncio.run_coroutine_threadsafe(self._part.start(), self._loop)
        self._starting.result()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds_at_most: float) -> T:
        """Run it on the loop and wait; cancels it and raises TimeoutError when it takes too long."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds_at_most)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop the part, then the loop; done within `stop_seconds`. From any thread, any number of times."""
        if not self._once.acquire(blocking=False):
            self._ended.wait(self._stop_seconds + LOOP_END_SECONDS_AT_MOST)
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
            log.error("the stop took too long: leaving the rest to the lease", seconds=self._stop_seconds)
        except Exception:  # noqa: BLE001  what fails here must not keep the process alive
            log.exception("the stop failed")

    def _end_loop(self) -> None:
        with contextlib.suppress(TimeoutError, concurrent.futures.CancelledError):
            self.run(_cancel_all(), LOOP_END_SECONDS_AT_MOST)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LOOP_END_SECONDS_AT_MOST)
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
    """Run `body` on a thread until it ends or SIGTERM or SIGINT comes, then `stop`; gives the exit code.

    The main thread does nothing but listen, so a signal is heard at once whatever blocks `body` or `stop`, and the process
    ends in time even where `body` hangs. A second SIGINT ends the process at once.
    """
    with _Ears() as ears:
        process = _Process(body, stop, ears)
        threading.Thread(target=process.run_body, name="opsjobs-celery", daemon=True).start()
        while (number := ears.next()) != _STOPPED:
            process.on(number)
        return process.code


# Bytes on the pipe, beside the numbers of signals.
_BODY_ENDED = 254
_STOPPED = 255


class _Ears:
    """A pipe that brings signals. A lock would not do: a signal that comes just before the wait for it begins is not noticed."""

    def __enter__(self) -> Self:
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _only_to_the_pipe)
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        # The pipe stays open: a thread that outlives the stop may still want to say that it ended.
        signal.set_wakeup_fd(-1)

    def next(self) -> int:
        """The next number, a signal's or one that a thread told."""
        return os.read(self._ear, 1)[0]

    def tell(self, number: int) -> None:
        """From any thread."""
        os.write(self._mouth, bytes((number,)))


def _only_to_the_pipe(_: int, __: FrameType | None) -> None:
    """What the interpreter wrote to the pipe is all that we want."""


class _Process:
    """From running to stopping to stopped."""

    def __init__(self, body: Callable[[], int], stop: Callable[[], None], ears: _Ears) -> None:
        self.code = 0
        self._body = body
        self._stop = stop
        self._ears = ears
        self._body_ended = threading.Event()
        self._stopping = False
        self._interrupted = False

    def run_body(self) -> None:
        """On the body's thread."""
        code = self._body_code()
        if not self._stopping:
            self.code = code
        self._body_ended.set()
        self._ears.tell(_BODY_ENDED)

    def on(self, number: int) -> None:
        """A signal, or the end of the body: begin to stop, once."""
        if number == signal.SIGINT and self._interrupted:
            os._exit(EXIT_AT_ONCE)
        self._interrupted = self._interrupted or number == signal.SIGINT
        if not self._stopping:
            self._stopping = True
            why = "ended" if number == _BODY_ENDED else signal.Signals(number).name
            log.info("stopping", why=why)
            threading.Thread(target=self._run_stop, name="opsjobs-stop", daemon=True).start()

    def _run_stop(self) -> None:
        try:
            self._stop()
            self._body_ended.wait(CELERY_SECONDS_AT_MOST)
        finally:
            self._ears.tell(_STOPPED)

    def _body_code(self) -> int:
        try:
            return self._body()
        except BaseException as error:  # noqa: BLE001  Celery ends its loops by SystemExit; the main thread must hear of any end
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                return error.code
            log.critical("the process failed", exc_info=error)
            return EXIT_FAILED
