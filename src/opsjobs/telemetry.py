"""What a process says about itself: log lines of one JSON object each, and numbers for Prometheus."""

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

# A traceback is cut to this many characters, keeping its end: the last frames say what broke.
TRACEBACK_CHARACTERS_AT_MOST = 16_384
# Any other text of a line: a remote machine's banner or a broken peer's answer may be any size.
TEXT_CHARACTERS_AT_MOST = 8_192
SCRAPE_TIMEOUT_SECONDS = 10.0
SCRAPES_MAX = 32
ACCEPT_PAUSE_SECONDS = 0.2
# Libraries that tell every connection or request at INFO: of no use to an operator, and one line each costs more than the work.
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
# Loggers that come with handlers of their own, or get them from a library's set-up: everything goes through the root.
ROUTED_LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "kombu", "asyncssh", "alembic", "sqlalchemy")

log: FilteringBoundLogger = structlog.get_logger()

_HIDDEN: WeakSet[Forms] = WeakSet()
_HIDING = threading.Lock()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LAG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400)
_RUN_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_FLUSH_BYTES = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 2_097_152)
_FLUSH_ENTRIES = (1, 4, 16, 64, 256, 1024, 4096)


def configure(process: str, level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Write log lines of at least `level` to `stream` (standard output), each with `process`; a library's lines, too.

    Raises ValueError for a level that is no level's name.
    """
    least = _level(level)
    sink = _Sink(stream)
    shared = _shared_steps(process)
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
    """`with bound(execution=7, target_run=12):` puts these keys on every line written inside, in this task and what it starts."""
    return structlog.contextvars.bound_contextvars(**names)


def hide(forms: Forms) -> None:
    """From now on no line of this process shows these secrets, for as long as somebody else keeps the forms."""
    with _HIDING:
        _HIDDEN.add(forms)


def _hidden() -> Mask:
    with _HIDING:
        return Mask(_HIDDEN)


class Metrics:
    """The numbers of this process. Every process serves its own; what the fleet has in common is read from PostgreSQL."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types most of itself
        self.registry = CollectorRegistry()
        self._listener: ThreadingHTTPServer | None = None
        prometheus_client.ProcessCollector(namespace="opsjobs", registry=self.registry)
        self._engine_numbers()
        self._schedule_numbers()
        self._message_numbers()
        self._http_numbers()

    def _engine_numbers(self) -> None:
        self.runs_finished = self._counter("runs_finished", "Target runs ended, by final status", "status")
        self.run_seconds = self._histogram("run_seconds", "From claim to end of a target run", _RUN_SECONDS)
        self.runs_running = self._gauge("runs_running", "Target runs this process works on now")
        self.claims = self._counter("claims", "Target runs claimed")
        self.claim_seconds = self._histogram("claim_seconds", "One claim statement", _SECONDS)
        self.flush_seconds = self._histogram("flush_seconds", "One group commit of results and output", _SECONDS)
        self.flush_bytes = self._histogram("flush_bytes", "Output bytes in one group commit", _FLUSH_BYTES)
        self.flush_entries = self._histogram("flush_entries", "Log entries in one group commit", _FLUSH_ENTRIES)
        self.verb_repeats = self._counter("verb_repeats", "Transactions repeated after a deadlock or serialisation error")
        self.stale_writes = self._counter("stale_writes", "Writes dropped because another worker owns the target run")
        self.connections = self._gauge("connections", "Open connections to targets")
        self.connect_seconds = self._histogram("connect_seconds", "From connect to logged in, one target", _SECONDS)
        self.circuits_opened = self._counter("circuits_opened", "Circuits that this process has opened, by why", "code")
        self.circuits_closed = self._counter("circuits_closed", "Circuits that this process has closed again")
        self.circuits_refused = self._counter(
            "circuits_refused", "Connects that an open circuit has refused, by why it is", "code"
        )

        self.host_keys_refused = self._counter("host_keys_refused", "Connects to machines that showed no good host key")

    def _schedule_numbers(self) -> None:
        self.schedule_fired = self._counter("schedule_fired", "Due moments of schedules that were launched")
        self.schedule_missed = self._counter("schedule_missed", "Due moments that nobody fired in time, and that were not run")
        self.schedule_skipped = self._counter("schedule_skipped", "Due moments that a rule kept from being launched", "rule")
        self.schedule_failed = self._counter("schedule_failed", "Due moments whose launch was refused, or failed for too long")
        self.schedule_start_lag = self._histogram("schedule_start_lag_seconds", "From the moment to its execution", _LAG_SECONDS)
        self.schedule_late_starts = self._counter("schedule_late_starts", "Executions launched a minute late or more")

    def _message_numbers(self) -> None:
        self.bells = self._counter("bells", "Bells: rung, merged with one that waits, dropped (no Redis), heard", "result")
        self.bus_dropped = self._counter("bus_dropped", "Bus messages dropped: Redis away, or a full queue or reader")
        self.file_bytes = self._counter("file_bytes", "Bytes of files brought to targets and from them", "direction")
        self.events_published = self._counter("events_published", "Events handed to the bus")
        self.texts_unjudged = self._counter(
            "texts_unjudged", "Texts that the safety check could not judge, by why: time, memory, crash", "reason"
        )
        self.upkeep_failures = self._counter("upkeep_failures", "Steps of housekeeping and retention that have failed", "step")
        self.bugs = self._counter("bugs", "Faults of our own, by the part that noticed", "where")

    def _http_numbers(self) -> None:
        self.http_request_seconds = self._histogram(
            "http_request_seconds", "One HTTP request, to the end of its answer", _SECONDS, "method", "route", "status"
        )
        self.sse_viewers = self._gauge("sse_viewers", "Open event streams")

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def serve(self, host: str, port: int) -> int:
        """Answer `GET /metrics` without a token, on a thread, until `close`; gives the port (for port 0, the one found free).

        Raises OSError naming the address where it cannot listen.
        """
        try:
            self._listener = _Listener((host, port), _page_of(self))
        except OSError as refused:
            message = f"The metrics listener cannot use {host}:{port} ({refused.strerror}): change or unset METRICS_PORT."
            raise OSError(refused.errno, message) from refused
        threading.Thread(target=self._listener.serve_forever, name="opsjobs-metrics", daemon=True).start()
        return int(self._listener.server_address[1])

    def close(self) -> None:
        """End the listener, if there is one."""
        listener, self._listener = self._listener, None
        if listener:
            listener.shutdown()
            listener.server_close()

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"opsjobs_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"opsjobs_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"opsjobs_{name}", words, labels, buckets=buckets, registry=self.registry)


class _Sink:
    """Writes whole lines, one thread at a time; a log that cannot be written stops nobody."""

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


class _ToSink(logging.Handler):
    """The standard library's way into the same sink."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.line(self.format(record))
        except Exception:  # noqa: BLE001  a library's broken log call must not break the library
            self._sink.line(json.dumps({"level": "error", "event": "a log line could not be written", "logger": record.name}))


def _shared_steps(process: str) -> list[structlog.types.Processor]:
    def name_process(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
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
    handler = _ToSink(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # A library's DEBUG is not for operators: it may hold what was typed or sent.
    root.setLevel(max(least, logging.INFO))
    for name in ROUTED_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name in CHATTY_LIBRARIES:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))


def _render(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    mask = _hidden()
    line = {key: event.pop(key, None) for key in ("timestamp", "level", "event")}
    line.update((key, _cut(key, mask.tree(value))) for key, value in event.items())
    line["event"] = _cut("event", mask.tree(line["event"]))
    try:
        return json.dumps(line, default=lambda thing: mask.text(str(thing)), allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps({str(key): _cut("", mask.text(str(value))) for key, value in line.items()})


def _cut(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key == "exception":
        return value if len(value) <= TRACEBACK_CHARACTERS_AT_MOST else "… " + value[-TRACEBACK_CHARACTERS_AT_MOST:]
    return value if len(value) <= TEXT_CHARACTERS_AT_MOST else value[:TEXT_CHARACTERS_AT_MOST] + " …"


def _level(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.strip().upper())
    if not number:
        raise ValueError(f"LOG_LEVEL is {name!r}: use DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    return number


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("uncaught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        thread = args.thread.name if args.thread else "?"
        log.critical("uncaught", thread=thread, exc_info=(args.exc_type, args.exc_value, args.exc_traceback))


class _Listener(ThreadingHTTPServer):
    """Answers a few connections at a time, each for a short time in all: whoever is silent or slow keeps no scraper out."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, page)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept. Out of descriptors, the selector would try again at once, and for ever."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room for it: the oldest connection goes."""
        with self._lock:
            self._open[request] = time.monotonic()
            oldest = next(iter(self._open)) if len(self._open) > SCRAPES_MAX else None
            if oldest is not None:
                del self._open[oldest]
                _hang_up(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; the page itself cannot fail."""

    def service_actions(self) -> None:
        """Cut the connections whose time is over; called twice a second."""
        now = time.monotonic()
        with self._lock:
            for request in [request for request, began in self._open.items() if now >= began + SCRAPE_TIMEOUT_SECONDS]:
                del self._open[request]
                _hang_up(request)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone by itself
        connection.shutdown(socket.SHUT_RDWR)


def _page_of(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class _MetricsPage(BaseHTTPRequestHandler):
        timeout = SCRAPE_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = metrics.text() if found else b"There is only /metrics here.\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", prometheus_client.CONTENT_TYPE_LATEST if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape every few seconds is no news."""

    return _MetricsPage
