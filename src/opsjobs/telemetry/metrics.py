"""Metrics of a process, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from opsjobs.telemetry.metrics_listener import MetricsListener, Probe

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
