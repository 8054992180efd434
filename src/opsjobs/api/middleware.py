"""General middleware: request ids, log line and metric; allowed methods; compression."""

from __future__ import annotations

import asyncio
import gzip
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from re import Pattern
from secrets import token_hex

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsjobs.api.paths import route_path, under_prefix
from opsjobs.api.problems import Problem, not_allowed
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.logs import bound, log
from opsjobs.telemetry.metrics import Metrics
from opsjobs.telemetry.trace_context import TraceContext
from opsjobs.telemetry.tracing import TraceSpan

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SERVER_ERROR = 500
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Paths that are asked every few seconds: they begin no trace that is recorded."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContextMiddleware:
    """Middleware that gives each request an id, a log line and, in every case, a response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = under_prefix(scope)
        scope["state"] = {**scope.get("state", {}), "request_id": _request_id(scope)}
        answer = _Answer(scope, send)
        started = time.perf_counter()
        with (
            _enter_trace(scope) as span,
            bound(request_id=scope["state"]["request_id"]),
        ):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                await self._bug(scope, receive, answer)
                if answer.half_sent:
                    raise  # a part was sent: only the server can end it, with the connection
            finally:
                self._note(scope, answer.status, time.perf_counter() - started, span)

    async def _bug(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        log.exception("bug", method=scope["method"], path=scope["path"][:200])
        self._metrics.bugs.labels("api").inc()
        answer.half_sent = answer.status != 0
        if not answer.half_sent:
            await Problem.from_bug(scope)(scope, receive, answer.send)

    def _note(self, scope: Scope, status: int, seconds: float, span: TraceSpan) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        span.rename(f"{method} {route}")
        span.annotate(
            **{
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "request_id": scope["state"]["request_id"],
            }
        )
        if status >= SERVER_ERROR:
            span.fail(str(status))
        self._metrics.http_request_seconds.labels(method, route, str(status)).observe(seconds)
        principal = scope["state"].get("principal")
        log.info(
            "request",
            method=method,
            path=scope["path"][:200],
            status=status,
            ms=round(seconds * 1000, 1),
            principal=principal and principal.name,
        )


class _Answer:
    """Response with the headers common to all responses; `status` is 0 until it begins."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self.half_sent = False
        self._request_id = scope["state"]["request_id"]
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
            headers["X-Content-Type-Options"] = "nosniff"
        await self._send(message)


def _enter_trace(scope: Scope) -> AbstractContextManager[TraceSpan]:
    parent = TraceContext.parse(Headers(scope=scope).get(trace_context.HEADER))
    if parent is None and scope["path"] in PROBES:
        return tracing.unrecorded(None)
    return tracing.entry("request", parent)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else token_hex(16)


ENDLESS = frozenset({"/executions/{id}/events"})
"""Paths whose responses last until the viewer disconnects: they do not support HEAD."""


class AllowedMethods:
    """The methods of each path of an application, read at the first use."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def for_path(self, path: str) -> frozenset[str]:
        """Return the methods of this path; none if the path does not exist."""
        if (fixed := self._fixed.get(path)) is not None:
            return fixed
        return frozenset().union(
            *(methods for pattern, methods in self._patterns if pattern.match(path))
        )

    def is_elsewhere(self, path: str, method: str) -> bool:
        """Return True for a fixed path, such as /jobs/export, without this method.

        Its last part is then not the `{id}` of another route.
        """
        fixed = self._fixed.get(path)
        return fixed is not None and method not in fixed

    @cached_property
    def _fixed(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for path, _, methods in self._routes:
            if "{" not in path:
                found[path] = found.get(path, frozenset()) | methods
        return found

    @cached_property
    def _patterns(self) -> Sequence[tuple[Pattern[str], frozenset[str]]]:
        return [(pattern, methods) for path, pattern, methods in self._routes if "{" in path]

    @cached_property
    def _routes(self) -> Sequence[tuple[str, Pattern[str], frozenset[str]]]:
        routes = []
        for context in iter_route_contexts(self._app.routes):
            route = context.original_route
            pattern, path = getattr(route, "path_regex", None), getattr(route, "path", None)
            if pattern is not None and path is not None:
                methods = frozenset(context.methods or ())
                has_head = "GET" in methods and path not in ENDLESS
                routes.append(
                    (path, pattern, methods | {"HEAD"} if has_head else methods - {"HEAD"})
                )
        return routes


class AllowedMethodsMiddleware:
    """Middleware that refuses methods a fixed path lacks, and serves HEAD as GET without body."""

    def __init__(self, app: ASGIApp, methods: AllowedMethods) -> None:
        self._app = app
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = route_path(scope), scope["method"]
        if self._methods.is_elsewhere(path, method):
            await not_allowed(scope, self._methods.for_path(path))(scope, receive, send)
        elif method == "HEAD" and "HEAD" in self._methods.for_path(path):
            asked = {**scope, "method": "GET"}
            await self._app(asked, receive, _without_body(send))
            scope.update({name: asked[name] for name in ("route", "path_params") if name in asked})
        else:
            await self._app(scope, receive, send)


def _without_body(send: Send) -> Send:
    async def only_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return only_head


# --- compression of JSON responses, for clients that accept it; never of streams


BYTES_MIN = 1_024
"""Smaller bodies fit into one packet anyway."""
THREAD_BYTES_MIN = 128 << 10
"""Larger bodies are compressed in a thread, as they would block the event loop."""
_LEVEL = 4
_TYPES = frozenset({"application/json", "application/problem+json"})


class CompressionMiddleware:
    """Middleware that compresses JSON bodies which a route sends in one piece.

    Responses with an ETag stay as they are: a strong one names these very bytes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] == "http" and accepts_gzip(Headers(scope=scope)):
            send = _Compressor(send).send
        await self._app(scope, receive, send)


def accepts_gzip(headers: Headers) -> bool:
    """Return True if Accept-Encoding names gzip, or `*`, with a weight over 0 (RFC 9110)."""
    weights: dict[str, float] = {}
    for part in ",".join(headers.getlist("accept-encoding")).lower().split(","):
        coding, _, weight = part.partition(";")
        name, _, number = weight.strip().partition("=")
        try:
            weights[coding.strip()] = float(number) if name.strip() == "q" else 1.0
        except ValueError:
            weights[coding.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


class _Compressor:
    """Holds the start of a response until its body shows if it is compressed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _may_compress(message):
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False) and len(body) >= BYTES_MIN:
                message = {**message, "body": await _compress(body)}
                headers = MutableHeaders(scope=start)
                headers["content-encoding"] = "gzip"
                headers["content-length"] = str(len(message["body"]))
            await self._send(start)
        await self._send(message)


def _may_compress(start: Message) -> bool:
    headers = MutableHeaders(scope=start)
    if headers.get("content-type", "").partition(";")[0].strip() not in _TYPES:
        return False
    headers.add_vary_header("Accept-Encoding")
    return "content-encoding" not in headers and "etag" not in headers


async def _compress(body: bytes) -> bytes:
    if len(body) >= THREAD_BYTES_MIN:
        return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
    return gzip.compress(body, _LEVEL, mtime=0)
