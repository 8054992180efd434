"""`opsjobs jobs` and `opsjobs run`: requests, and the end of the command for each response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api
from cli.pseudo_terminal import run_on_terminal
from opsjobs.cli.app import app
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.run import build_program
from opsjobs.cli.yaml_documents import bodies

PREVIEW = {
    "targets": [{"id": "1", "name": "web-1", "host": "h"}], "waves": [["web-1"]], "commands_total": 1, "verdict": None,
    "commands": [{"target": "web-1", "action": "step-1", "command": "uptime"}], "parameters": {},
    "changes": {"since": 7, "added": ["web-1"], "removed": ["web-9"]}, "estimate": {"seconds": 2.0, "executions": 3},
}  # fmt: skip


def run_failing(api: FakeApi, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Return how the command ends with this API."""
    monkeypatch.setenv("OPSJOBS_URL", api.url)
    monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
    return CliRunner().invoke(app, list(arguments))


def requests_of(api: FakeApi) -> list[tuple[str, str, Any]]:
    return [(one.method, one.path, one.body) for one in api.requests]


def test_jobs_apply_sends_the_jobs_and_plan_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n---\nname: b\n")
    items = [
        {"name": "a", "change": "updated", "paths": ["/policy"], "version": 2},
        {"name": "b", "change": "unchanged", "paths": []},
    ]
    with serve_api(lambda _: ApiResponse(body={"items": items})) as api:
        done = run_failing(api, monkeypatch, "jobs", "plan", "-f", str(file))
        assert (done.exit_code, api.requests[0].query) == (0, {"dry_run": ["true"]})
        assert "/policy" in done.stdout
        assert "1 job would change, 1 unchanged" in done.output
        assert run_failing(api, monkeypatch, "jobs", "apply", "-f", str(file)).exit_code == 0
        assert api.requests[1].query == {}
        assert api.requests[1].body == {"jobs": [{"name": "a"}, {"name": "b"}]}


def test_jobs_validate_reports_all_errors_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n---\nname: b\n")
    fault = {"pointer": "/actions/0/key", "detail": "two actions", "code": "duplicate_key"}

    def reply(one: ApiRequest) -> ApiResponse:
        wrong = one.body["name"] == "b"
        return ApiResponse(
            body={"valid": not wrong, "errors": [fault] if wrong else [], "warnings": []}
        )

    with serve_api(reply) as api:
        done = run_failing(api, monkeypatch, "jobs", "validate", "-f", str(file))
        assert done.exit_code == ExitCode.ERROR
        assert "b: error at /actions/0/key: two actions (duplicate_key)" in done.stdout


def test_an_error_of_an_unnamed_job_has_file_and_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("---\nname: a\n---\nactions: []\n")
    fault = {"pointer": "/name", "detail": "it is required", "code": "missing"}
    answer = ApiResponse(body={"valid": False, "errors": [fault], "warnings": []})
    with serve_api(lambda _: answer) as api:
        shown = run_failing(api, monkeypatch, "jobs", "validate", "-f", str(file)).stdout
    assert f"{file}, line 4: error at /name: it is required" in shown


def test_duplicate_job_names_are_refused_with_both_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, other = tmp_path / "jobs.yaml", tmp_path / "more.yaml"
    file.write_text("name: a\n---\n- name: b\n- description: x\n  name: a\n")
    other.write_text("jobs:\n  - tags: []\n    name: b\n")
    with serve_api(
        lambda _: ApiResponse(body={"valid": True, "errors": [], "warnings": []})
    ) as api:
        refused = run_failing(
            api, monkeypatch, "jobs", "apply", "-f", str(file), "-f", str(other)
        ).exception
        assert isinstance(refused, CommandFailed)
        assert (refused.exit_code, api.requests) == (ExitCode.USAGE, [])
        assert str(refused).splitlines() == [
            f"two jobs have the name 'a': {file}, line 1 and {file}, line 5. Rename one of them.",
            f"two jobs have the name 'b': {file}, line 3 and {other}, line 3. Rename one of them.",
        ]
        done = run_failing(api, monkeypatch, "jobs", "validate", "-f", str(file), "-f", str(other))
        assert done.exit_code == ExitCode.ERROR
        assert (
            f"{file}, line 5: a: error at /name: {file}, line 1 has a job of this name, too (duplicate_name)"
            in done.stdout
        )
        assert "a is valid" in done.output


def test_a_refused_job_has_file_and_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n---\nname: b\nactions:\n  - type: file_transfer\n    dest: /x\n")
    errors = [
        {
            "pointer": "/jobs/1/actions/0/dest",
            "detail": "there is no such field here",
            "code": "extra_forbidden",
        },
        {"pointer": "/jobs/1/actions/0/destination", "detail": "it is required", "code": "missing"},
        {"pointer": "/jobs/9/name", "detail": "it is required", "code": "missing"},
    ]
    refusal = problem(
        422,
        "invalid",
        "/jobs/1/actions/0/dest: there is no such field here. (2 more in errors)",
        errors,
    )
    with serve_api(lambda _: refusal) as api:
        shown = str(run_failing(api, monkeypatch, "jobs", "apply", "-f", str(file)).exception)
    assert f"{file}, line 6: /actions/0/dest: there is no such field here." in shown
    assert f"  {file}, line 5: /actions/0/destination: it is required" in shown
    assert "  /jobs/9/name: it is required" in shown


def test_jobs_export_writes_yaml_for_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_api(lambda _: ApiResponse(body={"jobs": [{"name": "a"}, {"name": "b"}]})) as api:
        assert (
            run_failing(api, monkeypatch, "jobs", "export").stdout == "---\nname: a\n---\nname: b\n"
        )
        assert json.loads(
            run_failing(api, monkeypatch, "jobs", "export", "--tag", "web", "-o", "json").stdout
        ) == {"jobs": [{"name": "a"}, {"name": "b"}]}
        assert api.requests[1].query == {"tag": ["web"]}


def test_a_dry_run_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(one: ApiRequest) -> ApiResponse:
        return (
            ApiResponse(body={"id": 5, "name": "disk"})
            if one.method == "GET"
            else ApiResponse(body=PREVIEW)
        )

    with serve_api(reply) as api:
        done = run_failing(
            api, monkeypatch, "jobs", "run", "5", "-p", "a=1", "-p", "b=x=y", "--dry-run"
        )
        assert done.exit_code == 0
        assert "web-1" in done.stdout
        assert "removed since execution 7: web-9" in done.output
        assert requests_of(api)[1] == (
            "POST",
            "/jobs/5/execute",
            {"parameters": {"a": "1", "b": "x=y"}, "dry_run": True},
        )
        run_failing(
            api,
            monkeypatch,
            "run",
            "uptime",
            "-t",
            "web-1",
            "--env",
            "A=b",
            "--cwd",
            "/srv",
            "--dry-run",
        )
        action = {"type": "command", "command": "uptime", "env": {"A": "b"}, "cwd": "/srv"}
        assert requests_of(api)[2] == (
            "POST",
            "/run",
            {"actions": [action], "targets": {"ids": ["web-1"]}, "dry_run": True},
        )


@pytest.mark.parametrize(
    ("verb", "path"),
    [("pause", "/jobs/5/pause"), ("resume", "/jobs/5/resume"), ("clone", "/jobs/5/clone")],
)
def test_jobs_are_paused_and_resumed_by_name(
    monkeypatch: pytest.MonkeyPatch, verb: str, path: str
) -> None:
    def reply(one: ApiRequest) -> ApiResponse:
        return (
            ApiResponse(body={"items": [{"id": 5, "name": "disk"}], "next": None})
            if one.method == "GET"
            else ApiResponse(body={"id": 6, "name": "disk"})
        )

    with serve_api(reply) as api:
        assert run_failing(api, monkeypatch, "jobs", verb, "disk").exit_code == 0
        assert api.requests[-1].path == path


@pytest.mark.parametrize(
    ("body", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"), (b"#!/usr/bin/env python3\nprint(1)", "python"), (b"#!/usr/bin/env ruby\n", "/usr/bin/ruby"),
        (b"echo\n", "bash"), (b"#!\n", "bash"), (b"\xff", "bash"),
    ],
)  # fmt: skip
def test_the_interpreter_comes_from_the_shebang(
    tmp_path: Path, body: bytes, interpreter: str
) -> None:
    (tmp_path / "s").write_bytes(body)
    action = build_program(["a", "b"], str(tmp_path / "s"), None)
    assert (action["type"], action["interpreter"], action["args"]) == (
        "script",
        interpreter,
        ["a", "b"],
    )
    assert ("script_base64" in action) == (body == b"\xff")


@pytest.mark.parametrize(
    ("words", "script"), [([], None), (["a", "b"], None), ([], "/nowhere/at/all")]
)
def test_a_run_without_command_or_script_is_a_usage_error(
    words: list[str], script: str | None
) -> None:
    with pytest.raises(CommandFailed) as refused:
        build_program(words, script, None)
    assert refused.value.exit_code is ExitCode.USAGE


def test_a_parameter_without_value_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_api(lambda _: ApiResponse()) as api:
        done = run_failing(api, monkeypatch, "run", "uptime", "-t", "web-1", "-p", "novalue")
    assert isinstance(done.exception, CommandFailed | typer.Exit | SystemExit)
    assert api.requests == []


SECRET_JOB = {
    "id": 5,
    "name": "rotate",
    "status": "completed",
    "version": 3,
    "parameters": [
        {"name": "token", "type": "secret", "secret": True, "required": True, "pattern": None},
        {"name": "days", "type": "integer", "secret": False, "default": 7},
        {
            "name": "db",
            "type": "secret",
            "secret": True,
            "required": False,
            "from_credential": "db-prod",
        },
    ],
    "targets": {"ids": [], "groups": ["web"], "selector": None},
    "actions": [
        {
            "key": "go",
            "type": "script",
            "interpreter": "bash",
            "script": "set -eu\nrotate\n",
            "timeout": "30s",
            "env": {},
            "when": None,
        }
    ],
    "policy": {"max_fail": "20%", "order": "inventory", "gate": None, "priority": 5},
    "description": "",
    "tags": [],
}


def rotate(one: ApiRequest) -> ApiResponse:
    """Serve a fake API with the job `rotate`; launch it with --detach."""
    if one.method == "GET":
        return ApiResponse(body=SECRET_JOB)
    return ApiResponse(202, {"id": 9, "total_targets": 1, "job_id": 5, "job_name": "rotate"})


def test_jobs_show_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_api(rotate) as api:
        shown = run_failing(api, monkeypatch, "jobs", "show", "5")
        assert shown.stdout.splitlines() == [
            "rotate: completed, version 3, id 5",
            "targets: groups web",
            "parameters:",
            "  token: secret, required",
            "  days: integer, default 7",
            "  db: secret, from the credential db-prod",
            "steps:",
            "  1. go: script (bash)",
            "       timeout: 30s",
            "       | set -eu",
            "       | rotate",
            "policy:",
            "  max_fail: 20%",
        ]
        lines = run_failing(api, monkeypatch, "jobs", "show", "5", "-o", "yaml").stdout.splitlines()
        assert lines[0] == "name: rotate"
        assert lines[lines.index("  script: |") + 1] == "    set -eu"


def test_scripts_are_exported_as_blocks_with_the_name_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [
        "set -eu\necho a\n",
        "one\n\n  two",
        "tab\t\nend\n\n",
        "x: y # no\n",
        "\nlate\n",
        "dos\r\n",
        "single",
    ]
    jobs = [{"actions": [{"script": text} for text in texts], "name": "a"}]
    with serve_api(lambda _: ApiResponse(body={"jobs": jobs})) as api:
        written = run_failing(api, monkeypatch, "jobs", "export").stdout
    assert written.startswith("---\nname: a\nactions:\n- script: |\n    set -eu\n    echo a\n")
    file = tmp_path / "jobs.yaml"
    file.write_text(written)
    assert bodies([str(file)]) == jobs


def test_a_secret_parameter_comes_from_a_file_or_stdin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    with serve_api(rotate) as api:
        done = run_failing(
            api,
            monkeypatch,
            "jobs",
            "run",
            "5",
            "--detach",
            "--param-file",
            f"token={file}",
            "-p",
            "days=3",
        )
        assert (done.exit_code, api.requests[-1].body["parameters"]) == (
            0,
            {"token": "hunter2", "days": "3"},
        )
        assert "warning" not in done.output
        warned = run_failing(
            api, monkeypatch, "jobs", "run", "5", "--detach", "-p", "token=hunter2"
        )
        assert "warning: -p token=… shows a secret" in warned.output
        both = run_failing(
            api, monkeypatch, "jobs", "run", "5", "-p", "token=x", "--param-file", f"token={file}"
        )
        assert "given by --param and by --param-file" in str(both.exception)
        twice = run_failing(
            api,
            monkeypatch,
            "jobs",
            "run",
            "5",
            "--param-file",
            "token=-",
            "--param-file",
            "days=-",
        )
        assert "standard input holds one value" in str(twice.exception)


def test_a_missing_secret_parameter_is_prompted_for_without_echo() -> None:
    with serve_api(rotate) as api:
        code, shown = run_on_terminal(
            "jobs", "run", "5", "--detach", url=api.url, answers=[(b"token: ", b"hunter2\r")]
        )
        assert (code, api.requests[-1].body) == (0, {"parameters": {"token": "hunter2"}})
    assert "hunter2" not in shown


def test_all_errors_of_a_refusal_are_shown_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(count: int) -> Any:
        errors = [
            {"pointer": f"/parameters/p{n}", "detail": "it is required"} for n in range(count)
        ]
        return problem(
            422,
            "invalid_parameters",
            f"/parameters/p0: it is required. ({count - 1} more in errors)",
            errors,
        )

    with serve_api(
        lambda one: ApiResponse(body=SECRET_JOB) if one.method == "GET" else refusing(3)
    ) as api:
        done = run_failing(api, monkeypatch, "jobs", "run", "5")
        assert str(done.exception).splitlines() == [
            "--param p0: it is required.",
            "  --param p1: it is required",
            "  --param p2: it is required",
        ]
    with serve_api(
        lambda one: ApiResponse(body=SECRET_JOB) if one.method == "GET" else refusing(80)
    ) as api:
        lines = str(run_failing(api, monkeypatch, "jobs", "run", "5").exception).splitlines()
        assert (len(lines), lines[-1]) == (52, "  and 29 more")


def test_warnings_of_applied_jobs_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n")
    warning = {
        "pointer": "/actions/0/command",
        "detail": "no parameter is called dri",
        "code": "undeclared_name",
    }
    item = {"name": "a", "change": "created", "paths": ["/"], "version": 1, "warnings": [warning]}
    with serve_api(lambda _: ApiResponse(body={"items": [item]})) as api:
        for command in ("plan", "apply"):
            done = run_failing(api, monkeypatch, "jobs", command, "-f", str(file))
            assert (
                "a: warning at /actions/0/command: no parameter is called dri (undeclared_name)"
                in done.output
            )
