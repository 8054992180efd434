"""Metrics of a process, in the format of Prometheus, and the listener that serves them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400)
_RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_EXECUTION_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)
_FLUSH_BYTES = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 2_097_152)
_FLUSH_ENTRIES = (1, 4, 16, 64, 256, 1024, 4096)


class Metrics:
    """The metrics of this process. Metrics of the whole service are read from PostgreSQL."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # half typed
        self.registry = CollectorRegistry()
        self._listener: MetricsListener | None = None
        prometheus_client.ProcessCollector(namespace="opsjobs", registry=self.registry)
        self._add_engine_metrics()
        self._add_schedule_metrics()
        self._add_message_metrics()
        self._add_http_metrics()

    def _add_engine_metrics(self) -> None:
        self.runs_finished = self._counter(
            "runs_finished", "Target runs ended, by final status and job type", "status", "type"
        )
        self.run_seconds = self._histogram(
            "run_seconds", "From claim to end of a target run, by job type", _RUN_SECONDS, "type"
        )
        self.run_queue_seconds = self._histogram(
            "run_queue_seconds", "From the launch of a target run to its first claim", _LAG_SECONDS
        )
        self.runs_running = self._gauge("runs_running", "Target runs in work in this process")
        self.claims = self._counter("claims", "Target runs claimed")
        self.claim_seconds = self._histogram("claim_seconds", "One claim statement", _SECONDS)
        self.flush_seconds = self._histogram(
            "flush_seconds", "One group commit of results and output", _SECONDS
        )
        self.flush_bytes = self._histogram(
            "flush_bytes", "Output bytes in one group commit", _FLUSH_BYTES
        )
        self.flush_entries = self._histogram(
            "flush_entries", "Log entries in one group commit", _FLUSH_ENTRIES
        )
        self.verb_repeats = self._counter(
            "verb_repeats", "Transactions repeated after a deadlock or serialisation error"
        )
        self.stale_writes = self._counter(
            "stale_writes", "Writes dropped because another worker owns the target run"
        )
        self.executions_finished = self._counter(
            "executions_finished", "Executions ended, by status and job type", "status", "type"
        )
        self.execution_seconds = self._histogram(
            "execution_seconds",
            "From the launch of an execution to its end, by job type",
            _EXECUTION_SECONDS,
            "type",
        )
        self._add_resource_metrics()
        self._add_connection_metrics()

    def _add_resource_metrics(self) -> None:
        self.event_loop_lag = self._histogram(
            "event_loop_lag_seconds", "Delay of a timer of the event loop", _SECONDS
        )
        self.database_connections = self._gauge(
            "database_connections", "Connections of this process to PostgreSQL, by state", "state"
        )

    def _add_connection_metrics(self) -> None:
        self.connections = self._gauge("connections", "Open connections to targets")
        self.connections_idle = self._gauge(
            "connections_idle", "Open connections to targets that no run uses"
        )
        self.handshakes = self._gauge("handshakes", "Logins to targets in progress")
        self.handshakes_waiting = self._gauge(
            "handshakes_waiting", "Logins to targets that wait for the limits of their host"
        )
        self.connect_failures = self._counter(
            "connect_failures", "Connection attempts that failed, by error code", "code"
        )
        self.connect_seconds = self._histogram(
            "connect_seconds", "From connect to logged in, one target", _SECONDS
        )
        self.circuits_opened = self._counter(
            "circuits_opened", "Circuits opened by this process, by error code", "code"
        )
        self.circuits_closed = self._counter("circuits_closed", "Circuits closed by this process")
        self.circuits_refused = self._counter(
            "circuits_refused",
            "Connection attempts refused by an open circuit, by its error code",
            "code",
        )

        self.host_keys_refused = self._counter(
            "host_keys_refused", "Connections refused because of an unknown or changed host key"
        )

    def _add_schedule_metrics(self) -> None:
        self.schedule_fired = self._counter("schedule_fired", "Scheduled firings launched")
        self.schedule_missed = self._counter("schedule_missed", "Scheduled firings missed")
        self.schedule_skipped = self._counter(
            "schedule_skipped", "Scheduled firings skipped, by rule", "rule"
        )
        self.schedule_failed = self._counter(
            "schedule_failed", "Scheduled firings whose launch failed"
        )
        self.schedule_start_lag = self._histogram(
            "schedule_start_lag_seconds",
            "From the due time of a firing to its execution",
            _LAG_SECONDS,
        )
        self.schedule_late_starts = self._counter(
            "schedule_late_starts", "Executions launched a minute late or more"
        )
        self.trigger_calls = self._counter(
            "trigger_calls", "Calls of triggers, by outcome", "outcome"
        )

    def _add_message_metrics(self) -> None:
        self.wakeups = self._counter(
            "wakeups",
            "Wake-ups of workers, by result: sent, merged, dropped (no Redis), received",
            "result",
        )
        self.pubsub_dropped = self._counter(
            "pubsub_dropped", "Pub/sub messages dropped: Redis unavailable, or a full queue"
        )
        self.file_bytes = self._counter(
            "file_bytes", "Bytes of files uploaded to targets and downloaded from them", "direction"
        )
        self.events_published = self._counter("events_published", "Events published")
        self.notifications = self._counter(
            "notifications",
            "Notifications decided on, by event and decision (send, gather, hold)",
            "event",
            "decision",
        )
        self.delivery_attempts = self._counter(
            "delivery_attempts",
            "Attempts to deliver a message, by destination and result",
            "destination",
            "result",
        )
        self.delivery_seconds = self._histogram(
            "delivery_seconds", "One attempt to deliver a message", _SECONDS, "destination"
        )
        self.texts_unjudged = self._counter(
            "texts_unjudged",
            "Texts that the safety check could not check, by reason: time, memory, crash",
            "reason",
        )
        self.upkeep_failures = self._counter(
            "upkeep_failures", "Failed steps of housekeeping and retention", "step"
        )
        self.bugs = self._counter("bugs", "Unexpected exceptions, by part of the service", "where")

    def _add_http_metrics(self) -> None:
        self.http_request_seconds = self._histogram(
            "http_request_seconds",
            "One HTTP request, up to the end of its response",
            _SECONDS,
            "method",
            "route",
            "status",
        )
        self.stream_clients = self._gauge("stream_clients", "Open event streams")
        self.service_requests = self._counter(
            "service_requests", "Requests to the platform's services", "service", "outcome"
        )
        self.service_request_seconds = self._histogram(
            "service_request_seconds",
            "One request to a service of the platform",
            _SECONDS,
            "service",
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def serve(self, host: str, port: int, probes: Mapping[str, Probe] | None = None) -> int:
        """Serve `GET /metrics` without a token, on a thread, until `close`.

        `probes` are further pages, by path. Return the port; port 0 selects a free one.
        Raises OSError with the address if it cannot listen.
        """
        self._listener = MetricsListener(host, port, self.text, probes or {})
        self._listener.start()
        return self._listener.port

    def close(self) -> None:
        """Stop the listener, if there is one."""
        listener, self._listener = self._listener, None
        if listener:
            listener.stop()

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"opsjobs_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"opsjobs_{name}", description, labels, registry=self.registry)

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"opsjobs_{name}", description, labels, buckets=buckets, registry=self.registry
        )


# --- the listener of METRICS_PORT: metrics and probes without a token, on its own threads


SCRAPE_TIMEOUT_SECONDS = 10.0
SCRAPES_MAX = 32
ACCEPT_PAUSE_SECONDS = 0.2

Probe = Callable[[], str | None]
"""Return why the probe fails, or None. Called on a thread of the listener."""


class MetricsListener(ThreadingHTTPServer):
    """Serves a few connections at a time, each with a time limit.

    A slow or silent client blocks no scraper.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        text: Callable[[], bytes],
        probes: Mapping[str, Probe],
    ) -> None:
        """Listen; port 0 selects a free one. Raises OSError with the address if it cannot."""
        try:
            super().__init__((host, port), _page_class(text, probes))
        except OSError as refused:
            message = (
                f"METRICS_PORT: cannot listen on {host}:{port} ({refused.strerror}). "
                "Change or unset it."
            )
            raise OSError(refused.errno, message) from refused
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, on a thread, until `stop`."""
        threading.Thread(target=self.serve_forever, name="opsjobs-metrics", daemon=True).start()

    def stop(self) -> None:
        """Stop to listen."""
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; pause after an error.

        Without the pause, a lack of descriptors would make the selector retry in a tight loop.
        """
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection; close the oldest one if there are too many."""
        with self._lock:
            self._open[request] = time.monotonic()
            oldest = next(iter(self._open)) if len(self._open) > SCRAPES_MAX else None
            if oldest is not None:
                del self._open[oldest]
                _shut_down(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client disconnected; the page itself cannot fail."""

    def service_actions(self) -> None:
        """Close the connections whose time limit has passed; called twice a second."""
        now = time.monotonic()
        with self._lock:
            for request in [
                request
                for request, began in self._open.items()
                if now >= began + SCRAPE_TIMEOUT_SECONDS
            ]:
                del self._open[request]
                _shut_down(request)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client has closed it already
        connection.shutdown(socket.SHUT_RDWR)


def _page_class(
    text: Callable[[], bytes], probes: Mapping[str, Probe]
) -> type[BaseHTTPRequestHandler]:
    class _MetricsPage(BaseHTTPRequestHandler):
        timeout = SCRAPE_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, text())
            elif path in probes:
                reason = probes[path]()
                body = (
                    {"status": "unavailable", "reasons": [reason]} if reason else {"status": "ok"}
                )
                status = 503 if reason else 200
                self._answer(status, "application/json", json.dumps(body).encode())
            else:
                pages = ", ".join(("/metrics", *probes))
                self._answer(404, "text/plain", f"Not found. This port serves {pages}.\n".encode())

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: scrapes come every few seconds."""

    return _MetricsPage
