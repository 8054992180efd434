"""Notify the workers of a zone. A thread waits for Redis; the caller never does."""

from __future__ import annotations

import contextlib
import math
import threading
import time

from kombu import Connection, Producer

from opsjobs.backoff import Backoff
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import SpanKind
from opsjobs.wakeup.celery_app import WAKEUP, WakeupApp, wakeup_queue

# Limits the memory if callers invent zones while Redis is unavailable.
ZONES_MAX = 1_000
# The shortest time between two wake-ups of one zone; the first is sent at once. A worker fills all
# its free slots at each, so more would be useless, and each costs about 3 ms of CPU in all.
SPACING_SECONDS = 0.02
SOCKET_SECONDS = 1.0
STOP_SECONDS_MAX = 1.5
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_LAST = 3.0


class Notifier:
    """Sends wake-ups to zones; `notify` returns at once and never raises.

    A wake-up is sent at once, or SPACING_SECONDS after the zone's last one. Pending wake-ups of
    one zone are merged; without Redis they are dropped.
    """

    def __init__(self, url: str | None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._sender = _Sender(url) if url else None
        # By zone: when its pending wake-up is due.
        self._pending: dict[str, float] = {}
        # By zone: the trace of the first of the merged wake-ups that are pending.
        self._traces: dict[str, TraceContext] = {}
        # By zone: the earliest time of its next wake-up.
        self._next_due: dict[str, float] = {}
        self._change = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the sending thread. It is not an error if Redis is down."""
        if self._sender and self._thread is None:
            self._thread = threading.Thread(
                target=self._send_forever, name="opsjobs-notifier", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Send pending wake-ups if Redis responds; return within STOP_SECONDS_MAX in any case."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread:
            self._thread.join(STOP_SECONDS_MAX)

    def notify(self, zone: str) -> None:
        """Wake a worker of `zone`: there is something to claim. Callable from any thread."""
        with self._change:
            if zone in self._pending:
                self._count("merged")
            elif self._sender is None or self._stopping or len(self._pending) >= ZONES_MAX:
                self._count("dropped")
            else:
                self._pending[zone] = self._next_due.get(zone, 0.0)
                if (trace := trace_context.current()) is not None:
                    self._traces[zone] = trace
                self._change.notify_all()

    def _send_forever(self) -> None:
        backoff = Backoff(BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_LAST)
        while (zone := self._next_zone()) is not None:
            began, trace = time.monotonic(), self._traces.pop(zone, None)
            try:
                assert self._sender is not None
                result = "sent" if self._sender.send(zone) else "merged"
                self._count(result)
                _record_wakeup(began, trace, zone, result)
                backoff.reset()
            except Exception as error:  # noqa: BLE001  a wake-up is only a hint: drop it
                self._drop(zone, error, first=backoff.is_first)
                _record_wakeup(began, trace, zone, "dropped")
                self._pause(backoff.next())
        if self._sender:
            self._sender.close()

    def _next_zone(self) -> str | None:
        """Wait for and return the zone whose wake-up is due; None after the stop."""
        with self._change:
            while self._pending or not self._stopping:
                zone, due = min(
                    self._pending.items(), key=lambda pending: pending[1], default=("", math.inf)
                )
                left = due - time.monotonic()
                if left <= 0 or self._stopping:
                    del self._pending[zone]
                    self._space(zone)
                    return zone
                self._change.wait(None if due == math.inf else left)
            return None

    def _space(self, zone: str) -> None:
        now = time.monotonic()
        self._next_due[zone] = now + SPACING_SECONDS
        if len(self._next_due) > ZONES_MAX:
            self._next_due = {other: due for other, due in self._next_due.items() if due > now}

    def _drop(self, zone: str, error: Exception, *, first: bool) -> None:
        self._count("dropped")
        if self._sender:
            self._sender.close()
        if first:
            log.warning(
                "redis_unavailable", hint="workers poll instead", zone=zone, error=repr(error)
            )
        with self._change:
            if self._stopping:
                self._pending.clear()
                self._traces.clear()

    def _pause(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        with self._change:
            while not self._stopping and (left := ends - time.monotonic()) > 0:
                self._change.wait(left)

    def _count(self, result: str) -> None:
        self._metrics.wakeups.labels(result=result).inc()


def _record_wakeup(began: float, trace: TraceContext | None, zone: str, result: str) -> None:
    if trace is not None:
        tracing.record(
            "wakeup", began, parent=trace, kind=SpanKind.PRODUCER, zone=zone, result=result
        )


class _Sender:
    """The Redis connection of the sending thread."""

    def __init__(self, url: str) -> None:
        self._app = WakeupApp(url)
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def send(self, zone: str) -> bool:
        """Queue a wake-up; return False if one is queued already. Raises kombu's exceptions."""
        producer = self._producer or self._connect()
        queue = wakeup_queue(zone)
        expiry = producer.channel.prepare_queue_arguments({}, expires=queue.expires)
        if producer.channel.queue_declare(queue.name, arguments=expiry).message_count:
            return False
        self._app.send_task(
            WAKEUP,
            (zone,),
            queue=queue,
            producer=producer,
            retry=False,
            declare=(),
            ignore_result=True,
        )
        return True

    def close(self) -> None:
        """Close the connection; the next `send` opens a new one."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.release()

    def _connect(self) -> Producer:
        timeouts = {
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "client_name": "opsjobs-notifier",
        }
        self._connection = self._app.connection_for_write(transport_options=timeouts)
        self._connection.ensure_connection(max_retries=0)
        # A separate channel: the default channel of a connection retries without limit.
        self._producer = self._app.amqp.Producer(self._connection.channel(), auto_declare=False)
        return self._producer
