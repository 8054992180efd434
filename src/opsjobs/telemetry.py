"""Logs (one JSON object a line) and metrics (Prometheus) of a process."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TextIO
from weakref import WeakSet

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.types import FilteringBoundLogger

from opsjobs.model.masking import Forms, Mask

# A longer traceback loses its first frames: the last ones show the failure.
TRACEBACK_CHARACTERS_MAX = 16_384
# The longest value of any other key: a banner or a response of a broken server may have any size.
TEXT_CHARACTERS_MAX = 8_192
SCRAPE_TIMEOUT_SECONDS = 10.0
SCRAPES_MAX = 32
ACCEPT_PAUSE_SECONDS = 0.2
# Libraries that log each connection or request at INFO: noise that costs more than the work itself.
CHATTY_LIBRARIES = (
    "asyncssh",
    "uvicorn.access",
    "httpx2",
    "httpcore2",
    "kombu",
    "amqp",
    "celery.worker.strategy",
    "celery.app.trace",
)
# Loggers with their own handlers: their records go through the root logger instead.
ROUTED_LIBRARIES = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "celery",
    "kombu",
    "asyncssh",
    "alembic",
    "sqlalchemy",
)

log: FilteringBoundLogger = structlog.get_logger()

_HIDDEN: WeakSet[Forms] = WeakSet()
_HIDING = threading.Lock()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400)
_RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_FLUSH_BYTES = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 2_097_152)
_FLUSH_ENTRIES = (1, 4, 16, 64, 256, 1024, 4096)


def configure(process: str, level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Write log lines of at least `level` to `stream` (default: stdout).

    This includes lines of libraries. Each line has `process`.
    Raises ValueError for an unknown level.
    """
    least = _level(level)
    sink = _Sink(stream)
    shared = _shared_processors(process)
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    _route_libraries(sink, shared, least)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def bound(**names: object) -> AbstractContextManager[None]:
    """Return a context whose log lines have these keys.

    This holds in the current task and in the tasks that it starts.
    """
    return structlog.contextvars.bound_contextvars(**names)


def hide(forms: Forms) -> None:
    """Redact these secrets in the log lines of this process.

    This holds as long as another reference to the forms exists.
    """
    with _HIDING:
        _HIDDEN.add(forms)


def _redaction() -> Mask:
    with _HIDING:
        return Mask(_HIDDEN)


class Metrics:
    """The metrics of this process. Metrics of the whole service are read from PostgreSQL."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # half typed
        self.registry = CollectorRegistry()
        self._listener: ThreadingHTTPServer | None = None
        prometheus_client.ProcessCollector(namespace="opsjobs", registry=self.registry)
        self._add_engine_metrics()
        self._add_schedule_metrics()
        self._add_message_metrics()
        self._add_http_metrics()

    def _add_engine_metrics(self) -> None:
        self.runs_finished = self._counter(
            "runs_finished", "Target runs ended, by final status", "status"
        )
        self.run_seconds = self._histogram(
            "run_seconds", "From claim to end of a target run", _RUN_SECONDS
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
        self.connections = self._gauge("connections", "Open connections to targets")
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
        self.texts_unjudged = self._counter(
            "texts_unjudged",
            "Texts that the safety check could not judge, by reason: time, memory, crash",
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

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def serve(self, host: str, port: int) -> int:
        """Serve `GET /metrics` without a token, on a thread, until `close`.

        Return the port; port 0 selects a free one.
        Raises OSError with the address if it cannot listen.
        """
        try:
            self._listener = _Listener((host, port), _page_class(self))
        except OSError as refused:
            message = (
                f"METRICS_PORT: cannot listen on {host}:{port} ({refused.strerror}). "
                "Change or unset it."
            )
            raise OSError(refused.errno, message) from refused
        threading.Thread(
            target=self._listener.serve_forever, name="opsjobs-metrics", daemon=True
        ).start()
        return int(self._listener.server_address[1])

    def close(self) -> None:
        """Stop the listener, if there is one."""
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown()
            listener.server_close()

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


class _Sink:
    """Writes whole lines, one thread at a time; write errors are ignored."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        stream = self._stream or sys.stdout
        with self._lock:
            try:
                stream.write(text + "\n")
                stream.flush()
            except (OSError, ValueError):
                return

    debug = info = warning = error = critical = msg = line


class _SinkHandler(logging.Handler):
    """Passes records of the standard library to the sink."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.line(self.format(record))
        except Exception:  # noqa: BLE001  a library's broken log call must not break the library
            self._sink.line(
                json.dumps({"level": "error", "event": "log_line_failed", "logger": record.name})
            )


def _shared_processors(process: str) -> list[structlog.types.Processor]:
    def name_process(
        _: object, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        name_process,
        structlog.processors.format_exc_info,
    ]


def _route_libraries(sink: _Sink, shared: list[structlog.types.Processor], least: int) -> None:
    handler = _SinkHandler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # DEBUG lines of libraries may hold passwords or data.
    root.setLevel(max(least, logging.INFO))
    for name in ROUTED_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    mask = _redaction()
    line = {key: event.pop(key, None) for key in ("timestamp", "level", "event")}
    line.update((key, _shorten(key, mask.tree(value))) for key, value in event.items())
    line["event"] = _shorten("event", mask.tree(line["event"]))
    try:
        return json.dumps(line, default=lambda thing: mask.text(str(thing)), allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(
            {str(key): _shorten("", mask.text(str(value))) for key, value in line.items()}
        )


def _shorten(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key == "exception":
        return (
            value
            if len(value) <= TRACEBACK_CHARACTERS_MAX
            else "… " + value[-TRACEBACK_CHARACTERS_MAX:]
        )
    return value if len(value) <= TEXT_CHARACTERS_MAX else value[:TEXT_CHARACTERS_MAX] + " …"


def _level(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.strip().upper())
    if not number:
        raise ValueError(
            f"LOG_LEVEL: unknown level {name!r}. Use DEBUG, INFO, WARNING, ERROR or CRITICAL."
        )
    return number


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("uncaught_exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        thread = args.thread.name if args.thread else "?"
        log.critical(
            "uncaught_exception",
            thread=thread,
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


class _Listener(ThreadingHTTPServer):
    """Serves a few connections at a time, each with a time limit.

    A slow or silent client blocks no scraper.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, page)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

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


def _page_class(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class _MetricsPage(BaseHTTPRequestHandler):
        timeout = SCRAPE_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = metrics.text() if found else b"Not found. This port serves /metrics.\n"
            self.send_response(200 if found else 404)
            self.send_header(
                "Content-Type", prometheus_client.CONTENT_TYPE_LATEST if found else "text/plain"
            )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: scrapes come every few seconds."""

    return _MetricsPage
