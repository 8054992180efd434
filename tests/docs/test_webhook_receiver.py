"""The example that receives webhooks verifies signatures and drops duplicates.

It does so after a restart, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2
from standardwebhooks.webhooks import Webhook

from docs.pages import ROOT
from opsjobs.model.webhook import new_webhook_secret, sign

EXAMPLE = ROOT / "examples/webhook_receiver.py"
EVENT = b'{"type": "io.opsconductor.execution.failed.v1", "subject": "web"}'
LINE = "io.opsconductor.execution.failed.v1 web\n"


@contextmanager
def running(folder: Path, secret: str) -> Iterator[tuple[str, IO[str]]]:
    """Run the example in a process of its own; yield its address and its output."""
    environment = {**os.environ, "WEBHOOK_SECRET": secret}
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), "0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            port = process.stdout.readline().split()[-1]
            yield f"http://127.0.0.1:{port}/", process.stdout
        finally:
            process.terminate()


def test_the_example_handles_each_signed_event_once(tmp_path: Path) -> None:
    secret = new_webhook_secret()
    now = int(time.time())

    def post(url: str, message: str, *, at: int = now, body: bytes = EVENT) -> int:
        signature = sign([new_webhook_secret(), secret], message, at, EVENT)
        headers = {
            "webhook-id": message,
            "webhook-timestamp": str(at),
            "webhook-signature": signature,
        }
        if body == EVENT and at == now:
            Webhook(secret.reveal()).verify(EVENT, headers)
        return httpx2.post(url, content=body, headers=headers).status_code

    with running(tmp_path, secret.reveal()) as (url, printed):
        assert post(url, "one") == 204
        assert printed.readline() == LINE
        assert post(url, "one") == 204
        assert post(url, "forged", body=b"{}") == 401
        assert post(url, "late", at=now - 3_600) == 401
        assert post(url, "two") == 204
        assert printed.readline() == LINE, "the duplicate printed nothing"
    with running(tmp_path, secret.reveal()) as (url, printed):
        assert post(url, "two") == 204
        assert post(url, "three") == 204
        assert printed.readline() == LINE
