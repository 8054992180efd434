"""Logs of the processes of `up`: every line is JSON, whatever wrote it, and files are bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsjobs.standalone import process_logs
from opsjobs.standalone.process_logs import (
    LINE_BYTES_MAX,
    LogCollector,
    PostgresLines,
    ProcessLog,
    ValkeyLines,
    last_error,
)

OURS = '{"timestamp": "2026-11-28T21:00:00.000000Z", "level": "info", "event": "claimed", "n": 1}'


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is in the files after `drain`, however slow the machine is."""
    monkeypatch.setattr(process_logs, "CLOSE_SECONDS", 60.0)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[LogCollector]:
    made = LogCollector(tmp_path)
    made.start()
    yield made
    made.stop()


def lines(path: Path) -> list[dict[str, Any]]:
    """Return each line as JSON; every line must be JSON."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def written(log: ProcessLog, *portions: str | bytes) -> list[dict[str, Any]]:
    """Return the log after a process has written these portions and ended."""
    with log.open() as pipe:
        for portion in portions:
            pipe.write(portion if isinstance(portion, bytes) else portion.encode())
            log._collector.drain()
    log._collector.drain()
    return lines(log.path)


def test_a_line_of_opsjobs_is_kept_as_it_is(collector: LogCollector) -> None:
    assert written(collector.log("worker-1"), OURS + "\n") == [json.loads(OURS)]


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        '{"timestamp": "torn',
        '{"no": "event"}',
        '["a list"]',
        '{"a":' * 1_000,
        '{"a":' + "[" * 10_000,
        "2026-13-45 99:99:99.999 UTC [1] LOG:  no such day",
        '{"timestamp": 1, "level": "info", "event": "x"}',
        "\x1b[2Kerase\rover \u2028 \x00",
    ],
)
def test_any_other_line_is_wrapped(collector: LogCollector, text: str) -> None:
    [line] = written(collector.log("api"), f"{text}\n")
    assert (line["event"], line["level"], line["process"]) == (text, "info", "api")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("kind", [PostgresLines, ValkeyLines])
def test_a_line_that_its_format_cannot_read_is_an_event(
    collector: LogCollector, kind: type[PostgresLines | ValkeyLines]
) -> None:
    bad = "2026-13-45 99:99:99.999 UTC [1] LOG:  no such day"
    found = written(collector.log("postgres", kind), f"{bad}\n", "next\n")
    assert [line["event"] for line in found] == [bad, "next"]
    assert collector.is_running


def test_bytes_that_are_no_text_and_a_torn_last_line_are_kept(collector: LogCollector) -> None:
    assert [line["event"] for line in written(collector.log("lab"), b"\xff\xfe\n\nlast")] == [
        "\\xff\\xfe",
        "last",
    ]


def test_a_line_without_end_is_cut(collector: LogCollector) -> None:
    found = written(collector.log("lab"), "x" * (2 * LINE_BYTES_MAX + 10), "\n")
    assert [len(line["event"]) for line in found] == [LINE_BYTES_MAX, LINE_BYTES_MAX, 10]


def test_postgres_lines_have_their_level_and_their_details(collector: LogCollector) -> None:
    at = "2026-11-28 21:00:00.123 UTC [42] "
    found = written(
        collector.log("postgres", PostgresLines),
        f"{at}LOG:  database system is ready\n"
        f'{at}ERROR:  duplicate key value violates "x"\n{at}DETAIL:  Key (a)=(1) exists.\n'
        f"{at}STATEMENT:  insert into t\n\tvalues (1)\n",
        f"{at}FATAL:  gone\n",
        "\ta line that comes later\n",
        "no prefix\n",
    )
    assert [(line["level"], line["event"]) for line in found] == [
        ("info", "database system is ready"),
        ("error", 'duplicate key value violates "x"'),
        ("critical", "gone"),
        ("info", "\ta line that comes later"),
        ("info", "no prefix"),
    ]
    assert found[1]["detail"] == "Key (a)=(1) exists."
    assert found[1]["statement"] == "insert into t\nvalues (1)"
    assert (found[0]["timestamp"], found[0]["pid"]) == ("2026-11-28T21:00:00.123000Z", 42)


def test_valkey_lines_have_their_level(collector: LogCollector) -> None:
    found = written(
        collector.log("valkey", ValkeyLines),
        "12:M 28 Nov 2026 21:00:00.123 * Ready to accept connections\n"
        "12:M 28 Nov 2026 21:00:00.124 # WARNING overcommit\n    _._\n",
    )
    assert [(line["level"], line["event"]) for line in found] == [
        ("info", "Ready to accept connections"),
        ("warning", "WARNING overcommit"),
        ("info", "    _._"),
    ]


def test_a_full_file_is_rotated_and_no_line_is_lost(tmp_path: Path) -> None:
    collector = LogCollector(tmp_path, bytes_at_most=30_000)
    collector.start()
    program = "for n in range(300): print(n, 'x' * 50, flush=True)"
    with collector.log("it").open() as pipe:
        subprocess.run([sys.executable, "-c", program], stdout=pipe, check=True)
    collector.stop()
    older, newer = tmp_path / "it.log.1", tmp_path / "it.log"
    assert max(older.stat().st_size, newer.stat().st_size) <= 30_000
    kept = [int(line["event"].split()[0]) for line in lines(older) + lines(newer)]
    assert kept == list(range(kept[0], 300))
    assert len(kept) > 200


def test_a_process_that_is_started_again_continues_the_log(collector: LogCollector) -> None:
    log = collector.log("worker-1")
    assert len(written(log, OURS + "\n")) == 1
    assert len(written(log, OURS + "\n")) == 2


def test_several_processes_write_at_the_same_time(collector: LogCollector, tmp_path: Path) -> None:
    def write(name: str) -> None:
        with collector.log(name).open() as pipe:
            for _ in range(200):
                pipe.write(f"{OURS}\n".encode())

    threads = [threading.Thread(target=write, args=[f"p{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.drain()
    assert [len(lines(tmp_path / f"p{n}.log")) for n in range(4)] == [200] * 4


def test_the_last_error_is_told_in_words(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    assert last_error(log) == "its log is empty"
    log.write_text("plain FATAL words\nmore\n")
    assert last_error(log) == "plain FATAL words"
    bug = {
        **json.loads(OURS),
        "level": "error",
        "event": "bug",
        "exception": "Trace\nKeyError: 'a'",
    }
    log.write_text(f"{json.dumps(bug)}\n{OURS}\n")
    assert last_error(log) == "bug: KeyError: 'a'"
