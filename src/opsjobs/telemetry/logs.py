"""Logs of a process: one JSON object a line, including the lines of libraries."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TextIO
from weakref import WeakSet

import structlog
from structlog.types import FilteringBoundLogger

from opsjobs.model.masking import Forms, Mask
from opsjobs.telemetry import trace_context

# A longer traceback loses its first frames: the last ones show the failure.
TRACEBACK_CHARACTERS_MAX = 16_384
# The longest value of any other key: a banner or a response of a broken server may have any size.
TEXT_CHARACTERS_MAX = 8_192
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

    def name_trace(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        context = trace_context.current()
        if context is not None:
            event.setdefault("trace_id", context.trace_id)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        name_process,
        name_trace,
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
