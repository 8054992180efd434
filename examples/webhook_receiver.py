#!/usr/bin/env python3
"""Receive webhooks of opsjobs: verify the signature, drop duplicates, print one line for each event.

    WEBHOOK_SECRET=whsec_... python3 webhook_receiver.py [PORT]

It needs nothing but Python. The ids that it has seen are in `seen.sqlite3`, so a restart does not
handle an event twice.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_SECONDS = 300
BODY_BYTES_MAX = 2 << 20


def is_signed(secret: str, headers: dict[str, str], body: bytes, now: float) -> bool:
    """Return True if one of the signatures is made with this secret, a short time ago."""
    message, sent, signatures = (
        headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
    )
    if not sent.isdigit() or abs(now - int(sent)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = hmac.digest(key, f"{message}.{sent}.".encode() + body, "sha256")
    wanted = "v1," + base64.b64encode(expected).decode()
    return any(hmac.compare_digest(wanted, one) for one in signatures.split())


def handle(event: dict[str, object]) -> None:
    """Do what is to be done about an event; it is called once for each."""
    print(event["type"], event["subject"], flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to what it has handled, now or before; anything else is sent again."""

    secret = ""
    seen: sqlite3.Connection

    def do_POST(self) -> None:
        """Handle one message."""
        size = int(self.headers.get("content-length", 0))
        if size > BODY_BYTES_MAX:
            self.send_error(413)
            return
        body = self.rfile.read(size)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if not is_signed(self.secret, headers, body, time.time()):
            self.send_error(401)
            return
        # One transaction: if `handle` fails, the id is not remembered, and the message comes again.
        with self.seen:
            new = self.seen.execute(
                "insert into seen (id) values (?) on conflict do nothing", [headers["webhook-id"]]
            )
            if new.rowcount:
                handle(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print events only."""


def main() -> None:
    """Serve on 127.0.0.1 until it is interrupted."""
    Receiver.secret = os.environ["WEBHOOK_SECRET"]
    Receiver.seen = sqlite3.connect("seen.sqlite3")
    Receiver.seen.execute("create table if not exists seen (id text primary key)")
    server = HTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080), Receiver)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
