"""`opsjobs circuits` against a fake API."""

from __future__ import annotations

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run

SHUT = {
    "id": 5,
    "target": {"id": "7", "name": "web-1", "host": "10.0.0.5"},
    "credential": "web-key",
    "state": "open",
    "failures": 1,
    "error": {"code": "auth_failed", "message": "web-1 refused the login of deploy."},
    "since": "2026-01-01T00:00:00Z",
    "until": "2026-01-01T00:15:00Z",
}


def service(asked: ApiRequest) -> ApiResponse:
    """Serve a fake API with one open circuit."""
    if asked.path == "/targets":
        return ApiResponse(200, {"items": [{"id": "7", "name": "web-1"}], "next": None})
    return ApiResponse(200, {"items": [SHUT], "next": None})


def circuits(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[ApiRequest]:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["circuits", *words]) == 0
        return api.requests


def test_circuits_list_shows_login_reason_and_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (asked,) = circuits(monkeypatch, "list")
    assert "state" not in asked.query
    shown = capsys.readouterr().out
    assert all(
        word in shown
        for word in ("web-1", "web-key", "open", "auth_failed", "2026-01-01T00:15:00Z")
    )
    (asked,) = circuits(monkeypatch, "list", "--closed", "-o", "json")
    assert asked.query["state"] == ["closed", "open", "half_open"]
    assert "refused the login of deploy" in capsys.readouterr().out


def test_circuits_reset_reports_what_it_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, asked = circuits(monkeypatch, "reset", "web-1")
    assert (asked.method, asked.path) == ("POST", "/circuits/7/reset")
    assert "target web-1: 1 circuit closed" in capsys.readouterr().err
