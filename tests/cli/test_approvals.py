"""`opsjobs approvals`, `executions pause` and `resume`: what they ask of the service, and what they say."""

from __future__ import annotations

import pytest

from cli.desk import Answer
from cli.test_dead_letters import answering
from opsjobs.cli.app import run

ASKED = {
    "id": 3,
    "execution_id": 7,
    "action": "go",
    "message": "May we?",
    "status": "pending",
    "asked_at": "2026-11-25T09:00:00.000Z",
    "expires_at": None,
    "decided_by": None,
    "reason": None,
}


def test_approvals_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(monkeypatch, lambda _: Answer(body={"items": [ASKED], "next": None})) as desk:
        assert run(["approvals", "list", "--status", "pending", "--execution", "7"]) == 0
    assert (desk.asked[0].query["status"], desk.asked[0].query["execution_id"]) == (["pending"], ["7"])
    assert "May we?" in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "status"), [("approve", "approved"), ("reject", "rejected")])
def test_an_approval_is_decided(
    verb: str, status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(monkeypatch, lambda _: Answer(body={**ASKED, "status": status})) as desk:
        assert run(["approvals", verb, "3", "--reason", "looked at it"]) == 0
    assert (desk.asked[0].path, desk.asked[0].body) == (f"/approvals/3/{verb}", {"reason": "looked at it"})
    assert f"approval 3 of execution 7 is {status}" in capsys.readouterr().err


def test_an_execution_is_paused_and_resumed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = ["paused", "running"]
    with answering(monkeypatch, lambda _: Answer(body={"id": 7, "status": statuses.pop(0)})) as desk:
        assert run(["executions", "pause", "7", "--reason", "sick"]) == 0
        assert run(["executions", "resume", "7"]) == 0
    assert [(asked.path, asked.body) for asked in desk.asked] == [
        ("/executions/7/pause", {"reason": "sick"}),
        ("/executions/7/resume", {}),
    ]
    assert "execution 7 is running" in capsys.readouterr().err
