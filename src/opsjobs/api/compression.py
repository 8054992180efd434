"""Compress JSON responses with gzip for clients that accept it; never streams."""

from __future__ import annotations

import asyncio
import gzip

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
