"""Log lines that cannot be forged, and metrics for Prometheus."""

from __future__ import annotations

import io
import json
import logging
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from opsjobs.engine.run_credentials import hide_secrets
from opsjobs.model.secret import Secret
from opsjobs.telemetry import logs
from opsjobs.telemetry.metrics import SCRAPES_MAX, Metrics


class CapturedLog:
    """Return the output, line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return each line as JSON."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def written() -> Iterator[CapturedLog]:
    """Set up logging as in a process; restore it afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    made = CapturedLog()
    logs.configure("worker", "INFO", stream=made.stream)
    yield made
    logging.captureWarnings(False)
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
    structlog.reset_defaults()


def test_a_line_has_the_agreed_keys_and_what_is_bound(written: CapturedLog) -> None:
    with logs.bound(request_id="r-1", execution=7, target_run=12):
        logs.log.info("claimed", count=3)
    logs.log.info("outside")
    first, second = written.lines
    assert list(first)[:3] == ["timestamp", "level", "event"]
    assert first["timestamp"].endswith("Z")
    assert (first["level"], first["event"], first["count"], first["process"]) == (
        "info",
        "claimed",
        3,
        "worker",
    )
    assert (first["request_id"], first["execution"], first["target_run"]) == ("r-1", 7, 12)
    assert "execution" not in second


def test_a_line_cannot_be_forged(written: CapturedLog) -> None:
    evil = 'x\r\n{"level": "info", "event": "all is well"}\u2028\u0085\x1b[2K\x00'
    logs.log.info(evil, also=evil)
    logging.getLogger("asyncssh").warning(evil)
    assert written.stream.getvalue().isascii()
    assert [line["event"] for line in written.lines] == [evil, evil]


def test_an_exception_is_one_field_of_one_line(written: CapturedLog) -> None:
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        logs.log.exception("it broke")
        logging.getLogger("celery.worker").exception("it broke, too")
    assert len(written.lines) == 2
    assert all("RuntimeError: first\nsecond" in line["exception"] for line in written.lines)


def test_libraries_speak_in_the_same_form(written: CapturedLog) -> None:
    for name in ("uvicorn.error", "celery.beat", "alembic.runtime.migration"):
        logging.getLogger(name).info("hello %s", name)
    assert [line["logger"] for line in written.lines] == [
        "uvicorn.error",
        "celery.beat",
        "alembic.runtime.migration",
    ]
    assert written.lines[0]["event"] == "hello uvicorn.error"


def test_the_level_holds_and_chatter_is_left_out(written: CapturedLog) -> None:
    logs.log.debug("not now")
    for name in ("asyncssh", "uvicorn.access", "celery.app.trace"):
        logging.getLogger(name).info("one more")
    logging.getLogger("sqlalchemy").debug("select")
    assert written.lines == []


def test_a_wrong_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="LOG_LEVEL: unknown level 'LOUD'"):
        logs.configure("worker", "LOUD")


def test_a_secret_does_not_reach_the_log(written: CapturedLog) -> None:
    logs.log.info("login", password=Secret("hunter2"), nested={"key": Secret("hunter2")})
    assert "hunter2" not in written.stream.getvalue()


def test_what_json_cannot_say_is_said_in_words(written: CapturedLog) -> None:
    logs.log.info("odd", number=float("nan"), thing=object(), keys={1: 2, (1, 2): 3})
    ours = next(
        handler for handler in logging.getLogger().handlers if handler.__module__ == logs.__name__
    )
    ours.handle(logging.LogRecord("z", logging.WARNING, "z.py", 1, "%d", ("no number",), None))
    assert written.lines[0]["number"] == "nan"
    assert written.lines[1]["event"] == "log_line_failed"


def test_a_huge_text_is_cut(written: CapturedLog) -> None:
    logs.log.info("x" * 100_000, banner="y" * 100_000)
    assert len(written.stream.getvalue()) < 3 * logs.TEXT_CHARACTERS_MAX


def test_a_closed_output_stops_nobody(written: CapturedLog) -> None:
    written.stream.close()
    logs.log.info("nobody reads this")
    written.stream = io.StringIO()


def test_a_thread_that_dies_is_a_line(written: CapturedLog) -> None:
    def die() -> None:
        raise RuntimeError("in a thread")

    thread = threading.Thread(target=die, name="sad")
    thread.start()
    thread.join()
    assert written.lines[0]["thread"] == "sad"
    assert "in a thread" in written.lines[0]["exception"]


NAMES = {
    "opsjobs_runs_finished_total", "opsjobs_run_seconds_count", "opsjobs_claims_total", "opsjobs_claim_seconds_count",
    "opsjobs_flush_seconds_count", "opsjobs_flush_bytes_count", "opsjobs_flush_entries_count", "opsjobs_verb_repeats_total",
    "opsjobs_stale_writes_total", "opsjobs_connections", "opsjobs_connect_seconds_count", "opsjobs_runs_running",
    "opsjobs_wakeups_total", "opsjobs_pubsub_dropped_total", "opsjobs_events_published_total", "opsjobs_http_request_seconds_count",
    "opsjobs_stream_clients", "opsjobs_bugs_total",
}  # fmt: skip


def test_every_agreed_metric_is_there_and_all_are_ours() -> None:
    metrics = Metrics()
    metrics.runs_finished.labels(status="succeeded", type="command").inc()
    metrics.run_seconds.labels(type="command").observe(1)
    metrics.wakeups.labels(result="sent").inc()
    metrics.bugs.labels(where="engine").inc()
    metrics.http_request_seconds.labels(method="GET", route="/jobs", status="200").observe(0.01)
    samples = {
        line.partition("{")[0].partition(" ")[0]
        for line in metrics.text().decode().splitlines()
        if line[0] != "#"
    }
    assert samples >= NAMES
    assert all(name.startswith("opsjobs_") and not name.endswith("_created") for name in samples)


def test_the_listener_serves_numbers_and_nothing_else() -> None:
    metrics = Metrics()
    metrics.claims.inc(3)
    port = metrics.serve("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert b"opsjobs_claims_total 3.0" in answer.read()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
        refused.value.close()
        with pytest.raises(OSError, match="Change or unset it"):
            Metrics().serve("127.0.0.1", port)
    finally:
        metrics.close()


def test_silent_connections_do_not_keep_a_scraper_out_of_the_listener() -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * SCRAPES_MAX)]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            assert answer.status == 200
        silent[0].settimeout(30)
        assert silent[0].recv(1) == b"", "the oldest has to go"
    finally:
        for connection in silent:
            connection.close()
        metrics.close()


def test_a_connection_of_the_listener_has_a_time_in_all_however_often_it_sends_a_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("opsjobs.telemetry.metrics.SCRAPE_TIMEOUT_SECONDS", 0.5)
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0)
    try:
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.settimeout(0.05)
            began, ended = time.monotonic(), False
            while not ended and time.monotonic() < began + 30:
                try:
                    slow.sendall(b"G")
                    ended = slow.recv(1) == b""
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
            assert ended
    finally:
        metrics.close()


def test_log_lines_and_tracebacks_show_none_of_the_secrets_in_use(
    written: CapturedLog,
) -> None:
    token, key = 'tok/en+of"ben', "-----BEGIN X-----\nabcdefgh01abcdefgh\n-----END X-----"
    forms = hide_secrets([Secret(token), Secret(key)])
    try:
        raise ValueError(f"{token} is wrong")
    except ValueError:
        logs.log.exception(
            "it_failed", given=[token, {"key": key}], thing=ValueError(token), secret=Secret("x")
        )
    logging.getLogger("asyncssh").warning("library: %s", token)
    told, library = written.lines
    stars = "*" * len(token)
    assert told["given"] == [stars, {"key": f"{'*' * 17}\n{'*' * 18}\n{'*' * 15}"}]
    assert f"ValueError: {stars} is wrong" in told["exception"]
    assert (told["thing"], told["secret"], told["level"]) == (stars, "***", "error")
    assert library["event"] == f"library: {stars}"
    del forms
    logs.log.info(token)
    assert written.lines[-1]["event"] == token, "what nobody has any more is not looked for"
