"""`opsjobs jobs` and `opsjobs run`: what is asked of the service, and how its answers end the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.desk import Answer, Asked, Desk, open_desk, problem
from cli.terminal import on_terminal
from opsjobs.cli.app import app
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.run import build_program
from opsjobs.cli.yaml_documents import bodies

PREVIEW = {
    "targets": [{"id": "1", "name": "web-1", "host": "h"}], "waves": [["web-1"]], "commands_total": 1, "verdict": None,
    "commands": [{"target": "web-1", "action": "step-1", "command": "uptime"}], "parameters": {},
    "changes": {"since": 7, "added": ["web-1"], "removed": ["web-9"]}, "estimate": {"seconds": 2.0, "executions": 3},
}  # fmt: skip


def told(desk: Desk, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """How the command ends that talks to this desk."""
    monkeypatch.setenv("OPSJOBS_URL", desk.url)
    monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
    return CliRunner().invoke(app, list(arguments))


def asked(desk: Desk) -> list[tuple[str, str, Any]]:
    return [(one.method, one.path, one.body) for one in desk.asked]


def test_apply_sends_the_files_jobs_and_plan_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n---\nname: b\n")
    items = [
        {"name": "a", "change": "updated", "paths": ["/policy"], "version": 2},
        {"name": "b", "change": "unchanged", "paths": []},
    ]
    with open_desk(lambda _: Answer(body={"items": items})) as desk:
        done = told(desk, monkeypatch, "jobs", "plan", "-f", str(file))
        assert (done.exit_code, desk.asked[0].query) == (0, {"dry_run": ["true"]})
        assert "/policy" in done.stdout
        assert "1 job would change, 1 unchanged" in done.output
        assert told(desk, monkeypatch, "jobs", "apply", "-f", str(file)).exit_code == 0
        assert desk.asked[1].query == {}
        assert desk.asked[1].body == {"jobs": [{"name": "a"}, {"name": "b"}]}


def test_validate_says_all_that_is_wrong_and_ends_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\n---\nname: b\n")
    fault = {"pointer": "/actions/0/key", "detail": "two actions", "code": "duplicate_key"}

    def reply(one: Asked) -> Answer:
        wrong = one.body["name"] == "b"
        return Answer(body={"valid": not wrong, "errors": [fault] if wrong else [], "warnings": []})

    with open_desk(reply) as desk:
        done = told(desk, monkeypatch, "jobs", "validate", "-f", str(file))
        assert done.exit_code == ExitCode.ERROR
        assert "b: error at /actions/0/key: two actions (duplicate_key)" in done.stdout


def test_the_fault_of_a_job_without_a_name_is_told_with_its_file_and_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text("---\nname: a\n---\nactions: []\n")
    fault = {"pointer": "/name", "detail": "it is required", "code": "missing"}
    answer = Answer(body={"valid": False, "errors": [fault], "warnings": []})
    with open_desk(lambda _: answer) as desk:
        shown = told(desk, monkeypatch, "jobs", "validate", "-f", str(file)).stdout
    assert f"{file}, line 4: error at /name: it is required" in shown


def test_two_jobs_of_one_name_are_refused_with_the_lines_of_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, other = tmp_path / "jobs.yaml", tmp_path / "more.yaml"
    file.write_text("name: a\n---\n- name: b\n- description: x\n  name: a\n")
    other.write_text("jobs:\n  - tags: []\n    name: b\n")
    with open_desk(lambda _: Answer(body={"valid": True, "errors": [], "warnings": []})) as desk:
        refused = told(
            desk, monkeypatch, "jobs", "apply", "-f", str(file), "-f", str(other)
        ).exception
        assert isinstance(refused, CommandFailed)
        assert (refused.exit_code, desk.asked) == (ExitCode.USAGE, [])
        assert str(refused).splitlines() == [
            f"two jobs have the name 'a': {file}, line 1 and {file}, line 5. Rename one of them.",
            f"two jobs have the name 'b': {file}, line 3 and {other}, line 3. Rename one of them.",
        ]
        done = told(desk, monkeypatch, "jobs", "validate", "-f", str(file), "-f", str(other))
        assert done.exit_code == ExitCode.ERROR
        assert (
            f"{file}, line 5: a: error at /name: {file}, line 1 has a job of this name, too (duplicate_name)"
            in done.stdout
        )
        assert "a is valid" in done.output


def test_a_refused_job_is_told_with_its_file_and_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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
    with open_desk(lambda _: refusal) as desk:
        shown = str(told(desk, monkeypatch, "jobs", "apply", "-f", str(file)).exception)
    assert f"{file}, line 6: /actions/0/dest: there is no such field here." in shown
    assert f"  {file}, line 5: /actions/0/destination: it is required" in shown
    assert "  /jobs/9/name: it is required" in shown


def test_export_writes_a_stream_that_apply_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_desk(lambda _: Answer(body={"jobs": [{"name": "a"}, {"name": "b"}]})) as desk:
        assert told(desk, monkeypatch, "jobs", "export").stdout == "---\nname: a\n---\nname: b\n"
        assert json.loads(
            told(desk, monkeypatch, "jobs", "export", "--tag", "web", "-o", "json").stdout
        ) == {"jobs": [{"name": "a"}, {"name": "b"}]}
        assert desk.asked[1].query == {"tag": ["web"]}


def test_a_dry_run_shows_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(one: Asked) -> Answer:
        return (
            Answer(body={"id": 5, "name": "disk"}) if one.method == "GET" else Answer(body=PREVIEW)
        )

    with open_desk(reply) as desk:
        done = told(desk, monkeypatch, "jobs", "run", "5", "-p", "a=1", "-p", "b=x=y", "--dry-run")
        assert done.exit_code == 0
        assert "web-1" in done.stdout
        assert "removed since execution 7: web-9" in done.output
        assert asked(desk)[1] == (
            "POST",
            "/jobs/5/execute",
            {"parameters": {"a": "1", "b": "x=y"}, "dry_run": True},
        )
        told(
            desk,
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
        assert asked(desk)[2] == (
            "POST",
            "/run",
            {"actions": [action], "targets": {"ids": ["web-1"]}, "dry_run": True},
        )


@pytest.mark.parametrize(
    ("verb", "path"),
    [("pause", "/jobs/5/pause"), ("resume", "/jobs/5/resume"), ("clone", "/jobs/5/clone")],
)
def test_a_jobs_state_is_asked_for_by_its_name(
    monkeypatch: pytest.MonkeyPatch, verb: str, path: str
) -> None:
    def reply(one: Asked) -> Answer:
        return (
            Answer(body={"items": [{"id": 5, "name": "disk"}], "next": None})
            if one.method == "GET"
            else Answer(body={"id": 6, "name": "disk"})
        )

    with open_desk(reply) as desk:
        assert told(desk, monkeypatch, "jobs", verb, "disk").exit_code == 0
        assert desk.asked[-1].path == path


@pytest.mark.parametrize(
    ("body", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"), (b"#!/usr/bin/env python3\nprint(1)", "python"), (b"#!/usr/bin/env ruby\n", "/usr/bin/ruby"),
        (b"echo\n", "bash"), (b"#!\n", "bash"), (b"\xff", "bash"),
    ],
)  # fmt: skip
def test_a_scripts_first_line_says_what_runs_it(
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
def test_what_is_neither_a_command_nor_a_script_is_usage(
    words: list[str], script: str | None
) -> None:
    with pytest.raises(CommandFailed) as refused:
        build_program(words, script, None)
    assert refused.value.exit_code is ExitCode.USAGE


def test_a_parameter_without_a_value_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_desk(lambda _: Answer()) as desk:
        done = told(desk, monkeypatch, "run", "uptime", "-t", "web-1", "-p", "novalue")
    assert isinstance(done.exception, CommandFailed | typer.Exit | SystemExit)
    assert desk.asked == []


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


def rotate(one: Asked) -> Answer:
    """A service with the job `rotate`, which launches it with --detach."""
    if one.method == "GET":
        return Answer(body=SECRET_JOB)
    return Answer(202, {"id": 9, "total_targets": 1, "job_id": 5, "job_name": "rotate"})


def test_a_job_is_shown_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_desk(rotate) as desk:
        shown = told(desk, monkeypatch, "jobs", "show", "5")
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
        lines = told(desk, monkeypatch, "jobs", "show", "5", "-o", "yaml").stdout.splitlines()
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
    with open_desk(lambda _: Answer(body={"jobs": jobs})) as desk:
        written = told(desk, monkeypatch, "jobs", "export").stdout
    assert written.startswith("---\nname: a\nactions:\n- script: |\n    set -eu\n    echo a\n")
    file = tmp_path / "jobs.yaml"
    file.write_text(written)
    assert bodies([str(file)]) == jobs


def test_a_secret_comes_from_a_file_or_standard_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    with open_desk(rotate) as desk:
        done = told(
            desk,
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
        assert (done.exit_code, desk.asked[-1].body["parameters"]) == (
            0,
            {"token": "hunter2", "days": "3"},
        )
        assert "warning" not in done.output
        warned = told(desk, monkeypatch, "jobs", "run", "5", "--detach", "-p", "token=hunter2")
        assert "warning: -p token=… shows a secret" in warned.output
        both = told(
            desk, monkeypatch, "jobs", "run", "5", "-p", "token=x", "--param-file", f"token={file}"
        )
        assert "given by --param and by --param-file" in str(both.exception)
        twice = told(
            desk,
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


def test_a_missing_secret_is_asked_for_without_echo() -> None:
    with open_desk(rotate) as desk:
        code, shown = on_terminal(
            "jobs", "run", "5", "--detach", url=desk.url, answers=[(b"token: ", b"hunter2\r")]
        )
        assert (code, desk.asked[-1].body) == (0, {"parameters": {"token": "hunter2"}})
    assert "hunter2" not in shown


def test_every_error_of_a_refusal_is_told_and_no_more_than_fit(
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

    with open_desk(
        lambda one: Answer(body=SECRET_JOB) if one.method == "GET" else refusing(3)
    ) as desk:
        done = told(desk, monkeypatch, "jobs", "run", "5")
        assert str(done.exception).splitlines() == [
            "--param p0: it is required.",
            "  --param p1: it is required",
            "  --param p2: it is required",
        ]
    with open_desk(
        lambda one: Answer(body=SECRET_JOB) if one.method == "GET" else refusing(80)
    ) as desk:
        lines = str(told(desk, monkeypatch, "jobs", "run", "5").exception).splitlines()
        assert (len(lines), lines[-1]) == (52, "  and 29 more")


def test_warnings_of_an_applied_job_are_told(
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
    with open_desk(lambda _: Answer(body={"items": [item]})) as desk:
        for command in ("plan", "apply"):
            done = told(desk, monkeypatch, "jobs", command, "-f", str(file))
            assert (
                "a: warning at /actions/0/command: no parameter is called dri (undeclared_name)"
                in done.output
            )
