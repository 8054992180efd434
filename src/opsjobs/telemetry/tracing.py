"""Spans: how long the steps of a request and of a run take.

Without the extra `otel`, or without an exporter in the settings, nothing is recorded: a span costs
a comparison, and no module of OpenTelemetry is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Protocol

from opsjobs.telemetry import trace_context
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.trace_context import TraceContext

Attribute = str | int | float | bool | None
"""The value of an attribute; None leaves the attribute out."""

_BACKEND = "opsjobs.telemetry.otel"
_LIBRARIES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class SpanKind(Enum):
    """The role of a span, as OpenTelemetry defines it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class TraceSpan(Protocol):
    """A span that is open. Attributes must hold no secrets, no output and no commands."""

    def rename(self, name: str) -> None:
        """Change the name."""

    def annotate(self, **attributes: Attribute) -> None:
        """Add attributes; their names get the prefix `opsjobs.` unless they contain a dot."""

    def fail(self, code: str) -> None:
        """Mark the span as failed, with an error code of opsjobs."""


class RecordedSpan(TraceSpan, Protocol):
    """A span of a recorder."""

    @property
    def context(self) -> TraceContext:
        """Its place in the trace; `sampled` is False if the sampler left it out."""

    def end(self, ended: float | None = None) -> None:
        """End it, now or at a monotonic time."""


class Recorder(Protocol):
    """A library that records spans."""

    def start(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None,
        links: Sequence[TraceContext],
        began: float | None,
        attributes: Mapping[str, Attribute],
    ) -> RecordedSpan:
        """Start a span: a new trace if it has no parent. `began` is in monotonic seconds."""

    def stop(self) -> None:
        """Export the ended spans and stop, within a few seconds."""


class _NoSpan:
    """A span that is not recorded."""

    def rename(self, name: str) -> None:
        """Do nothing."""

    def annotate(self, **attributes: Attribute) -> None:
        """Do nothing."""

    def fail(self, code: str) -> None:
        """Do nothing."""


_NO_SPAN: TraceSpan = _NoSpan()
_NOTHING: AbstractContextManager[TraceSpan] = nullcontext(_NO_SPAN)
_recorder: Recorder | None = None


def install(recorder: Recorder | None) -> None:
    """Record the spans of this process with this recorder; None: record none."""
    global _recorder  # noqa: PLW0603  one for the process, as its log
    _recorder = recorder


def start(process: str) -> None:
    """Record spans if the standard variables name an exporter, and the extra is installed."""
    if not is_requested(os.environ):
        return
    if not _is_installed():
        log.warning(
            "traces_not_recorded",
            reason="OpenTelemetry is not installed",
            hint="pip install 'opsconductor-jobs[otel]'",
        )
        return
    install(import_module(_BACKEND).build_recorder(process))
    log.info("traces_recorded")


def is_requested(environment: Mapping[str, str]) -> bool:
    """Return True if OTEL_TRACES_EXPORTER or an OTLP endpoint asks for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter == "otlp"
    return any(environment.get(name, "").strip() for name in _ENDPOINTS)


def _is_installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in _LIBRARIES)
    except ModuleNotFoundError:  # a parent package is missing
        return False


def stop() -> None:
    """Export the last spans and record no more."""
    recorder = _recorder
    install(None)
    if recorder is not None:
        recorder.stop()


def is_active() -> bool:
    """Return True if this process records spans."""
    return _recorder is not None


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    began: float | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[TraceSpan]:
    """Return a context manager for a step of the current trace; nothing outside of a trace.

    The span is the parent of the spans within. An exception marks it as failed with the exception's
    `code`, or its class; its message may hold secrets and is left out.
    """
    parent = trace_context.current()
    if _recorder is None or parent is None or not parent.sampled:
        return _NOTHING
    return _OpenSpan(
        _recorder.start(
            name, kind=kind, parent=parent, links=(), began=began, attributes=attributes
        )
    )


def entry(
    name: str,
    parent: TraceContext | None,
    *,
    kind: SpanKind = SpanKind.SERVER,
    links: Sequence[TraceContext] = (),
    began: float | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[TraceSpan]:
    """Return a context manager for work that enters this process: its trace becomes current.

    Without a parent it begins a new trace, also if nothing is recorded.
    """
    if _recorder is None:
        return unrecorded(parent)
    return _OpenSpan(
        _recorder.start(
            name, kind=kind, parent=parent, links=links, began=began, attributes=attributes
        )
    )


def unrecorded(parent: TraceContext | None) -> AbstractContextManager[TraceSpan]:
    """Return a context manager for work that enters this process and is not worth a span.

    Its trace becomes current: that of the caller, or a new one of which nothing is recorded.
    """
    return _EnteredTrace(parent or TraceContext.begin())


def record(
    name: str,
    began: float,
    ended: float | None = None,
    *,
    parent: TraceContext | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    error: str | None = None,
    **attributes: Attribute,
) -> None:
    """Record a step that is over, under `parent` or the current context; times are monotonic."""
    parent = parent or trace_context.current()
    if _recorder is None or parent is None or not parent.sampled:
        return
    done = _recorder.start(
        name, kind=kind, parent=parent, links=(), began=began, attributes=attributes
    )
    if error is not None:
        done.fail(error)
    done.end(time.monotonic() if ended is None else max(ended, began))


class _EnteredTrace:
    """A trace of which no span is recorded."""

    def __init__(self, context: TraceContext) -> None:
        self._within = trace_context.within(context)

    def __enter__(self) -> TraceSpan:
        self._within.__enter__()
        return _NO_SPAN

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._within.__exit__(kind, error, trace)


class _OpenSpan:
    """A recorded span whose context is current while it is open."""

    def __init__(self, recorded: RecordedSpan) -> None:
        self._recorded = recorded
        self._within = trace_context.within(recorded.context)

    def __enter__(self) -> TraceSpan:
        self._within.__enter__()
        return self._recorded

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._within.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            code = getattr(error, "code", None)
            self._recorded.fail(str(code) if code is not None else type(error).__name__)
        self._recorded.end()
