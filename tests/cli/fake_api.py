"""A small HTTP server with scripted responses.

It does what no real service does on demand, such as breaking a stream off.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opsjobs.cli.client import Client
from opsjobs.cli.endpoint import ServiceEndpoint
from opsjobs.model.secret import Secret


@dataclass
class ApiRequest:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class ApiResponse:
    """What to send: JSON, or raw portions and, once `wait` is set, `then`.

    `cut` breaks the connection off after them.
    """

    status: int = 200
    body: Any = None
    portions: list[bytes] = field(default_factory=list)
    media_type: str = "application/json"
    cut: bool = False
    wait: threading.Event | None = None
    then: list[bytes] = field(default_factory=list)


@dataclass
class FakeApi:
    """A fake API: answers each request by `reply`, and records all of them."""

    reply: Callable[[ApiRequest], ApiResponse]
    url: str = ""
    requests: list[ApiRequest] = field(default_factory=list)

    def client(self) -> Client:
        """Return a client of this API."""
        return Client(
            ServiceEndpoint(self.url, Secret("opsc_ada"), local=True, data_dir=Path("/nowhere"))
        )


@contextmanager
def serve_api(reply: Callable[[ApiRequest], ApiResponse]) -> Iterator[FakeApi]:
    """Serve a fake API on a free port of the loopback address until the block ends."""
    api = FakeApi(reply)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def problem(
    status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None
) -> ApiResponse:
    """Return a refusal in the form of the service."""
    body = {
        "type": f"urn:x:{code}",
        "title": "No",
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "r-1",
    }
    return ApiResponse(
        status,
        {**body, **({"errors": errors} if errors else {})},
        media_type="application/problem+json",
    )


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = ApiRequest(
                self.command,
                parts.path,
                parse_qs(parts.query),
                headers,
                json.loads(raw) if raw else None,
            )
            api.requests.append(asked)
            self._send(api.reply(asked))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  the library's names

        def _send(self, answer: ApiResponse) -> None:
            portions = answer.portions or [json.dumps(answer.body).encode()]
            self.send_response(answer.status)
            self.send_header("content-type", answer.media_type)
            if answer.cut:
                self.send_header("content-length", str(sum(map(len, portions)) + 1_000))
            else:
                self.send_header("connection", "close")
            self.end_headers()
            for portion in portions:
                self.wfile.write(portion)
            if answer.wait is not None:
                self.wfile.flush()
                assert answer.wait.wait(60), "nobody let the answer go on"
                self.wfile.write(b"".join(answer.then))
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    return Handler
