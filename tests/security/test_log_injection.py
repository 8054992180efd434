"""Point 27: one JSON line an event; no text of a caller or a machine can forge a second one."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from api.kit import api_client
from opsjobs.store.transaction import Database
from opsjobs.telemetry import logs

FORGED = (
    '\r\n{"level": "info", "event": "all is well", "forged": true}\r\n\u2028\u2029\u0085\x1b[2K'
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Set up logging as in a process; restore it afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    made = io.StringIO()
    logs.configure("api", "DEBUG", stream=made)
    yield made
    logging.captureWarnings(False)
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Return each line as JSON; every line must be JSON."""
    text = stream.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]


def test_no_text_forges_a_line(stream: io.StringIO) -> None:
    logs.log.info(FORGED, target=FORGED, nested={FORGED: [FORGED]})
    logging.getLogger("asyncssh").warning("the machine says %s", FORGED)
    with logs.bound(request_id=FORGED):
        logs.log.warning("inside")
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        logs.log.exception("it broke")
    told = lines(stream)
    assert len(told) == 4
    assert not any("forged" in line for line in told)
    assert all({"timestamp", "level", "event"} <= set(line) for line in told)


async def test_what_a_caller_sends_is_one_line_with_its_request_id(
    database: Database, stream: io.StringIO
) -> None:
    async with api_client(database) as ada:
        stream.truncate(0)
        stream.seek(0)
        said = "%0D%0A%7B%22forged%22%3A%20true%7D"
        answers = [
            await ada.http.get(f"/jobs/{said}"),
            await ada.http.get(
                f"/jobs?name={said}", headers={"user-agent": "x\t{}", "x-request-id": "r-1"}
            ),
            await ada.http.post("/targets", json={"name": "web-1\r\n{}", "host": FORGED}),
            await ada.http.get("/jobs", headers={"x-request-id": "{}" * 400}),
        ]
    told = [line for line in lines(stream) if line["event"] == "request"]
    assert [line["request_id"] for line in told] == [
        answer.headers["x-request-id"] for answer in answers
    ]
    assert told[1]["request_id"] == "r-1"
    assert len({line["request_id"] for line in told}) == 4
    assert not any("forged" in line for line in told)
