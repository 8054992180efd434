"""`credentials add` and `test` with external secrets, against a fake API.

`targets trust` if keys are revoked, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run

KEY = "ssh-ed25519 AAAAgood"
BAD = "ssh-ed25519 AAAAbad"


def called(
    monkeypatch: pytest.MonkeyPatch, reply: Callable[[ApiRequest], ApiResponse], *words: str
) -> tuple[int, list[ApiRequest]]:
    with serve_api(reply) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        return run([*words]), api.requests


def made(asked: ApiRequest) -> ApiResponse:
    return ApiResponse(201, {"id": 7})


@pytest.mark.parametrize(
    ("words", "type_", "source"),
    [
        (["--vault-path", "web/key"], "ssh_key", {"backend": "vault", "path": "web/key"}),
        (
            [
                "--vault-path",
                "a/b",
                "--vault-field",
                "password=word",
                "--type",
                "password",
                "--vault-version",
                "3",
            ],
            "password",
            {"backend": "vault", "path": "a/b", "fields": {"password": "word"}, "version": 3},
        ),
        (
            [
                "--vault-role",
                "fleet",
                "--vault-mount",
                "ssh-prod",
                "--vault-namespace",
                "ops",
                "--principal",
                "web",
            ],
            "ssh_certificate",
            {
                "backend": "vault_ssh",
                "role": "fleet",
                "mount": "ssh-prod",
                "namespace": "ops",
                "principals": ["web"],
            },
        ),
        (
            ["--ssh-ca", "ca", "--validity", "2m"],
            "ssh_certificate",
            {"backend": "ssh_ca", "authority": "ca", "validity": "2m"},
        ),
    ],
)
def test_credentials_add_sends_the_external_source(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    type_: str,
    source: dict[str, Any],
) -> None:
    code, (asked,) = called(
        monkeypatch, made, "credentials", "add", "web-key", "-u", "deploy", *words
    )
    assert (code, capsys.readouterr().out) == (0, "7\n")
    assert asked.body == {"name": "web-key", "username": "deploy", "type": type_, "source": source}


@pytest.mark.parametrize(
    "words",
    [
        ["--vault-path", "a", "--ssh-ca", "ca"],
        ["--vault-path", "a", "--agent"],
        ["--vault-path", "a", "--principal", "web"],
        ["--vault-path", "a", "--vault-field", "password"],
        ["--ssh-ca", "ca", "--vault-mount", "ssh"],
        ["--ssh-ca", "ca", "--vault-version", "3"],
        ["--vault-role", "fleet", "--vault-field", "password=p"],
    ],
    ids=" ".join,
)
def test_exclusive_source_options_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    code, asked = called(monkeypatch, made, "credentials", "add", "web-key", "-u", "deploy", *words)
    assert (code, asked) == (2, [])


@pytest.mark.parametrize("ok", [True, False])
def test_credentials_test_shows_each_step_and_the_public_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: bool
) -> None:
    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.method == "GET":
            return ApiResponse(200, {"items": [{"id": 7, "name": "web-key"}], "next": None})
        steps = [{"name": "open", "ok": True, "ms": 0.0, "error": None}]
        steps.append(
            {"name": "fetch", "ok": ok, "ms": 1.0, "error": None if ok else "it is sealed"}
        )
        return ApiResponse(
            200, {"ok": ok, "steps": steps, "public_key": KEY if ok else None, "certificate": None}
        )

    code, (*_, asked) = called(monkeypatch, reply, "credentials", "test", "web-key")
    assert (asked.method, asked.path) == ("POST", "/credentials/7/test")
    shown = capsys.readouterr()
    assert (code, shown.out) == ((0, f"{KEY}\n") if ok else (1, ""))
    assert ("fetch: ok" if ok else "fetch: it is sealed") in shown.err


@pytest.mark.parametrize(
    ("policy", "pinned", "shown", "kept"),
    [
        ("pinned", [f"@revoked {BAD}"], [KEY], [KEY, f"@revoked {BAD}"]),
        ("pinned", [KEY, f"@revoked {BAD}"], [KEY], None),
        ("pinned", [f"@revoked {BAD}"], [BAD], None),
        ("ca", [KEY], [BAD], None),
    ],
)
def test_targets_trust_keeps_revoked_host_keys(
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    pinned: list[str],
    shown: list[str],
    kept: list[str] | None,
) -> None:
    target = {
        "id": "1",
        "name": "web-1",
        "host": "10.0.0.5",
        "port": 22,
        "host_keys": pinned,
        "host_key_policy": policy,
        "version": 3,
    }

    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.method == "GET":
            return ApiResponse(200, {"items": [target], "next": None})
        return ApiResponse(
            200, {"host_keys": [{"key": key, "fingerprint": "SHA256:x"} for key in shown]}
        )

    code, asked = called(monkeypatch, reply, "targets", "trust", "web-1", "--yes")
    patched = [
        (one.body["host_keys"], one.body["version"]) for one in asked if one.method == "PATCH"
    ]
    assert patched == ([] if kept is None else [(kept, 3)])
    assert code == (0 if kept is not None or shown == [KEY] else 1)
