"""The interpreter of `run --script FILE`: chosen by the file and by the targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.fake_api import ApiRequest, ApiResponse, problem, serve_api
from cli.test_jobs import run_failing
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.inputs import depends_on_targets, find_interpreter, fit_interpreter


@pytest.mark.parametrize(
    ("name", "body", "interpreter"),
    [
        ("x.ps1", b"Get-Date", "powershell"),
        ("X.PS1", b"Get-Date", "powershell"),
        ("x.ps1", b"#!/usr/bin/env pwsh\nGet-Date", "pwsh"),
        ("x.cmd", b"ver", "cmd"),
        ("C:\\work\\x.bat", b"ver", "cmd"),
        ("a.d/x.py", b"print(1)", "python"),
        ("x.sh", b"id", "bash"),
        ("x.sh", b"#!/bin/sh\nid", "/bin/sh"),
        ("x", b"id", "bash"),
        ("-", b"id", "bash"),
        ("x.txt", b"id", "bash"),
    ],
)
def test_the_first_line_counts_before_the_ending(name: str, body: bytes, interpreter: str) -> None:
    assert find_interpreter(name, body) == interpreter


@pytest.mark.parametrize(
    ("name", "interpreter", "platforms", "fits"),
    [
        ("x.ps1", "powershell", {"windows": 3}, "powershell"),
        ("x.ps1", "powershell", {"linux": 2, "macos": 1}, "pwsh"),
        ("x.ps1", "powershell", {}, "powershell"),
        ("x.ps1", "pwsh", {"linux": 2, "windows": 1}, "pwsh"),
        ("x.cmd", "cmd", {"windows": 1}, "cmd"),
        ("x.sh", "bash", {"linux": 1}, "bash"),
    ],
)
def test_the_interpreter_follows_the_kind_of_the_targets(
    name: str, interpreter: str, platforms: dict[str, int], fits: str
) -> None:
    assert fit_interpreter(name, interpreter, platforms) == fits


@pytest.mark.parametrize(
    ("name", "interpreter", "platforms", "words"),
    [
        ("x.ps1", "powershell", {"windows": 3, "linux": 2},
         ("x.ps1: 3 of 5 targets are Windows hosts, which run it with powershell; the others need "
         "pwsh. Select targets of one kind, or give --interpreter pwsh if all of them have it.")),
        ("x.bat", "cmd", {"windows": 1, "linux": 2},
         ("x.bat: cmd runs on Windows hosts only, and 2 of 3 targets are none. Select Windows hosts "
         "only.")),
        ("x.cmd", "cmd", {"linux": 1},
         "x.cmd: cmd runs on Windows hosts only, and 1 of 1 target are none."),
        ("x.sh", "/bin/sh", {"windows": 1, "linux": 2},
         ("x.sh: 1 of 3 targets are Windows hosts, which have no POSIX shell. Leave them out (-x), "
         "or give --interpreter bash if they have one.")),
    ],
)  # fmt: skip
def test_a_mix_that_no_interpreter_fits_is_refused(
    name: str, interpreter: str, platforms: dict[str, int], words: str
) -> None:
    with pytest.raises(CommandFailed) as refused:
        fit_interpreter(name, interpreter, platforms)
    assert refused.value.exit_code is ExitCode.USAGE
    assert words in str(refused.value)


def test_only_some_endings_ask_for_the_targets() -> None:
    assert [name for name in ("x.ps1", "x.cmd", "x.BAT", "x.sh") if depends_on_targets(name)] == [
        "x.ps1",
        "x.cmd",
        "x.BAT",
        "x.sh",
    ]
    assert not any(depends_on_targets(name) for name in ("x", "-", "x.py", "x.pl"))


@pytest.mark.parametrize(
    ("answer", "interpreter"),
    [
        (ApiResponse(body={"platforms": {"linux": 2}}), "pwsh"),
        (ApiResponse(body={"platforms": {"windows": 2}}), "powershell"),
        (problem(403, "forbidden", "You may not read targets."), "powershell"),
    ],
)
def test_a_run_asks_what_its_targets_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: ApiResponse, interpreter: str
) -> None:
    file = tmp_path / "x.ps1"
    file.write_text("Get-Date")

    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.path == "/targets/resolve":
            assert asked.body == {"targets": {"selector": "os=any"}}
            return answer
        return ApiResponse(202, {"id": 7, "status": "queued", "total_targets": 2, "counts": {}})

    with serve_api(reply) as api:
        run_failing(api, monkeypatch, "run", "--script", str(file), "-l", "os=any", "--detach")
        (started,) = [one for one in api.requests if one.path == "/run"]
        assert started.body["actions"][0]["interpreter"] == interpreter


def test_an_interpreter_that_is_given_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.ps1"
    file.write_text("Get-Date")
    started = ApiResponse(202, {"id": 7, "status": "queued", "total_targets": 2, "counts": {}})
    with serve_api(lambda _: started) as api:
        run_failing(
            api, monkeypatch, "run", "--script", str(file), "-l", "a=b", "--interpreter", "pwsh",
            "--detach",
        )  # fmt: skip
        assert {one.path for one in api.requests} == {"/run"}
