"""Spans by OpenTelemetry's SDK over OTLP/HTTP, loaded only if traces are requested.

The SDK reads the standard variables itself: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_*, OTEL_BSP_*.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from opsjobs import __version__
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import Attribute, RecordedSpan, SpanKind

NAMESPACE = "opsjobs"
STOP_SECONDS = 3.0
"""Time limit of the export of the last spans when the process ends."""

ERROR_LOG_SECONDS = 60.0

_KINDS = {
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.PRODUCER: trace.SpanKind.PRODUCER,
    SpanKind.CONSUMER: trace.SpanKind.CONSUMER,
}


class OtelSpan:
    """One span of the SDK; `tracing` calls it through its protocol."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        found = span.get_span_context()
        self._context = TraceContext(
            trace.format_trace_id(found.trace_id),
            trace.format_span_id(found.span_id),
            found.trace_flags.sampled,
        )

    @property
    def context(self) -> TraceContext:
        """Its place in the trace."""
        return self._context

    def rename(self, name: str) -> None:
        """Change the name."""
        self._span.update_name(name)

    def annotate(self, **attributes: Attribute) -> None:
        """Add attributes."""
        self._span.set_attributes(_sdk_attributes(attributes))

    def fail(self, code: str) -> None:
        """Mark the span as failed, with an error code."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self, ended: float | None = None) -> None:
        """End it, now or at a monotonic time."""
        self._span.end(_wall_nanoseconds(ended))


class OtelRecorder:
    """Records spans with a tracer of its own, apart from a global one of the application."""

    def __init__(self, process: str, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(resource=_resource(process), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("opsjobs", __version__)

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
        """Start a span; the sampler of the SDK decides if it is recorded."""
        context = trace.set_span_in_context(
            trace.INVALID_SPAN if parent is None else trace.NonRecordingSpan(_sdk_context(parent))
        )
        return OtelSpan(
            self._tracer.start_span(
                name,
                context,
                _KINDS[kind],
                _sdk_attributes(attributes),
                [trace.Link(_sdk_context(link)) for link in links],
                _wall_nanoseconds(began),
            )
        )

    def stop(self) -> None:
        """Export the ended spans; a collector that does not answer delays it for 3 seconds."""
        # The SDK's own time limit does not end an export that has begun.
        last = threading.Thread(target=self._provider.shutdown, name="opsjobs-traces", daemon=True)
        last.start()
        last.join(STOP_SECONDS)


class _ExportErrors(logging.Filter):
    """Pass an error of the exporter once a minute, and none of its retries.

    It logs several lines for each batch, every few seconds, while the collector is down.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for a record that is to be logged."""
        now = time.monotonic()
        if record.levelno < logging.ERROR or now < self._next:
            return False
        self._next = now + ERROR_LOG_SECONDS
        return True


def build_recorder(process: str) -> OtelRecorder:
    """Return the recorder of a process, which exports in batches over OTLP/HTTP."""
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_ExportErrors())
    return OtelRecorder(process, BatchSpanProcessor(OTLPSpanExporter()))


def _resource(process: str) -> Resource:
    """Return the description of the process; OTEL_SERVICE_NAME and others take precedence."""
    named = {
        "service.name": f"{NAMESPACE}-{process}",
        "service.namespace": NAMESPACE,
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
    }
    return Resource.create({**named, **OTELResourceDetector().detect().attributes})


def _sdk_attributes(attributes: Mapping[str, Attribute]) -> dict[str, str | int | float | bool]:
    return {
        name if "." in name else f"{NAMESPACE}.{name}": value
        for name, value in attributes.items()
        if value is not None
    }


def _sdk_context(context: TraceContext) -> trace.SpanContext:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else 0)
    return trace.SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), context.remote, flags
    )


def _wall_nanoseconds(monotonic: float | None) -> int | None:
    """Return a monotonic time as the SDK wants it: nanoseconds since 1970."""
    if monotonic is None:
        return None
    return time.time_ns() - int((time.monotonic() - monotonic) * 1e9)
