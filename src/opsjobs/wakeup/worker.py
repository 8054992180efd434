"""The worker's process: Celery carries the bells, and a bootstep hosts the engine on its own event loop."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, Protocol

from celery import bootsteps
from celery.worker import WorkController
from celery.worker import state as celery_state

from opsjobs.telemetry import Metrics, log
from opsjobs.wakeup.celery_app import BELL, BellApp, bell_queue
from opsjobs.wakeup.loop_thread import LoopThread, run_until_signal

# While Redis is away Celery tells so at every try, every few seconds: one line a minute says as much.
AWAY_LINE_SECONDS = 60.0


class Hosted(Protocol):
    """The engine, as its host sees it."""

    async def start(self) -> None:
        """Return when it runs; it works without bells, too."""

    def bell(self) -> None:
        """There may be something to claim. Called from any thread; must not block."""

    async def stop(self) -> None:
        """Drain: claim no more, give back what was not started, return in about 10 s at most."""


def run_worker(
    engine: Hosted,
    *,
    redis_url: str | None,
    zone: str,
    name: str,
    metrics: Metrics | None = None,
    stop_seconds: float | None = None,
) -> int:
    """Host `engine` until SIGTERM or SIGINT, ringing it when a bell for `zone` comes; gives the process's exit code.

    Without `redis_url`, and while Redis is away, the engine runs all the same, by its slow poll. A second SIGINT ends at once.
    `stop_seconds`: how long the engine's `stop` may take; None for the usual.
    """
    host = LoopThread(engine, "opsjobs-engine", stop_seconds=stop_seconds)
    if redis_url is None:
        return run_until_signal(lambda: _host_alone(host), host.stop)
    carrier = _Carrier(_worker_app(engine, redis_url, zone, metrics or Metrics()), host, name)
    return run_until_signal(carrier.run, carrier.stop)


def _host_alone(host: LoopThread) -> int:
    host.start()
    log.info("the worker runs without Redis: it finds its runs by polling")
    threading.Event().wait()
    return 0


def _worker_app(engine: Hosted, redis_url: str, zone: str, metrics: Metrics) -> BellApp:
    app = BellApp(redis_url)
    queue = bell_queue(zone)
    app.conf.task_queues = [queue]
    app.conf.task_default_queue = queue.name

    def heard(_zone: str) -> None:
        metrics.bells.labels(result="heard").inc()
        engine.bell()

    app.task(name=BELL)(heard)
    app.steps["worker"].add(_EngineStep)
    return app


class _Carrier:
    """Celery's worker without its command line: no banner, no signal handlers, no logging set-up."""

    def __init__(self, app: BellApp, host: LoopThread, name: str) -> None:
        self._host = host
        self._waker, self._wake = os.pipe()
        os.set_blocking(self._waker, False)
        logging.getLogger("celery.worker.consumer.consumer").addFilter(_Seldom())
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
        """Until stopped, or until Celery or the engine cannot go on."""
        self._controller.start()
        return int(self._controller.exitcode or 0)

    def stop(self) -> None:
        """Drain the engine now; Celery follows when its loop turns."""
        celery_state.should_stop = 0
        os.write(self._wake, b".")
        self._host.stop()


class _EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Starts the engine before the consumer, which only starts when Redis answers."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, controller: WorkController, engine_host: LoopThread, waker: int, **options: Any) -> None:
        super().__init__(controller, **options)
        self._host = engine_host
        self._waker = waker

    def start(self, _: WorkController) -> None:
        """The engine runs when this returns."""
        self._host.start()

    def stop(self, _: WorkController) -> None:
        """The engine has drained when this returns."""
        self._host.stop()

    terminate = stop

    def register_with_event_loop(self, _: WorkController, hub: Any) -> None:
        """Let a stop wake Celery's loop, which else looks up about once a second."""
        hub.add_reader(self._waker, self._woken)

    def _woken(self) -> None:
        os.read(self._waker, 64)


class _Seldom(logging.Filter):
    """Lets Celery's "Cannot connect" through once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "Cannot connect" not in str(record.msg):
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + AWAY_LINE_SECONDS
        return True
