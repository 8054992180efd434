"""The live view: its header, its status line on a terminal, and its waiting reasons."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from cli.pseudo_terminal import run_on_terminal
from cli.test_run import Service, became, frame, opsjobs, output_frame, resulted
from opsjobs.cli.live_view import render_wait_reason

CONFIRM = {"kind": "confirm", "reason": "wave 1 of 2 has ended", "by": None}
ASKED = {"kind": "approval", "approval": 36, "reason": "its job asks for an approval"}
ACCEPT = (
    "Accept the failures with: opsjobs executions resume 7; or end it: opsjobs executions cancel 7"
)
MOVED = {"execution": 7, "error": None}


@dataclass
class Waves(Service):
    """Script an execution of two waves that is paused between them, and then runs to its end.

    It continues once the pause was shown.
    """

    holds: dict[str, Any] | None = field(default_factory=lambda: CONFIRM)
    looked: threading.Event = field(default_factory=threading.Event)
    ends: bool = True
    looks: int = 0

    def reply(self, asked: ApiRequest) -> ApiResponse:
        answer = super().reply(asked)
        if (asked.method, asked.path) == ("GET", "/executions/7") and not self.looked.is_set():
            answer.body |= {"status": "paused", "waiting_on": self.holds}
            self.looks += 1
            if self.looks == 2:  # the response to the first request was read
                self.looked.set()
        return answer

    def _execution(self, status: str) -> dict[str, Any]:
        return {
            **super()._execution(status),
            "job_id": 3,
            "job_name": "patch",
            "waves": {"open": 1, "total": 2},
        }

    def _events(self) -> ApiResponse:
        first = [
            *self.frames,
            (
                "status",
                {**MOVED, "status": "paused", "reason": "wave 1 of 2 has ended", "by": None},
            ),
        ]
        sent = [frame(n, event, data) for n, (event, data) in enumerate(first, start=1)]
        after = [
            ("status", {**MOVED, "status": "running", "by": "ben", "wave": 2, "waves": 2}),
            resulted(2, 0),
            became(2, "succeeded"),
        ]
        rest = [frame(n, event, data) for n, (event, data) in enumerate(after, start=10)]
        end = frame(20, "end", {"status": "completed", "counts": {}})
        then = [*rest, end] if self.ends else [b": keep-alive\n\n"]
        return ApiResponse(
            portions=sent, media_type="text/event-stream", wait=self.looked, then=then
        )


def waves(**more: Any) -> Waves:
    return Waves(
        ["web-1", "web-2"],
        [output_frame(1, "hi\n"), resulted(1, 0), became(1, "succeeded")],
        **more,
    )


def test_the_live_view_shows_a_header_and_the_wait_reason() -> None:
    code, out, err, _ = opsjobs(waves(), "run", "true", "-t", "web-1,web-2")
    assert (code, out) == (0, b"web-1 | hi\n")
    assert err.splitlines()[:3] == [
        "execution 7 of patch on 2 targets (wave 1 of 2)",
        "paused: wave 1 of 2 has ended. Continue with: opsjobs executions resume 7",
        "resumed by ben: wave 2 of 2",
    ]
    assert "\x1b" not in err
    assert "\r" not in err


def test_a_terminal_shows_a_status_line_below_the_output() -> None:
    with serve_api(waves().reply) as api:
        code, shown = run_on_terminal("run", "true", "-t", "web-1,web-2", url=api.url)
    assert code == 0
    # Each status line is erased before anything else is written, so that only whole lines remain.
    lines = shown.replace("\r\n", "\n")
    assert "\x1b[2mexecution 7: " in lines
    stays = "".join(piece.rpartition("\r\x1b[K")[2] + "\n" for piece in lines.split("\n"))
    assert "done" not in stays
    assert "web-1 | hi\n" in stays
    assert "1/2 done, 0 running, 1 waiting, wave 1 of 2" in lines or "2/2 done" in lines


def test_no_color_disables_colours_and_stderr_is_red_otherwise() -> None:
    service = Service(
        ["web-1"],
        [output_frame(1, "boom\n", "stderr"), resulted(1, 3), became(1, "failed", "nonzero_exit")],
        status="failed",
    )
    with serve_api(service.reply) as api:
        _, coloured = run_on_terminal("run", "x", "-t", "web-1", url=api.url)
        _, plain = run_on_terminal(
            "run", "x", "-t", "web-1", url=api.url, environment={"NO_COLOR": "1"}
        )
    assert "\x1b[31mboom" in coloured
    assert "\x1b[31mexecution 7 failed" in coloured
    assert "m" not in [rest[:1] for rest in plain.split("\x1b[")[1:]]
    assert "\x1b[3" not in plain
    assert "web-1 failed, exit 3: boom" in plain


HOSTILE = "begun\rweb-2 | all backups deleted\x1b[K\x1b]52;c;ZXZpbA==\x07\n"


@pytest.mark.parametrize(
    "command", [["run", "true", "-t", "web-1,web-2"], ["executions", "follow", "7"]]
)
def test_remote_control_sequences_are_escaped_unless_raw(command: list[str]) -> None:
    service = Service(
        ["web-1", "web-2"],
        [output_frame(1, HOSTILE), *(made(n) for n in (1, 2) for made in (ended, succeeded))],
    )
    with serve_api(service.reply) as api:
        _, shown = run_on_terminal(*command, url=api.url)
        _, raw = run_on_terminal(*command, "--raw", url=api.url)
    assert "web-1 | begun^Mweb-2 | all backups deleted^[[K^[]52;c;ZXZpbA==^G\r\n" in shown
    assert "\x1b]52" not in shown
    assert f"web-1 | {HOSTILE[:-1]}" in raw
    code, piped, _, _ = opsjobs(service, *command)
    assert (code, piped) == (0, f"web-1 | {HOSTILE}".encode()), "what is piped stays as it is"


def ended(run: int) -> Any:
    return resulted(run, 0)


def succeeded(run: int) -> Any:
    return became(run, "succeeded")


@pytest.mark.parametrize(
    "command", [["run", "true", "-t", "web-1,web-2"], ["executions", "follow", "7"]]
)
def test_a_run_that_waits_for_a_decision_exits_7_after_the_wait_limit(
    command: list[str],
) -> None:
    code, _, err, asked = opsjobs(waves(ends=False, holds=ASKED), *command, "--wait-limit", "0s")
    assert code == 7
    assert (
        "waiting for approval 36: its job asks for an approval. See: opsjobs approvals show 36."
        in err
    )
    assert (
        "execution 7 still waits for a person's decision. Follow it with: opsjobs executions follow 7"
        in err
    )
    assert not [a for a in asked if a.path.endswith("/cancel")]


def test_an_invalid_wait_limit_is_refused() -> None:
    code, _, err, asked = opsjobs(waves(), "run", "true", "-t", "web-1", "--wait-limit", "soon")
    assert (code, asked) == (2, [])
    assert "--wait-limit: 'soon' is not a duration" in err


def test_equal_failures_are_summarized_with_step_and_last_stderr_line() -> None:
    frames: list[Any] = [
        (
            "result",
            {
                "target_run": 11,
                "target": "1",
                "action_key": "prep",
                "exit_code": 0,
                "status": "succeeded",
            },
        )
    ]
    for n in (1, 2, 3):
        failed = {
            "target_run": 10 + n,
            "target": str(n),
            "action_key": "patch",
            "exit_code": 100,
            "status": "failed",
        }
        frames += [
            output_frame(n, "reading…\nE: Could not get lock\n\n", "stderr"),
            ("result", failed),
        ]
        frames.append(became(n, "failed", "nonzero_exit", "exit status 100"))
    code, _, err, _ = opsjobs(
        Service(["app03", "db07", "web09"], frames, status="failed"),
        "run",
        "x",
        "-t",
        "app03,db07,web09",
    )
    assert code == 3
    assert (
        err.splitlines()[-1]
        == "  3 failed at step patch, exit 100: E: Could not get lock (app03, db07, web09)"
    )


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (
            {"kind": "pause", "reason": "too loud", "by": "ben"},
            "paused by ben: too loud. Continue with: opsjobs executions resume 7",
        ),
        (
            {"kind": "pause", "reason": None, "by": "ben"},
            "paused by ben. Continue with: opsjobs executions resume 7",
        ),
        (
            {"kind": "max_fail", "reason": "3 of 9 runs failed, and max_fail allows 2"},
            f"paused: 3 of 9 runs failed, and max_fail allows 2. {ACCEPT}",
        ),
        (
            {"kind": "exclusive", "reason": "db is held by execution 5", "execution": 5},
            "waiting: db is held by execution 5. See: opsjobs executions show 5",
        ),
        (
            {"kind": "workers", "reason": "no worker runs in the zone paris", "zones": ["paris"]},
            "waiting: no worker runs in the zone paris. Start one with: opsjobs worker --zone paris",
        ),
        (
            {"kind": "maintenance", "reason": "web-1 is under maintenance", "target": "web-1"},
            "waiting: web-1 is under maintenance. See: opsjobs targets show web-1",
        ),
        (
            {"kind": "hold", "reason": "web-1 is held"},
            "waiting: web-1 is held. See: opsjobs executions show 7 -o wide",
        ),
    ],
)
def test_each_wait_reason_names_the_command_that_continues(
    held: dict[str, Any], words: str
) -> None:
    assert render_wait_reason({"id": 7, "waiting_on": held}) == words
    assert render_wait_reason({"id": 7, "waiting_on": None}) is None
