"""The scheduler's process: Celery's beat, whose tick is one pass of ours over the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from celery import beat

from opsjobs.model.errors import Failure
from opsjobs.telemetry import Metrics, log
from opsjobs.wakeup.celery_app import BellApp
from opsjobs.wakeup.loop_thread import LoopThread, run_until_signal

TICK_SECONDS = 1.0
# Between two passes, however much there is to do.
REST_SECONDS_AT_LEAST = 0.005
# A pass that takes longer is cancelled, and the next one begins: every pass is idempotent.
PASS_SECONDS_AT_MOST = 60.0
# The same trouble, tick after tick, is told again only so often.
SAME_TROUBLE_SECONDS = 60.0
# Beat itself sends nothing; Celery wants a broker's address all the same.
NO_REDIS = "redis://127.0.0.1:6379/0"


class Tick(Protocol):
    """The scheduler's work, as its host sees it."""

    async def start(self) -> None:
        """Return when `run_once` may be called."""

    async def run_once(self) -> Mapping[str, int]:
        """One idempotent pass; gives what it did, by name."""

    def rest_seconds(self) -> float:
        """How long after a pass there is nothing to do; from any thread."""

    async def stop(self) -> None:
        """Let go of what `start` opened."""


def run_scheduler(tick: Tick, *, redis_url: str | None, metrics: Metrics | None = None) -> int:
    """Call `tick.run_once` when its rest is over, and about once a second, until SIGTERM or SIGINT; gives the process's exit code.

    Nothing that a pass raises ends it, nor does Redis. A second SIGINT ends at once.
    """
    rhythm = _Rhythm(tick, metrics or Metrics())
    app = BellApp(redis_url or NO_REDIS)
    app.rhythm = rhythm
    service = beat.Service(app=app, max_interval=TICK_SECONDS, scheduler_cls=_LedgerScheduler, remote_control=False)

    def body() -> int:
        rhythm.start()
        service.start()
        return 0

    def stop() -> None:
        service.stop()
        rhythm.stop()

    return run_until_signal(body, stop)


class _LedgerScheduler(beat.Scheduler):  # type: ignore[misc]  # Celery ships no types
    """Beat's scheduler without entries, files or messages: what is due is known to PostgreSQL alone."""

    def setup_schedule(self) -> None:
        """There is no schedule here, and Celery's own nightly clean-up is not wanted."""

    def tick(self, *_: Any, **__: Any) -> float:
        """One pass, and the wait for the next."""
        self.app.rhythm.beat()
        return 0.0


class _Rhythm:
    """A pass as soon as there is something to do, one a second at least, whatever the last one met."""

    def __init__(self, tick: Tick, metrics: Metrics) -> None:
        self._tick = tick
        self._metrics = metrics
        self._host = LoopThread(tick, "opsjobs-scheduler")
        self._stopping = threading.Event()
        self._trouble: str | None = None
        self._told_at = 0.0

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
            self._went_well(self._host.run(self._tick.run_once(), PASS_SECONDS_AT_MOST))
        except Exception as trouble:  # noqa: BLE001  an exception ends Celery's beat
            self._went_wrong(trouble)
            self._stopping.wait(max(0.0, TICK_SECONDS - (time.monotonic() - began)))
        else:
            self._stopping.wait(min(max(self._tick.rest_seconds(), REST_SECONDS_AT_LEAST), TICK_SECONDS))

    def _went_well(self, counts: Mapping[str, int]) -> None:
        if self._trouble is not None:
            log.info("the scheduler ticks again")
            self._trouble = None
        if any(counts.values()):
            log.debug("ticked", **counts)

    def _went_wrong(self, trouble: Exception) -> None:
        if self._stopping.is_set():
            return
        expected = isinstance(trouble, Failure | TimeoutError)
        if not expected:
            self._metrics.bugs.labels(where="scheduler").inc()
        now = time.monotonic()
        if repr(trouble) == self._trouble and now - self._told_at < SAME_TROUBLE_SECONDS:
            return
        self._trouble, self._told_at = repr(trouble), now
        log.error("a pass of the scheduler failed", error=self._trouble, exc_info=None if expected else trouble)
