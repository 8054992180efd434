"""`opsjobs triggers`: the requests of its options, and its output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run
from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.triggers import parse_condition

TRIGGER: dict[str, Any] = {
    "id": 3,
    "job_id": 1,
    "job_name": "deploy",
    "name": "push",
    "verify": "github",
    "parameters": {"branch": {"pointer": "/ref"}, "by": {"value": "ci"}},
    "enabled": True,
    "path": "/hooks/01934c3b",
    "calls": 0,
    "last_call": None,
}
CALL = {
    "id": 1,
    "at": "2026-11-25T09:00:00.000Z",
    "outcome": "refused",
    "code": "hook_not_found",
    "reason": "it has no header X-Hub-Signature-256",
    "times": 4,
    "delivery": None,
    "address": "203.0.113.9",
    "execution_id": None,
}


def service(asked: ApiRequest) -> ApiResponse:
    """Serve a fake API with one job and one trigger."""
    if asked.method == "GET" and asked.path == "/jobs":
        return ApiResponse(200, {"items": [{"id": 1, "name": "deploy"}], "next": None})
    if asked.path == "/triggers/3/calls":
        return ApiResponse(200, {"items": [CALL], "next": None})
    if asked.path == "/triggers":
        found = asked.query.get("name") in (["push"], None)
        return ApiResponse(200, {"items": [TRIGGER] if found else [], "next": None})
    return ApiResponse(200, {**TRIGGER, "secret": "whsec_c2VjcmV0"})


def triggers(monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> list[ApiRequest]:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["triggers", *words]) == code
        return api.requests


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("/ref=refs/heads/main", {"pointer": "/ref", "equals": "refs/heads/main"}),
        ("/a~1b=x=y", {"pointer": "/a~1b", "equals": "x=y"}),
        ("/deleted=false", {"pointer": "/deleted", "equals": False}),
        ("/size=12", {"pointer": "/size", "equals": 12}),
        ("/version=007", {"pointer": "/version", "equals": "007"}),
        ("X-GitHub-Event=push", {"header": "X-GitHub-Event", "equals": "push"}),
        ("X-Count=12", {"header": "X-Count", "equals": "12"}),
        ("/ref=~refs/tags/.*", {"pointer": "/ref", "matches": "refs/tags/.*"}),
        ("/head_commit", {"pointer": "/head_commit", "exists": True}),
        ("/head_commit!", {"pointer": "/head_commit", "exists": False}),
    ],
)
def test_a_condition_is_a_place_and_a_test(text: str, condition: dict[str, Any]) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize("text", ["", "=x", "a b=c", "/ref!x"])
def test_what_is_no_condition_is_refused_with_examples(text: str) -> None:
    with pytest.raises(CommandFailed, match=r"--when: .* Write /POINTER=VALUE"):
        parse_condition(text)


def test_add_sends_the_sources_and_shows_the_secret_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--from-body", "branch=/ref", "--from-header", "env=X-Env", "-p", "by=ci"]
    asked = triggers(
        monkeypatch,
        *("add", "deploy", "push", "--verify", "github", "--max-calls", "5"),
        *(*words, "--when", "/ref=main", "--expires", "2027-01-31T00:00:00Z"),
    )[-1]
    assert (asked.method, asked.path) == ("POST", "/jobs/1/triggers")
    assert asked.body == {
        "name": "push",
        "verify": "github",
        "parameters": {
            "branch": {"pointer": "/ref"},
            "env": {"header": "X-Env"},
            "by": {"value": "ci"},
        },
        "when": [{"pointer": "/ref", "equals": "main"}],
        "max_calls_per_minute": 5,
        "expires_at": "2027-01-31T00:00:00+00:00",
    }
    written = capsys.readouterr()
    assert "whsec_c2VjcmV0" in written.out
    assert "/hooks/01934c3b" in written.out
    assert "shown this once" in written.err


def test_set_replaces_the_sources_and_leaves_what_is_not_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = triggers(monkeypatch, "set", "deploy/push", "--from-header", "branch=X-Branch")[-1]
    assert (asked.method, asked.path) == ("PATCH", "/triggers/3")
    # A merge patch: null removes.
    assert asked.body == {
        "parameters": {"branch": {"pointer": None, "header": "X-Branch"}, "by": None}
    }
    triggers(monkeypatch, "set", "push", code=2)
    assert "nothing to change" in capsys.readouterr().err


def test_calls_say_why_they_were_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triggers(monkeypatch, "calls", "push")
    written = capsys.readouterr().out
    assert "hook_not_found  4      it has no header X-Hub-Signature-256" in written
    triggers(monkeypatch, "calls", "push", "-o", "json")
    assert json.loads(capsys.readouterr().out) == [CALL]


def test_a_trigger_that_is_not_there_is_exit_code_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triggers(monkeypatch, "disable", "nightly", code=4)
    assert "opsjobs triggers list" in capsys.readouterr().err
