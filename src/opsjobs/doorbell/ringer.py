"""Rings the workers of a zone: the caller never waits for Redis, a thread does."""

from __future__ import annotations

import contextlib
import random
import threading
import time

from kombu import Connection, Producer

from opsjobs.doorbell.bell import BELL, BellApp, bell_queue
from opsjobs.telemetry import Metrics, log

# Zones are few; a bound all the same, so that no stream of made-up zones fills the memory while Redis is away.
ZONES_AT_MOST = 1_000
SOCKET_SECONDS = 1.0
STOP_SECONDS_AT_MOST = 1.5
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_LAST = 3.0


class Doorbell:
    """`ring(zone)` is instant and never raises. Bells for one zone are merged into one; without Redis they are dropped."""

    def __init__(self, url: str | None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._wire = _Wire(url) if url else None
        self._zones: dict[str, None] = {}
        self._change = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send. A Redis that is down is no error."""
        if self._wire and self._thread is None:
            self._thread = threading.Thread(target=self._ring_for_ever, name="opsjobs-doorbell", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send what waits if Redis answers; returns within STOP_SECONDS_AT_MOST whatever Redis does."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread:
            self._thread.join(STOP_SECONDS_AT_MOST)

    def ring(self, zone: str) -> None:
        """Tell a worker of `zone` that there is something to claim; from any thread."""
        with self._change:
            if zone in self._zones:
                self._count("merged")
            elif self._wire is None or self._stopping or len(self._zones) >= ZONES_AT_MOST:
                self._count("dropped")
            else:
                self._zones[zone] = None
                self._change.notify_all()

    def _ring_for_ever(self) -> None:
        backoff = BACKOFF_SECONDS_FIRST
        while (zone := self._next_zone()) is not None:
            try:
                assert self._wire is not None
                self._count("rung" if self._wire.send(zone) else "merged")
                backoff = BACKOFF_SECONDS_FIRST
            except Exception as away:  # noqa: BLE001  a bell that cannot be sent is a bell less, whatever the reason
                self._drop(zone, away, first=backoff == BACKOFF_SECONDS_FIRST)
                self._pause(backoff * random.uniform(0.5, 1))  # noqa: S311  jitter, not a secret
                backoff = min(backoff * 2, BACKOFF_SECONDS_LAST)
        if self._wire:
            self._wire.close()

    def _next_zone(self) -> str | None:
        with self._change:
            self._change.wait_for(lambda: self._zones or self._stopping)
            zone = next(iter(self._zones), None)
            if zone is not None:
                del self._zones[zone]
            return zone

    def _drop(self, zone: str, away: Exception, *, first: bool) -> None:
        self._count("dropped")
        if self._wire:
            self._wire.close()
        if first:
            log.warning("the doorbell has no Redis: workers find their runs by their slow poll", zone=zone, error=repr(away))
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
        timeouts = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS, "client_name": "opsjobs-doorbell"}
        self._connection = self._app.connection_for_write(transport_options=timeouts)
        self._connection.ensure_connection(max_retries=0)
        # A channel of our own: the default channel of a connection tries again for as long as it takes.
        self._producer = self._app.amqp.Producer(self._connection.channel(), auto_declare=False)
        return self._producer
