"""The listener of METRICS_PORT: metrics and probes without a token, on threads of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import prometheus_client

SCRAPE_TIMEOUT_SECONDS = 10.0
SCRAPES_MAX = 32
ACCEPT_PAUSE_SECONDS = 0.2

Probe = Callable[[], str | None]
"""Return why the probe fails, or None. Called on a thread of the listener."""


class MetricsListener(ThreadingHTTPServer):
    """Serves a few connections at a time, each with a time limit.

    A slow or silent client blocks no scraper.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        text: Callable[[], bytes],
        probes: Mapping[str, Probe],
    ) -> None:
        """Listen; port 0 selects a free one. Raises OSError with the address if it cannot."""
        try:
            super().__init__((host, port), _page_class(text, probes))
        except OSError as refused:
            message = (
                f"METRICS_PORT: cannot listen on {host}:{port} ({refused.strerror}). "
                "Change or unset it."
            )
            raise OSError(refused.errno, message) from refused
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve, on a thread, until `stop`."""
        threading.Thread(target=self.serve_forever, name="opsjobs-metrics", daemon=True).start()

    def stop(self) -> None:
        """Stop to listen."""
        self.shutdown()
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; pause after an error.

        Without the pause, a lack of descriptors would make the selector retry in a tight loop.
        """
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection; close the oldest one if there are too many."""
        with self._lock:
            self._open[request] = time.monotonic()
            oldest = next(iter(self._open)) if len(self._open) > SCRAPES_MAX else None
            if oldest is not None:
                del self._open[oldest]
                _shut_down(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a client disconnected; the page itself cannot fail."""

    def service_actions(self) -> None:
        """Close the connections whose time limit has passed; called twice a second."""
        now = time.monotonic()
        with self._lock:
            for request in [
                request
                for request, began in self._open.items()
                if now >= began + SCRAPE_TIMEOUT_SECONDS
            ]:
                del self._open[request]
                _shut_down(request)


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client has closed it already
        connection.shutdown(socket.SHUT_RDWR)


def _page_class(
    text: Callable[[], bytes], probes: Mapping[str, Probe]
) -> type[BaseHTTPRequestHandler]:
    class _MetricsPage(BaseHTTPRequestHandler):
        timeout = SCRAPE_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, text())
            elif path in probes:
                reason = probes[path]()
                body = (
                    {"status": "unavailable", "reasons": [reason]} if reason else {"status": "ok"}
                )
                status = 503 if reason else 200
                self._answer(status, "application/json", json.dumps(body).encode())
            else:
                pages = ", ".join(("/metrics", *probes))
                self._answer(404, "text/plain", f"Not found. This port serves {pages}.\n".encode())

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: scrapes come every few seconds."""

    return _MetricsPage
