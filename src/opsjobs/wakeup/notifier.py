"""Rings the workers of a zone: the caller never waits for Redis, a thread does."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time

from kombu import Connection, Producer

from opsjobs.telemetry import Metrics, log
from opsjobs.wakeup.celery_app import BELL, BellApp, bell_queue

# Zones are few; a bound all the same, so that no stream of made-up zones fills the memory while Redis is away.
ZONES_AT_MOST = 1_000
# To one zone no two bells within this time. The first is sent at once. A worker takes all that it has room for with each, so that
# of hundreds a second nearly all are one too many, and one costs sender, Redis and worker some 3 ms of CPU.
SPACING_SECONDS = 0.02
SOCKET_SECONDS = 1.0
STOP_SECONDS_AT_MOST = 1.5
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_LAST = 3.0


class Notifier:
    """`notify(zone)` is instant and never raises. Bells for one zone are merged into one; without Redis they are dropped.

    A bell goes out at once, or SPACING_SECONDS after the zone's last one.
    """

    def __init__(self, url: str | None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._wire = _Wire(url) if url else None
        # When each bell that waits is due; and of zones notified just now, when the next one is.
        self._zones: dict[str, float] = {}
        self._next_due: dict[str, float] = {}
        self._change = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send. A Redis that is down is no error."""
        if self._wire and self._thread is None:
            self._thread = threading.Thread(target=self._ring_for_ever, name="opsjobs-notifier", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send what waits if Redis answers; returns within STOP_SECONDS_AT_MOST whatever Redis does."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread:
            self._thread.join(STOP_SECONDS_AT_MOST)

    def notify(self, zone: str) -> None:
        """Tell a worker of `zone` that there is something to claim; from any thread."""
        with self._change:
            if zone in self._zones:
                self._count("merged")
            elif self._wire is None or self._stopping or len(self._zones) >= ZONES_AT_MOST:
                self._count("dropped")
            else:
                self._zones[zone] = self._next_due.get(zone, 0.0)
                self._change.notify_all()

    def _ring_for_ever(self) -> None:
        backoff = BACKOFF_SECONDS_FIRST
        while (zone := self._next_zone()) is not None:
            try:
                assert self._wire is not None
                self._count("notified" if self._wire.send(zone) else "merged")
                backoff = BACKOFF_SECONDS_FIRST
            except Exception as away:  # noqa: BLE001  a bell that cannot be sent is a bell less, whatever the reason
                self._drop(zone, away, first=backoff == BACKOFF_SECONDS_FIRST)
                self._pause(backoff * random.uniform(0.5, 1))  # noqa: S311  jitter, not a secret
                backoff = min(backoff * 2, BACKOFF_SECONDS_LAST)
        if self._wire:
            self._wire.close()

    def _next_zone(self) -> str | None:
        """The zone whose bell is due, as soon as one is; None once nothing waits and none will."""
        with self._change:
            while self._zones or not self._stopping:
                zone, due = min(self._zones.items(), key=lambda waiting: waiting[1], default=("", math.inf))
                left = due - time.monotonic()
                if left <= 0 or self._stopping:
                    del self._zones[zone]
                    self._space(zone)
                    return zone
                self._change.wait(None if due == math.inf else left)
            return None

    def _space(self, zone: str) -> None:
        now = time.monotonic()
        self._next_due[zone] = now + SPACING_SECONDS
        if len(self._next_due) > ZONES_AT_MOST:
            self._next_due = {other: due for other, due in self._next_due.items() if due > now}

    def _drop(self, zone: str, away: Exception, *, first: bool) -> None:
        self._count("dropped")
        if self._wire:
            self._wire.close()
        if first:
            log.warning("the notifier has no Redis: workers find their runs by their slow poll", zone=zone, error=repr(away))
        with self._change:
            if self._stopping:
                self._zones.clear()

    def _pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        with self._change:
            while not self._stopping and (left := ends - time.monotonic()) > 0:
                self._change.wait(left)

    def _count(self, result: str) -> None:
        self._metrics.bells.labels(result=result).inc()


class _Wire:
    """The connection to Redis that one thread sends through."""

    def __init__(self, url: str) -> None:
        self._app = BellApp(url)
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def send(self, zone: str) -> bool:
        """Put a bell on the zone's queue; False when one lies there already, which is as good. Raises what kombu raises."""
        producer = self._producer or self._connect()
        queue = bell_queue(zone)
        expiry = producer.channel.prepare_queue_arguments({}, expires=queue.expires)
        if producer.channel.queue_declare(queue.name, arguments=expiry).message_count:
            return False
        self._app.send_task(BELL, (zone,), queue=queue, producer=producer, retry=False, declare=(), ignore_result=True)
        return True

    def close(self) -> None:
        """Let go of the connection; the next `send` makes a new one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()

    def _connect(self) -> Producer:
        timeouts = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS, "client_name": "opsjobs-notifier"}
        self._connection = self._app.connection_for_write(transport_options=timeouts)
        self._connection.ensure_connection(max_retries=0)
        # A channel of our own: the default channel of a connection tries again for as long as it takes.
        self._producer = self._app.amqp.Producer(self._connection.channel(), auto_declare=False)
        return self._producer
