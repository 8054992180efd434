"""`opsjobs webhooks` against a fake API: requests and output."""

from __future__ import annotations

from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run

HOOK: dict[str, Any] = {
    "id": 3, "uuid": "01a20e5a-24fc-7134-a54e-2cc22ebb4205", "name": "tickets", "url": "https://t.example.org/hook",
    "events": ["execution.failed"], "selector": None, "enabled": True, "disabled_reason": None, "owner": "ada", "owner_kind": "user",
    "previous_secret_until": None, "failures": 0, "failing_since": None, "created_at": "2026-11-25T09:00:00.000Z",
    "updated_at": "2026-11-25T09:00:00.000Z",
}  # fmt: skip
DELIVERY: dict[str, Any] = {
    "id": 7, "event": "webhook.test", "message_id": "test-1", "subject": "s", "status": "pending", "redelivery": False,
    "attempts": 0, "response_code": None, "response": None, "error": None, "duration_ms": None,
    "created_at": "2026-11-25T09:00:00.000Z", "attempted_at": None, "finished_at": None, "next_attempt_at": None,
}  # fmt: skip


def webhooks(
    monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0, ended: dict[str, Any] | None = None
) -> list[ApiRequest]:
    """Run a command; return its requests. `ended`: the outcome of the delivery."""

    def reply(request: ApiRequest) -> ApiResponse:
        if request.path.endswith("/deliveries/7"):
            return ApiResponse(body={**DELIVERY, **(ended or {})})
        if request.path.endswith("/deliveries"):
            return ApiResponse(body={"items": [{**DELIVERY, **(ended or {})}], "next": None})
        if request.method == "GET":
            return ApiResponse(body={"items": [HOOK], "next": None})
        if request.path.endswith(("/test", "/redeliver")):
            return ApiResponse(202, DELIVERY)
        if request.method == "DELETE":
            return ApiResponse(204)
        return ApiResponse(body={**HOOK, "secret": "whsec_of-the-tests"})

    with serve_api(reply) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada_of_the_tests")
        assert run(["webhooks", *words]) == code
        return list(api.requests)


def test_a_webhook_is_added_and_its_secret_shown_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (asked,) = webhooks(
        monkeypatch, "add", "tickets", HOOK["url"], "--event", "execution.failed,approval.*", "-l", "env=prod"
    )  # fmt: skip
    assert (asked.method, asked.path) == ("POST", "/webhooks")
    assert asked.body == {
        "name": "tickets",
        "url": HOOK["url"],
        "events": ["execution.failed", "approval.*"],
        "selector": "env=prod",
    }
    out, err = capsys.readouterr()
    assert "whsec_of-the-tests" in out
    assert "store it at the receiver now" in err


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (["set", "tickets", "--event", "job.*"], "PATCH", "/webhooks/3", {"events": ["job.*"]}),
        (["disable", "tickets"], "PATCH", "/webhooks/3", {"enabled": False}),
        (["enable", "tickets"], "PATCH", "/webhooks/3", {"enabled": True}),
        (["rotate", "tickets", "--overlap", "1h"], "POST", "/webhooks/3/rotate", {"overlap": "1h"}),
        (["redeliver", "tickets", "7"], "POST", "/webhooks/3/deliveries/7/redeliver", None),
        (["rm", "tickets"], "DELETE", "/webhooks/3", None),
    ],
)
def test_commands_ask_for_one_change_each(
    monkeypatch: pytest.MonkeyPatch, words: list[str], method: str, path: str, body: Any
) -> None:
    *_, asked = webhooks(monkeypatch, *words)
    assert (asked.method, asked.path, asked.body or None) == (method, path, body)


def test_a_test_reports_the_response_or_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {"status": "delivered", "attempts": 1, "response_code": 204, "duration_ms": 12}
    webhooks(monkeypatch, "test", "tickets", ended=done)
    assert "https://t.example.org/hook answered 204 in 12 ms" in capsys.readouterr().err
    failed = {"attempts": 1, "error": "no response within 5 s"}
    webhooks(monkeypatch, "test", "tickets", ended=failed, code=1)
    assert "https://t.example.org/hook: no response within 5 s" in capsys.readouterr().err
    webhooks(monkeypatch, "set", "tickets", code=2)
    assert "nothing to change" in capsys.readouterr().err


def test_deliveries_are_listed_with_their_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"status": "failed", "attempts": 9, "error": "the receiver answered 500"}
    *_, asked = webhooks(monkeypatch, "deliveries", "tickets", "--status", "failed", ended=failed)
    assert asked.path == "/webhooks/3/deliveries"
    assert "the receiver answered 500" in capsys.readouterr().out
