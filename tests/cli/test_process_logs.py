"""`opsjobs logs`: files merged by time, filtered, and safe for a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opsjobs.cli.app import run
from opsjobs.cli.process_logs import _OpenLog

NOW = datetime.now(UTC)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

Logs = Callable[..., list[str]]


def line(seconds_ago: float, event: str, level: str = "info", **more: object) -> str:
    at = (NOW - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")
    return json.dumps({"timestamp": at, "level": level, "event": event, **more}) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a data folder with logs of three processes."""
    monkeypatch.setenv("OPSJOBS_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("OPSJOBS_URL", raising=False)
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "api.log").write_text(
        line(50, "execution_launched", execution=7, trace_id=TRACE)
        + line(49, "request", path="/run", trace_id=TRACE)
        + line(20, "request", path="/jobs", trace_id="f" * 32)
    )
    (logs / "worker-1.log.1").write_text(line(3_600, "long_ago"))
    (logs / "worker-1.log").write_text(
        line(40, "run_ended", execution=7, target_run=12, trace_id=TRACE, ms=1.5)
        + line(30, "bug", "error", execution=8, exception="Traceback:\nKeyError: 'a'")
    )
    (logs / "postgres.log").write_text(line(45, "checkpoint", "debug") + '{"torn')
    return tmp_path


@pytest.fixture
def logs(folder: Path, capsys: pytest.CaptureFixture[str]) -> Logs:
    """Run the command; return its output line by line."""

    def call(*arguments: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert run(["logs", *arguments]) == code
        return capsys.readouterr().out.splitlines()

    return call


def events(lines: list[str]) -> list[str]:
    return [json.loads(one)["event"] for one in lines]


def test_lines_of_all_files_are_merged_by_time(logs: Logs) -> None:
    assert events(logs("--json")) == [
        "long_ago",
        "execution_launched",
        "request",
        "checkpoint",
        "run_ended",
        "bug",
        "request",
    ]


def test_an_execution_is_shown_with_the_request_that_launched_it(logs: Logs) -> None:
    found = ["execution_launched", "request", "run_ended"]
    assert events(logs("--execution", "7", "--json")) == found
    only_api = logs("--execution", "7", "--process", "api", "--json")
    assert events(only_api) == found[:2]
    by_worker_alone = logs("--execution", "8", "--json")
    assert events(by_worker_alone) == ["bug"]


def test_levels_ages_and_counts_limit_what_is_shown(logs: Logs) -> None:
    assert events(logs("--level", "ERROR", "--json")) == ["bug"]
    recent = events(logs("--since", "30m", "--json"))
    assert len(recent) == 6
    assert "long_ago" not in recent
    assert events(logs("-n", "1", "--json")) == ["request"]
    assert len(logs("-n", "0", "--json")) == 7
    assert logs("--since", "soon", code=2) == []


def test_a_line_for_people_has_its_keys_and_its_traceback(logs: Logs) -> None:
    shown = logs("--process", "worker-1", "-n", "2")
    assert "INFO     worker-1   run_ended execution=7 target_run=12" in shown[0]
    assert shown[0].endswith(f"ms=1.5 trace_id={TRACE}")
    assert "ERROR    worker-1   bug execution=8" in shown[1]
    assert shown[2:] == ["    Traceback:", "    KeyError: 'a'"]


def test_controls_of_a_log_do_not_reach_the_terminal(folder: Path, logs: Logs) -> None:
    evil = "\x1b[2J\r\n\u202eall is well"
    (folder / "logs" / "lab.log").write_text(
        line(1, evil, "le\x1bvel", **{"k\x1bey": evil}, exception=f"x\n{evil}")
    )
    text = "\n".join(logs("--process", "lab"))
    assert not any(control in text for control in "\x1b\r\u202e")
    assert "\\x1b[2J" in text
    raw = "\n".join(logs("--process", "lab", "--json"))
    assert not any(control in raw for control in "\x1b\r\u202e")


def test_a_line_nested_too_deep_is_shown_as_text(folder: Path, logs: Logs) -> None:
    (folder / "logs" / "lab.log").write_text('{"a":' * 10_000 + "\n" + line(1, "next"))
    assert "next" in "".join(logs("--process", "lab"))


def test_values_with_blanks_are_quoted(folder: Path, logs: Logs) -> None:
    (folder / "logs" / "up.log").write_text(line(1, "x", reason="a b", other='"', empty="", n=None))
    [shown] = logs("--process", "up")
    assert shown.endswith('x reason="a b" other="\\"" empty=""')


def test_an_unknown_process_is_named_with_those_that_there_are(
    logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", "--process", "worker-9"]) == 4
    assert "There are: api, postgres, worker-1" in capsys.readouterr().err


def test_a_file_is_followed_over_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "api.log"
    log = _OpenLog(path, "api")
    assert list(log.read()) == []
    path.write_text(line(3, "one") + line(2, "two")[:20])
    assert [entry.fields["event"] for entry in log.read()] == ["one"]
    with path.open("a") as file:
        file.write(line(2, "two")[20:])
    path.rename(tmp_path / "api.log.1")
    path.write_text(line(1, "three"))
    assert [entry.fields["event"] for entry in log.read()] == ["two", "three"]
    assert list(log.read()) == []
    log.close()
