"""`opsjobs events`: lines for people and JSON lines, resumed after a break.

The output has the position from which to resume.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api
from opsjobs.cli.event_stream import Event
from opsjobs.cli.events import _line

EXECUTION = {
    "id": 9, "number": 7, "job_name": "backup", "status": "partial", "total_targets": 3,
    "counts": {"succeeded": 2, "failed": 1},
}  # fmt: skip


def cloud_event(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": f"io.opsconductor.{kind}.v1",
        "time": "2026-11-29T01:02:03.456Z",
        "subject": "5f0c",
        "data": data,
    }


def frame(place: str, kind: str, data: dict[str, Any]) -> bytes:
    return f"id: {place}\nevent: {kind}\ndata: {json.dumps(cloud_event(kind, data))}\n\n".encode()


@contextmanager
def following(api: FakeApi, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", "src"),
        "OPSJOBS_URL": api.url,
        "OPSJOBS_TOKEN": "opsc_ada",
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "opsjobs", "events", *arguments],
        env=environment, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_a_broken_stream_is_resumed_at_its_place_and_ctrl_c_names_it() -> None:
    never = threading.Event()
    answers = iter(
        [
            ApiResponse(portions=[b": connected\nid: 10\n\n"], cut=True),
            ApiResponse(portions=[frame("12-1", "job.created", {"name": "backup"})], cut=True),
            ApiResponse(503, {"status": 503}),
            ApiResponse(portions=[frame("14-0", "execution.partial", EXECUTION)], wait=never),
        ]
    )
    with (
        serve_api(lambda _: next(answers)) as api,
        following(
            api, "--kinds", "job.*,execution.partial", "--kinds", "job.*", "--json"
        ) as process,
    ):
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        never.set()
    assert [(line["id"], line["event"]) for line in lines] == [
        ("12-1", "job.created"),
        ("14-0", "execution.partial"),
    ]
    assert lines[1]["data"] == cloud_event("execution.partial", EXECUTION)
    assert [asked.headers.get("last-event-id") for asked in api.requests] == [
        None,
        "10",
        "12-1",
        "12-1",
    ]
    assert all(a.query == {"type": ["job.*", "execution.partial"]} for a in api.requests)
    assert "continue with: opsjobs events --after 14-0" in err
    assert "lost the connection to the service; reconnecting" in err
    assert "The execution" not in err


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (problem(410, "events_deleted", "Events after 3 were deleted."), 4, "were deleted"),
        (problem(403, "forbidden", "ben may not."), 5, "ben may not"),
    ],
)
def test_a_refusal_ends_it_with_its_reason(answer: ApiResponse, code: int, words: str) -> None:
    def reply(asked: ApiRequest) -> ApiResponse:
        assert asked.headers["last-event-id"] == "3"
        return answer

    with serve_api(reply) as api, following(api, "--after", "3") as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == code
    assert words in err


@pytest.mark.parametrize(
    ("kind", "data", "about"),
    [
        (
            "execution.partial",
            EXECUTION,
            "backup #7, execution 9: partial on 3 targets (2 succeeded, 1 failed)",
        ),
        ("execution.started", EXECUTION, "backup #7, execution 9: on 3 targets"),
        (
            "target_run.finished",
            {"target": {"name": "web-1"}, "status": "failed", "error": {"message": "exit 3"}},
            "web-1: failed: exit 3",
        ),
        ("schedule.triggered", {"name": "nightly", "firing": {"execution_id": 9}}, "nightly: execution 9"),
        ("schedule.missed", {"name": "nightly", "firing": {"reason": "late"}}, "nightly: late"),
        ("approval.requested", {"id": 4, "execution_id": 9, "status": "pending"}, "4 of execution 9: pending"),
        ("webhook.disabled", {"name": "ours", "disabled_reason": "it answered 410"}, "ours: it answered 410"),
        ("job.created", {"name": "a\x1b[31mb"}, r"a\x1b[31mb"),
        ("worker.lost", {}, "5f0c"),
    ],
)  # fmt: skip
def test_a_line_says_when_what_and_about_what(kind: str, data: dict[str, Any], about: str) -> None:
    line = _line(Event("12-1", kind, json.dumps(cloud_event(kind, data))))
    assert line.startswith("2026-11-29 01:02:03  ")
    assert line.split("  ", 1)[1].split(maxsplit=1) == [kind, about]
