"""Host the scheduler in Celery's beat: each tick is one pass over the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from celery import beat

from opsjobs.model.errors import Failure
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup.celery_app import WakeupApp
from opsjobs.wakeup.loop_thread import LoopThread, run_until_signal

TICK_SECONDS = 1.0
# The shortest pause between two passes, even if there is much to do.
REST_SECONDS_MIN = 0.005
# A longer pass is cancelled and the next one starts: every pass is idempotent.
PASS_SECONDS_MAX = 60.0
# An error that repeats at each tick is logged again only after this time.
SAME_ERROR_SECONDS = 60.0
# Beat sends no messages, but Celery requires a broker's address.
NO_REDIS = "redis://127.0.0.1:6379/0"


class Tick(Protocol):
    """The interface of the scheduler to its host."""

    async def start(self) -> None:
        """Start; return when `run_once` may be called."""

    async def run_once(self) -> Mapping[str, int]:
        """Run one idempotent pass; return counts of its work, by name."""

    def rest_seconds(self) -> float:
        """Return the seconds until the next pass is due. Callable from any thread."""

    async def stop(self) -> None:
        """Release the resources that `start` opened."""


def run_scheduler(tick: Tick, *, redis_url: str | None, metrics: Metrics | None = None) -> int:
    """Run `tick.run_once` when it is due, and at least once a second, until a signal.

    Return the process's exit code after SIGTERM or SIGINT; a second SIGINT ends the process at
    once. Neither an exception of a pass nor a lost Redis ends the loop.
    """
    tick_loop = _TickLoop(tick, metrics or Metrics())
    app = WakeupApp(redis_url or NO_REDIS)
    app.tick_loop = tick_loop
    service = beat.Service(
        app=app, max_interval=TICK_SECONDS, scheduler_cls=_LedgerScheduler, remote_control=False
    )

    def body() -> int:
        tick_loop.start()
        service.start()
        return 0

    def stop() -> None:
        service.stop()
        tick_loop.stop()

    return run_until_signal(body, stop)


class _LedgerScheduler(beat.Scheduler):  # type: ignore[misc]  # Celery ships no types
    """Beat's scheduler without entries, files or messages: PostgreSQL decides what is due."""

    def setup_schedule(self) -> None:
        """Do nothing: there are no entries, and Celery's nightly clean-up is not needed."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Run one pass and wait until the next is due."""
        self.app.tick_loop.beat()
        return 0.0


class _TickLoop:
    """Runs a pass as soon as one is due, at least one a second, even after errors."""

    def __init__(self, tick: Tick, metrics: Metrics) -> None:
        self._tick = tick
        self._metrics = metrics
        self._host = LoopThread(tick, "opsjobs-scheduler")
        self._stopping = threading.Event()
        self._last_error: str | None = None
        self._logged_at = 0.0

    def start(self) -> None:
        self._host.start()

    def stop(self) -> None:
        self._stopping.set()
        self._host.stop()

    def beat(self) -> None:
        began = time.monotonic()
        if self._stopping.is_set():
            return
        try:
            self._log_success(self._host.run(self._tick.run_once(), PASS_SECONDS_MAX))
        except Exception as error:  # noqa: BLE001  an exception ends Celery's beat
            self._log_error(error)
            self._stopping.wait(max(0.0, TICK_SECONDS - (time.monotonic() - began)))
        else:
            self._stopping.wait(min(max(self._tick.rest_seconds(), REST_SECONDS_MIN), TICK_SECONDS))

    def _log_success(self, counts: Mapping[str, int]) -> None:
        if self._last_error is not None:
            log.info("scheduler_recovered")
            self._last_error = None
        if any(counts.values()):
            log.debug("scheduler_pass", **counts)

    def _log_error(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        expected = isinstance(error, Failure | TimeoutError)
        if not expected:
            self._metrics.bugs.labels(where="scheduler").inc()
        now = time.monotonic()
        if repr(error) == self._last_error and now - self._logged_at < SAME_ERROR_SECONDS:
            return
        self._last_error, self._logged_at = repr(error), now
        log.error(
            "scheduler_pass_failed", error=self._last_error, exc_info=None if expected else error
        )
