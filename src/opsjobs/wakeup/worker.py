"""The worker's process: Celery delivers wake-ups, and a bootstep hosts the engine."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, Protocol

from celery import bootsteps
from celery.worker import WorkController
from celery.worker import state as celery_state

from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.wakeup.celery_app import WAKEUP, WakeupApp, wakeup_queue
from opsjobs.wakeup.loop_thread import LoopThread, run_until_signal

# Celery logs each failed attempt to reach Redis, every few seconds; one line a minute is enough.
RECONNECT_LOG_SECONDS = 60.0


class Hosted(Protocol):
    """The interface of the engine to its host."""

    async def start(self) -> None:
        """Start; return once it runs. It also works without wake-ups."""

    def wake(self) -> None:
        """Look for runs to claim. Called from any thread; must not block."""

    async def stop(self) -> None:
        """Drain: claim no more, release runs that did not start; takes at most about 10 s."""


def run_worker(
    engine: Hosted,
    *,
    redis_url: str | None,
    zone: str,
    name: str,
    metrics: Metrics | None = None,
    stop_seconds: float | None = None,
) -> int:
    """Host `engine` until SIGTERM or SIGINT and pass it the wake-ups of `zone`.

    Return the process's exit code; a second SIGINT ends the process at once. Without `redis_url`,
    and while Redis is unavailable, the engine runs by its slow poll. `stop_seconds` is the time
    limit of the engine's `stop`; None for the default.
    """
    host = LoopThread(engine, "opsjobs-engine", stop_seconds=stop_seconds)
    if redis_url is None:
        return run_until_signal(lambda: _host_alone(host), host.stop)
    celery_worker = _CeleryWorkerHost(
        _worker_app(engine, redis_url, zone, metrics or Metrics()), host, name
    )
    return run_until_signal(celery_worker.run, celery_worker.stop)


def _host_alone(host: LoopThread) -> int:
    host.start()
    log.info("worker_without_redis", hint="runs are found by polling")
    threading.Event().wait()
    return 0


def _worker_app(engine: Hosted, redis_url: str, zone: str, metrics: Metrics) -> WakeupApp:
    app = WakeupApp(redis_url)
    queue = wakeup_queue(zone)
    app.conf.task_queues = [queue]
    app.conf.task_default_queue = queue.name

    def wake(_zone: str) -> None:
        metrics.wakeups.labels(result="received").inc()
        engine.wake()

    app.task(name=WAKEUP)(wake)
    app.steps["worker"].add(_EngineStep)
    return app


class _CeleryWorkerHost:
    """Celery's worker without its command line, banner, signal handlers and logging set-up."""

    def __init__(self, app: WakeupApp, host: LoopThread, name: str) -> None:
        self._host = host
        self._waker, self._wake = os.pipe()
        os.set_blocking(self._waker, False)
        logging.getLogger("celery.worker.consumer.consumer").addFilter(_RateLimitedFilter())
        self._controller = WorkController(
            app=app,
            hostname=f"{name}@{os.uname().nodename}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            engine_host=host,
            waker=self._waker,
        )

    def run(self) -> int:
        """Run until stopped, or until Celery or the engine fails."""
        self._controller.start()
        return int(self._controller.exitcode or 0)

    def stop(self) -> None:
        """Drain the engine now; Celery stops at the next turn of its loop."""
        celery_state.should_stop = 0
        os.write(self._wake, b".")
        self._host.stop()


class _EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Starts the engine before the consumer, which waits for Redis."""

    requires = ("celery.worker.components:Pool",)

    def __init__(
        self, controller: WorkController, engine_host: LoopThread, waker: int, **options: Any
    ) -> None:
        super().__init__(controller, **options)
        self._host = engine_host
        self._waker = waker

    def start(self, _: WorkController) -> None:
        """Start the engine; return once it runs."""
        self._host.start()

    def stop(self, _: WorkController) -> None:
        """Drain the engine; return once it has drained."""
        self._host.stop()

    terminate = stop

    def register_with_event_loop(self, _: WorkController, hub: Any) -> None:
        """Let `stop` wake Celery's loop, which otherwise wakes about once a second."""
        hub.add_reader(self._waker, self._drain_pipe)

    def _drain_pipe(self) -> None:
        os.read(self._waker, 64)


class _RateLimitedFilter(logging.Filter):
    """Pass Celery's "Cannot connect" once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "Cannot connect" not in str(record.msg):
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + RECONNECT_LOG_SECONDS
        return True
