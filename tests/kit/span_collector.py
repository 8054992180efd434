"""Collectors of spans: in memory, and an OTLP/HTTP server on loopback that decodes the protobuf."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opsjobs.telemetry import tracing
from opsjobs.telemetry.otel import OtelRecorder

SECONDS = 60.0


@dataclass(frozen=True)
class SeenSpan:
    """One span as a collector receives it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    attributes: dict[str, Any]
    failed: bool = False
    links: Sequence[str] = ()
    """The traces that it links to."""
    resource: dict[str, Any] = field(default_factory=dict)


@contextmanager
def spans_in_memory() -> Iterator[Callable[[], list[SeenSpan]]]:
    """Record the spans of this process; the function returns those that have ended, by start."""
    exporter = InMemorySpanExporter()
    tracing.install(OtelRecorder("test", SimpleSpanProcessor(exporter)))
    try:
        yield lambda: sorted(map(_of_sdk, exporter.get_finished_spans()), key=lambda s: s.began)
    finally:
        tracing.stop()


def _of_sdk(span: Any) -> SeenSpan:
    context = span.get_span_context()
    return SeenSpan(
        str(span.resource.attributes["service.name"]),
        span.name,
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{span.parent.span_id:016x}" if span.parent is not None else "",
        span.start_time,
        span.end_time,
        dict(span.attributes),
        not span.status.is_ok and not span.status.is_unset,
        [f"{link.context.trace_id:032x}" for link in span.links],
    )


class OtlpCollector:
    """An OTLP/HTTP server; `raw` is everything that it received, for searches."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[SeenSpan] = []
        self.raw = b""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._receive))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[SeenSpan]:
        """The spans so far, by start."""
        with self._changed:
            return sorted(self._spans, key=lambda span: span.began)

    def wait(self, condition: Callable[[list[SeenSpan]], bool]) -> list[SeenSpan]:
        """Return the spans once the condition holds for them."""
        deadline = time.monotonic() + SECONDS
        with self._changed:
            while not condition(self._spans):
                left = deadline - time.monotonic()
                assert left > 0, [(s.service, s.name) for s in self._spans]
                self._changed.wait(left)
            return self.spans

    def _receive(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.raw += body
            for group in request.resource_spans:
                resource = _attributes(group.resource.attributes)
                for scope in group.scope_spans:
                    self._spans += [_of_wire(span, resource) for span in scope.spans]
            self._changed.notify_all()


def _handler(receive: Callable[[bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            receive(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


def _of_wire(span: Any, resource: dict[str, Any]) -> SeenSpan:
    return SeenSpan(
        str(resource["service.name"]),
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        span.status.code == 2,
        [link.trace_id.hex() for link in span.links],
        resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def otlp_collector() -> Iterator[OtlpCollector]:
    """Run a collector."""
    collector = OtlpCollector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()
