"""Serve the console under /console/, without a token: its files hold nothing secret."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

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
<p>This installation has no web console: Node or its packages were unavailable when it was
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


# --- built files, in memory: small, and read by every viewer


STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
GZIP_BYTES_MIN = 1_024
_HASHED = re.compile(r"-[A-Z0-9]{8}\.[a-z.]+")
_COMPRESSED = ("text/", "application/json", "image/svg")


@dataclass(frozen=True)
class ConsoleFile:
    """One built file.

    `immutable`: its name has a hash of its content, so it never changes.
    `zipped`: the content compressed with gzip, or None if that gains nothing.
    """

    content: bytes
    zipped: bytes | None
    media_type: str
    etag: str
    immutable: bool

    @classmethod
    def read(cls, path: Path) -> ConsoleFile:
        """Read a file."""
        content = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "text/plain"
        compress = media_type.startswith(_COMPRESSED) and len(content) >= GZIP_BYTES_MIN
        return cls(
            content,
            gzip.compress(content, mtime=0) if compress else None,
            f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
            f'"{hashlib.sha256(content).hexdigest()[:32]}"',
            _HASHED.search(path.name) is not None,
        )


class ConsoleFiles:
    """The files of the console by name; none if it was not built.

    They are read again after a build, so that a developer needs no restart.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        self._folder = folder
        self._built_at: int | None = None
        self._files: dict[str, ConsoleFile] = {}

    def index(self) -> ConsoleFile | None:
        """Return the page of the application, or None if the console was not built."""
        try:
            built_at = (self._folder / INDEX).stat().st_mtime_ns
            if built_at != self._built_at:
                self._files = {
                    path.name: ConsoleFile.read(path)
                    for path in sorted(self._folder.iterdir())
                    if path.is_file() and not path.name.startswith(".")
                }
                self._built_at = built_at
        except FileNotFoundError:
            self._files, self._built_at = {}, None
        return self._files.get(INDEX)

    def get(self, name: str) -> ConsoleFile | None:
        """Return the file with this name, or None if there is none."""
        if not self._files:
            self.index()
        return self._files.get(name)
