"""A whole `up` with a job: log lines, traces at a real collector, and metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import COMMAND_SECONDS, OPSJOBS, POLL_SECONDS, UpProcess, opsjobs_up
from kit.ports import free_port
from kit.span_collector import OtlpCollector, SeenSpan, otlp_collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
CANARY = "canary-9b1c-in-a-command"
SECRET = "canary-4d7e-in-a-secret-parameter"
SPANS = {
    "POST /run", "launch", "wakeup", "queue", "target_run", "claim", "attempt", "connect", "auth", "exec", "commit", "publish",
}  # fmt: skip


@dataclass
class Observed:
    """The service, its collector, and the execution that ran with a trace of its caller."""

    service: UpProcess
    collector: OtlpCollector
    metrics_port: int
    execution: int
    token: str
    listener: threading.Thread

    def lines(self) -> dict[str, list[dict[str, Any]]]:
        """Every line of every log file as JSON, by process; the last one may still be on its way."""
        texts = {path.name: path.read_bytes() for path in (self.service.data / "logs").iterdir()}
        return {
            name: [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
            for name, text in texts.items()
        }

    def wait_for_lines(self, process: str, words: str, count: int = 1) -> None:
        """Wait until a log has so many lines with these words: `up` writes what the process has sent to it."""
        path = self.service.data / "logs" / f"{process}.log"
        deadline = time.monotonic() + COMMAND_SECONDS
        while (text := path.read_text()).count(words) < count or not text.endswith("\n"):
            assert time.monotonic() < deadline, text
            time.sleep(POLL_SECONDS)


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    port = _free_ports(3)
    with otlp_collector() as collector, open_folder(memory()) as folder:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "METRICS_PORT": str(port),
            "OPSJOBS_POLL_SECONDS": "0.2",
        }
        with opsjobs_up(folder / "data", "--lab", "2", settings=settings) as service:
            token = (service.data / "admin-token").read_text().strip()
            url = (service.data / "endpoint").read_text().strip()
            # Without a listener, events are not built.
            listener = _listen(service)
            execution = _run(url, token)
            assert service.run("executions", "follow", str(execution)).returncode == 0
            found = Observed(service, collector, port, execution, token, listener)
            found.wait_for_lines("worker-1", '"event": "run_ended"', 2)
            found.wait_for_lines("api", '"event": "execution_launched"')
            found.wait_for_lines("api", '"path": "/run"')
            yield found


def _free_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    while True:
        first = free_port()
        if all(_is_free(first + n) for n in range(count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _listen(service: UpProcess) -> threading.Thread:
    client = redis.Redis(
        unix_socket_path=str(service.data / "run" / "valkey.sock"), socket_timeout=None
    )
    events = client.pubsub()
    events.subscribe("opsconductor.events")
    events.get_message(timeout=10)

    def listen() -> None:
        with contextlib.suppress(redis.ConnectionError):  # the service has ended
            while True:
                events.get_message(timeout=None)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    return thread


def _run(url: str, token: str) -> int:
    body = {
        "actions": [{"type": "command", "command": f"echo {CANARY}; uptime"}],
        "targets": {"selector": "lab=true"},
    }
    request = urllib.request.Request(
        f"{url}/run",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "traceparent": CALLER,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.load(answer)["id"])


def _post(observed: Observed, path: str, body: object, **headers: str) -> dict[str, Any]:
    url = (observed.service.data / "endpoint").read_text().strip()
    request = urllib.request.Request(
        f"{url}{path}",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {observed.token}",
            "Content-Type": "application/json",
            **headers,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_one_trace_holds_the_request_and_every_run(observed: Observed) -> None:
    def is_whole(found: list[SeenSpan]) -> bool:
        """Each process sends its spans by itself, those within another one before it."""
        names, ids = [span.name for span in found], {span.span_id for span in found}
        return (
            {*names} >= SPANS
            and min(names.count("target_run"), names.count("commit")) >= 2
            and names.count("publish") >= 3
            and all(span.parent_id in ids or span.name == "POST /run" for span in found)
        )

    spans = observed.collector.wait(is_whole)
    assert {span.trace_id for span in spans} == {TRACE}, "others are not sampled"
    by_id = {span.span_id: span for span in spans}
    assert all(span.parent_id in by_id or span.name == "POST /run" for span in spans)
    assert {span.service for span in spans} >= {"opsjobs-api", "opsjobs-worker"}
    runs = [span for span in spans if span.name == "target_run"]
    assert {span.attributes["opsjobs.execution"] for span in runs} == {observed.execution}
    assert len(runs) == 2
    assert {by_id[span.parent_id].name for span in runs} == {"POST /run"}
    assert all(span.began <= span.ended for span in spans)


def test_every_line_of_every_log_is_json_and_carries_its_ids(observed: Observed) -> None:
    found = observed.lines()
    assert set(found) >= {
        "api.log",
        "worker-1.log",
        "scheduler.log",
        "postgres.log",
        "valkey.log",
        "up.log",
    }
    for name, lines in found.items():
        for line in lines:
            assert {"timestamp", "level", "event", "process"} <= set(line), (name, line)
            assert line["timestamp"].endswith("Z")
    ended = [line for line in found["worker-1.log"] if line["event"] == "run_ended"]
    assert [(line["execution"], line["trace_id"], line["status"]) for line in ended] == [
        (observed.execution, TRACE, "succeeded")
    ] * 2
    assert all(isinstance(line["target_run"], int) for line in ended)
    [launched] = [line for line in found["api.log"] if line["event"] == "execution_launched"]
    [request] = [line for line in found["api.log"] if line.get("path") == "/run"]
    assert (launched["execution"], launched["trace_id"]) == (observed.execution, TRACE)
    assert launched["request_id"] == request["request_id"]
    assert request["trace_id"] == TRACE
    assert any("ready to accept connections" in line["event"] for line in found["postgres.log"])
    assert any("Ready to accept connections" in line["event"] for line in found["valkey.log"])
    assert CANARY not in json.dumps(found)


def test_logs_are_shown_by_execution_level_and_process(observed: Observed) -> None:
    def logs(*arguments: str) -> list[str]:
        done = observed.service.run("logs", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    of_execution = [
        json.loads(line) for line in logs("--execution", str(observed.execution), "--json")
    ]
    assert {line["event"] for line in of_execution} == {
        "execution_launched",
        "request",
        "run_ended",
    }
    times = [line["timestamp"] for line in of_execution]
    assert times == sorted(times)
    assert all(
        " run_ended " in line
        for line in logs("--execution", str(observed.execution), "--process", "worker-1")
    )
    assert {line.split()[3] for line in logs("--process", "postgres")} == {"postgres"}
    assert not any(" INFO " in line for line in logs("--level", "warning"))
    assert len(logs("-n", "3")) == 3
    assert logs("--since", "1s", "--process", "valkey") == []
    assert observed.service.run("logs", "--process", "nothing").returncode == 4
    assert observed.service.run("logs", "--since", "soon").returncode == 2


def test_new_lines_are_followed(observed: Observed) -> None:
    with subprocess.Popen(
        [*OPSJOBS, "logs", "-f", "-n", "1", "--process", "api", "--json"],
        env=observed.service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        following.stdout.readline()
        request = urllib.request.Request(
            (observed.service.data / "endpoint").read_text().strip() + "/livez",
            headers={"X-Request-ID": "look-for-me"},
        )
        urllib.request.urlopen(request, timeout=60).close()
        while "look-for-me" not in (line := following.stdout.readline()):
            assert line
        os.kill(following.pid, signal.SIGINT)
        assert following.wait(60) == 130


def test_each_process_serves_its_metrics_on_its_own_port(observed: Observed) -> None:
    pages = []
    for n in range(3):
        url = f"http://127.0.0.1:{observed.metrics_port + n}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            pages.append(answer.read().decode())
    api, worker, scheduler = pages
    assert 'opsjobs_http_request_seconds_count{method="POST",route="/run",status="202"} 1.0' in api
    assert 'opsjobs_runs_finished_total{status="succeeded",type="command"} 2.0' in worker
    assert "opsjobs_runs_finished_total{" not in scheduler


def test_no_secret_is_exported_or_logged(observed: Observed) -> None:
    job = _post(
        observed,
        "/jobs",
        {
            "name": "with-a-secret",
            "parameters": [{"name": "token", "type": "string", "secret": True}],
            "actions": [
                {
                    "type": "script",
                    "interpreter": "sh",
                    "script": 'cat "$OPSJOBS_SECRETS/token"; exit 3',
                }
            ],
            "targets": {"selector": "lab=true"},
        },
    )
    trace = "5" * 32
    launched = _post(
        observed,
        f"/jobs/{job['id']}/execute",
        {"parameters": {"token": SECRET}},
        traceparent=f"00-{trace}-00f067aa0ba902b7-01",
    )
    assert observed.service.run("executions", "follow", str(launched["id"])).returncode == 3
    observed.collector.wait(
        lambda found: sum(s.name == "commit" and s.trace_id == trace for s in found) >= 2
    )
    exported = observed.collector.raw
    for canary in (CANARY, SECRET, observed.token):
        assert canary.encode() not in exported
        assert canary not in json.dumps(observed.lines())


def test_a_killed_process_leaves_json_only(observed: Observed) -> None:
    os.kill(observed.service.children()["worker"], signal.SIGKILL)
    observed.service.expect("runs again")
    restarts = [line for line in observed.lines()["up.log"] if "SIGKILL" in line["event"]]
    assert restarts[0]["level"] == "warning"


def test_without_logs_the_command_says_where_they_would_be(tmp_path: Path) -> None:
    done = subprocess.run(
        [*OPSJOBS, "logs"],
        env={**os.environ, "OPSJOBS_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert f"no logs: {tmp_path}/logs has none" in done.stderr
