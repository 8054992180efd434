"""`opsjobs safety` against a fake API with the real safety check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run
from opsjobs.model.safety_verdict import SafetyJudgement
from opsjobs.safety import Context
from opsjobs.safety.check import check_text
from opsjobs.safety.rulebook import rulebook


def service(asked: ApiRequest) -> ApiResponse:
    if asked.path == "/safety/rules":
        return ApiResponse(200, {"items": [rule.data() for rule in rulebook().rules]})
    context = Context(labels=frozenset(asked.body["labels"]), become=asked.body["become"])
    return ApiResponse(
        200,
        SafetyJudgement(
            check_text(asked.body["interpreter"], asked.body["text"], context=context)
        ).data(),
    )


def safety(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        return run(["safety", *words])


@pytest.mark.parametrize(
    ("text", "more", "code", "verdict"),
    [
        ("uptime", (), 0, "allow"),
        ("$X now", (), 0, "warn"),
        ("$X now", ("--label", "env=prod"), 3, "needs_approval"),
        ("rm -rf /", (), 5, "block"),
        ('rm -rf "$X"/', (), 3, "needs_approval"),
        ('rm -rf "$X"/', ("--label", "env=prod"), 5, "block"),
    ],
)
def test_safety_check_exits_by_verdict(
    text: str,
    more: tuple[str, ...],
    code: int,
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "x.sh"
    file.write_text(text)
    assert safety(monkeypatch, "check", str(file), *more) == code
    said = capsys.readouterr()
    assert f"verdict: {verdict}" in said.err
    assert bool(said.out) is (verdict != "allow")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.ps1", "Get-Process lsass | Stop-Process -Force"),
        ("x.cmd", "taskkill /f /im lsass.exe"),
        ("x", "#!/usr/bin/env python3\nimport shutil\nshutil.rmtree('/')"),
    ],
)
def test_a_file_is_checked_for_the_interpreter_that_would_run_it(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert safety(monkeypatch, "check", str(file)) == 5
    assert safety(monkeypatch, "check", str(file), "--interpreter", "bash") != 5


def test_safety_check_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.sh").write_text("rm -rf /")
    assert safety(monkeypatch, "check", str(tmp_path / "x.sh"), "--json") == 5
    assert json.loads(capsys.readouterr().out)["findings"][0]["rule"] == "delete-everything"


def test_safety_check_of_binary_data_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * ((256 << 10) + 1))
    for name, words in (
        ("x", "is not UTF-8 text"),
        ("large", "more than 256KiB"),
        ("none", "cannot be read"),
    ):
        assert safety(monkeypatch, "check", str(tmp_path / name)) == 2
        assert words in capsys.readouterr().err


def test_safety_rules_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert safety(monkeypatch, "rules", "-o", "wide") == 0
    assert "delete-everything" in capsys.readouterr().out
