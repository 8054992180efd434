"""`opsjobs run` and related commands as processes, against a scripted service."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api

BYTES = b"\x00\xff\xfe\x80 no final newline"


@dataclass
class Service:
    """Serve an execution 7 with these frames; if `held`, its end follows after a cancel."""

    targets: list[str]
    frames: list[tuple[str, dict[str, Any]]]
    status: str = "completed"
    held: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    known_hosts: dict[str, str] = field(default_factory=dict)

    def reply(self, asked: ApiRequest) -> ApiResponse:
        match (asked.method, asked.path):
            case ("POST", "/run"):
                return self._run(asked)
            case ("GET", "/executions/7"):
                return ApiResponse(body=self._execution(self.status))
            case ("GET", "/executions/7/targets"):
                runs = [
                    {"target": {"id": str(n), "name": name, "host": name}}
                    for n, name in enumerate(self.targets, start=1)
                ]
                return ApiResponse(body={"items": runs, "next": None})
            case ("GET", "/executions/7/events"):
                return self._events()
            case ("POST", "/executions/7/cancel"):
                self.status = "cancelled"
                self.cancelled.set()
                return ApiResponse(202, self._execution("cancelling"))
            case ("GET", "/targets"):
                host = asked.query["host"][0]
                items = [
                    {"id": i, "name": f"at-{h}", "host": h}
                    for h, i in self.known_hosts.items()
                    if h == host
                ]
                return ApiResponse(body={"items": items, "next": None})
        return problem(404, "not_found", f"There is nothing at {asked.path}.")

    def _run(self, asked: ApiRequest) -> ApiResponse:
        ids = asked.body["targets"].get("ids", [])
        known = {*self.targets, *self.known_hosts.values()}
        errors = [
            {"pointer": f"/targets/ids/{n}", "detail": f"There is no target {ref!r}."}
            for n, ref in enumerate(ids)
            if ref not in known
        ]
        if errors:
            return problem(422, "unknown_target", errors[0]["detail"], errors)
        return ApiResponse(202, self._execution("queued"))

    def _execution(self, status: str) -> dict[str, Any]:
        counts = {"succeeded": len(self.targets)} if status == "completed" else {status: 1}
        return {
            "id": 7,
            "status": status,
            "total_targets": len(self.targets),
            "counts": counts,
            "duration_ms": 500,
        }

    def _events(self) -> ApiResponse:
        sent = [frame(n, event, data) for n, (event, data) in enumerate(self.frames, start=1)]
        end = frame(len(sent) + 1, "end", {"status": self.status, "counts": {}})
        if not self.held:
            return ApiResponse(portions=[*sent, end], media_type="text/event-stream")
        end = frame(len(sent) + 1, "end", {"status": "cancelled", "counts": {}})
        return ApiResponse(
            portions=sent, media_type="text/event-stream", wait=self.cancelled, then=[end]
        )


def frame(position: int, event: str, data: dict[str, Any]) -> bytes:
    return f"id: {position}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()


def output_frame(
    target: int, data: str | bytes, stream: str = "stdout"
) -> tuple[str, dict[str, Any]]:
    text = (
        {"data": data}
        if isinstance(data, str)
        else {"data_base64": base64.b64encode(data).decode()}
    )
    return "output", {
        "target_run": 10 + target,
        "target": str(target),
        "action": "step-1",
        "attempt": 1,
        "stream": stream,
        **text,
    }


def became(
    target: int, status: str, code: str | None = None, message: str = ""
) -> tuple[str, dict[str, Any]]:
    error = {"code": code, "message": message} if code else None
    return "status", {
        "target_run": 10 + target,
        "target": str(target),
        "status": status,
        "error": error,
    }


def resulted(target: int, exit_code: int) -> tuple[str, dict[str, Any]]:
    times = {"started_at": "2026-11-24T12:00:00Z", "finished_at": f"2026-11-24T12:00:0{target}Z"}
    return "result", {
        "target_run": 10 + target,
        "target": str(target),
        "action_key": "step-1",
        "exit_code": exit_code,
        **times,
    }


@contextmanager
def started(api: FakeApi, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", "src"),
        "OPSJOBS_URL": api.url,
    }
    command = [sys.executable, "-m", "opsjobs", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={**environment, "OPSJOBS_TOKEN": "opsc_ada"}, stdout=pipe, stderr=pipe
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def opsjobs(service: Service, *arguments: str) -> tuple[int, bytes, str, list[ApiRequest]]:
    with serve_api(service.reply) as api, started(api, *arguments) as process:
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err.decode(), api.requests


def test_stdout_and_stderr_of_one_target_are_exact_and_separate() -> None:
    service = Service(
        ["web-1"],
        [
            output_frame(1, BYTES),
            output_frame(1, "careful\n", "stderr"),
            resulted(1, 0),
            became(1, "succeeded"),
        ],
    )
    code, out, err, asked = opsjobs(
        service,
        "run",
        "cat x",
        "-t",
        "web-1",
        "--timeout",
        "30s",
        "--parallel",
        "5",
        "--reason",
        "why",
    )
    assert (code, out) == (0, BYTES)
    assert (
        err
        == "execution 7 on 1 target\ncareful\nexecution 7 completed: 1 succeeded of 1 target in 500 ms (2.0 targets/s)\n"
    )
    assert asked[0].body == {
        "actions": [{"type": "command", "command": "cat x", "timeout": "30s"}],
        "targets": {"ids": ["web-1"]},
        "policy": {"max_parallel": 5},
        "reason": "why",
    }


@pytest.mark.parametrize(
    ("options", "become"),
    [
        (["--become"], {}),
        (["--become", "--become-user", "postgres"], {"user": "postgres"}),
        (
            ["--become-method", "su", "--become-credential", "root-pw"],
            {"method": "su", "credential": "root-pw"},
        ),
    ],
)
def test_become_options_become_the_request(options: list[str], become: dict[str, str]) -> None:
    service = Service(["web-1"], [resulted(1, 0), became(1, "succeeded")])
    code, _, _, asked = opsjobs(service, "run", "id", "-t", "web-1", *options)
    assert code == 0
    assert asked[0].body["actions"] == [{"type": "command", "command": "id", "become": become}]


def test_an_unknown_become_method_exits_2() -> None:
    code, _, err, asked = opsjobs(
        Service(["web-1"], []), "run", "id", "-t", "web-1", "--become-method", "pbrun"
    )
    assert (code, asked) == (2, [])
    assert "'pbrun'" in err


def test_output_of_several_targets_is_prefixed_and_the_summary_names_failures() -> None:
    frames = [
        output_frame(1, "a\n"),
        output_frame(2, "b"),
        resulted(1, 0),
        became(1, "succeeded"),
        resulted(2, 3),
        became(2, "failed", "nonzero_exit", "exit 3"),
    ]
    service = Service(["web-1", "web-2"], frames, status="partial")
    code, out, err, asked = opsjobs(service, "run", "x", "-l", "env=prod", "-g", "web,db")
    assert (code, out) == (3, b"web-1 | a\nweb-2 | b\n")
    assert asked[0].body["targets"] == {"groups": ["web", "db"], "selector": "env=prod"}
    assert err.splitlines()[2:] == ["slowest: web-2 2.00 s, web-1 1.00 s", "  web-2 failed, exit 3"]


def test_an_unreachable_target_is_reported_with_code_and_message() -> None:
    frames = [became(1, "unreachable", "connection_refused", "10.0.0.5:22 refuses connections")]
    code, _, err, _ = opsjobs(
        Service(["web-1"], frames, status="failed"), "run", "x", "-t", "web-1"
    )
    assert code == 3
    assert (
        err.splitlines()[-1]
        == "  web-1 unreachable (connection_refused): 10.0.0.5:22 refuses connections"
    )


def test_json_output_is_one_event_per_line() -> None:
    code, out, _, _ = opsjobs(
        Service(["web-1"], [output_frame(1, "a\n"), output_frame(1, BYTES)]),
        "run",
        "x",
        "-t",
        "web-1",
        "--json",
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(e["id"], e["event"]) for e in events] == [(1, "output"), (2, "output"), (3, "end")]
    assert base64.b64decode(events[1]["data"]["data_base64"]) == BYTES


def test_an_unknown_target_exits_4_and_starts_nothing() -> None:
    code, out, err, asked = opsjobs(Service(["web-1"], []), "run", "x", "-t", "web-1,web-9")
    assert (code, out, err) == (
        4,
        b"",
        "opsjobs: There is no target 'web-9': `opsjobs targets list` shows them.\n",
    )
    assert "/executions/7/events" not in [a.path for a in asked]


def test_a_host_selects_its_target() -> None:
    service = Service(["web-1"], [], known_hosts={"10.0.0.5": "77"})
    code, _, _, asked = opsjobs(service, "run", "x", "-t", "10.0.0.5", "-t", "web-1")
    assert code == 0
    assert [a.body["targets"]["ids"] for a in asked if a.method == "POST"] == [
        ["10.0.0.5", "web-1"],
        ["77", "web-1"],
    ]


def test_detach_prints_only_the_id() -> None:
    code, out, err, asked = opsjobs(Service(["web-1"], []), "run", "x", "-t", "web-1", "--detach")
    assert (code, out) == (0, b"7\n")
    assert "opsjobs executions follow 7" in err
    assert len(asked) == 1


def test_a_timeout_exits_124() -> None:
    assert opsjobs(Service(["web-1"], [], status="timeout"), "run", "x", "-t", "web-1")[0] == 124


def test_follow_exits_as_run_does() -> None:
    code, out, _, _ = opsjobs(
        Service(["web-1"], [output_frame(1, "a\n")], status="failed"), "executions", "follow", "7"
    )
    assert (code, out) == (3, b"a\n")


def test_ctrl_c_cancels_and_waits_for_the_end() -> None:
    service = Service(["web-1"], [output_frame(1, "begun\n")], held=True)
    with serve_api(service.reply) as api, started(api, "run", "x", "-t", "web-1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
    assert service.cancelled.is_set()
    assert process.returncode == 130
    assert "cancelling execution 7; Ctrl-C again exits" in err.decode()
    assert "execution 7 cancelled" in err.decode()


def test_a_second_ctrl_c_exits_at_once() -> None:
    service = Service(["web-1"], [output_frame(1, "begun\n")], held=True)
    cancels = threading.Event()
    release = threading.Event()

    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.path.endswith("/cancel"):
            cancels.set()
            return ApiResponse(202, {"id": 7})
        answer = service.reply(asked)
        answer.wait = release if answer.wait else None
        return answer

    with serve_api(reply) as api, started(api, "run", "x", "-t", "web-1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        assert cancels.wait(90)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
        release.set()
    assert process.returncode == 130
    assert "interrupted: execution 7 is being cancelled" in err.decode()


def test_ctrl_c_while_following_cancels_nothing() -> None:
    service = Service(["web-1"], [output_frame(1, "begun\n")], held=True)
    with serve_api(service.reply) as api, started(api, "executions", "follow", "7") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
        asked = [a.path for a in api.requests]
        service.cancelled.set()
    assert process.returncode == 130
    assert "execution 7 continues" in err.decode()
    assert "/executions/7/cancel" not in asked


def test_a_broken_pipe_is_no_traceback() -> None:
    many = [output_frame(1, "x" * 8_000 + "\n") for _ in range(100)]
    with (
        serve_api(Service(["web-1"], many).reply) as api,
        started(api, "run", "x", "-t", "web-1") as process,
    ):
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert process.wait(timeout=90) == 1
    assert "broken pipe: execution 7 continues" in err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_permission_exits_5(status: int) -> None:
    with (
        serve_api(lambda _: problem(status, "no", "You may not do that.")) as api,
        started(api, "jobs", "list") as process,
    ):
        process.communicate(timeout=90)
        assert process.returncode == 5
