"""Serve the console under /console/, without a token: its files hold nothing secret."""

from __future__ import annotations

from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.web.console_files import INDEX, ConsoleFile, ConsoleFiles

PATH = "/console/"
# Scripts, styles and requests of this origin only. No text becomes markup: the one policy of
# Trusted Types that may exist passes the address of one worker (console/src/diff/in-worker.ts).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types opsjobs-worker",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
    ),
}
IMMUTABLE = "public, max-age=31536000, immutable"
_NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>opsjobs</title>
<meta name="viewport" content="width=device-width">
<h1>The console was not built</h1>
<p>This installation has no web console: Node or its packages could not be had when it was
installed. Everything else works: the API under <code>/api/v1</code>, and the command
<code>opsjobs</code>.</p>
<p>To build it, in a checkout with access to the npm registry:</p>
<pre>OPSJOBS_CONSOLE=required pip install --force-reinstall --no-deps .</pre>
<p>A released wheel has the console inside and needs no Node.</p>
</html>
"""


class ConsoleRoute(NamedTuple):
    """The route of a request in logs and metrics."""

    path: str


class ConsoleMiddleware:
    """Middleware that serves the console, and passes everything else on.

    It stands before authentication: these paths never reach the routes of the API. A browser that
    asks for `/` is redirected to the console; other clients of `/` are passed on.
    """

    def __init__(self, app: ASGIApp, files: ConsoleFiles | None = None) -> None:
        self._app = app
        self._files = files or ConsoleFiles()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path == PATH.rstrip("/") or (path == "/" and _is_browser(scope)):
            scope["route"] = ConsoleRoute(path)
            await RedirectResponse(PATH, 307)(scope, receive, send)
        elif path.startswith(PATH):
            scope["route"] = ConsoleRoute(PATH)
            await self._serve(scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _serve(self, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Use GET.\n", 405, {"Allow": "GET, HEAD"})
        index = self._files.index()
        if index is None:
            return Response(_NOT_BUILT, 503, HEADERS, "text/html; charset=utf-8")
        name = scope["path"].removeprefix(PATH)
        file = self._files.get(name)
        if file is None and "." in name.rpartition("/")[2] and "text/html" not in _accept(scope):
            # A script of an older build: a page in its place would be a riddle to the browser.
            return PlainTextResponse(f"There is no {name[:200]!r}. Load the page again.\n", 404)
        return _respond(scope, file if file is not None and name != INDEX else index)


def _respond(scope: Scope, file: ConsoleFile) -> Response:
    headers = Headers(scope=scope)
    common = {
        **HEADERS,
        "Cache-Control": IMMUTABLE if file.immutable else "no-cache",
        "ETag": file.etag,
        "Vary": "Accept-Encoding",
    }
    if file.etag in headers.get("if-none-match", ""):
        return Response(status_code=304, headers=common)
    content = file.content
    if file.zipped is not None and "gzip" in headers.get("accept-encoding", ""):
        content, common["Content-Encoding"] = file.zipped, "gzip"
    return Response(content, 200, common, file.media_type)


def _accept(scope: Scope) -> str:
    return Headers(scope=scope).get("accept", "")


def _is_browser(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and "text/html" in _accept(scope)
