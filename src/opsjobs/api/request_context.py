"""Outermost middleware: request id, prefix /api/v1, log line, metric, answer to a bug."""

from __future__ import annotations

import re
import time
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opsjobs.api.paths import under_prefix
from opsjobs.api.problems import Problem
from opsjobs.telemetry import Metrics, bound, log

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContextMiddleware:
    """Middleware that gives each request an id, a log line and, whatever happens, an answer."""

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
        with bound(request_id=scope["state"]["request_id"]):
            try:
                await self._app(scope, receive, answer.send)
            except Exception:
                await self._bug(scope, receive, answer)
                if answer.half_sent:
                    raise  # half an answer is sent: only the server can end it, with the connection
            finally:
                self._note(scope, answer.status, time.perf_counter() - started)

    async def _bug(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        log.exception("bug", method=scope["method"], path=scope["path"][:200])
        self._metrics.bugs.labels("api").inc()
        answer.half_sent = answer.status != 0
        if not answer.half_sent:
            await Problem.from_bug(scope)(scope, receive, answer.send)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
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
    """The answer with the headers that every answer has; `status` is 0 until it begins."""

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


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else token_hex(16)
