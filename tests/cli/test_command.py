"""The command as a process: its speed and size at the start, and its failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from opsjobs.cli.app import app, run
from opsjobs.cli.errors import ExitCode
from opsjobs.cli.lazy_commands import OTHER_VERBS

SERVERS = (
    "fastapi",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "asyncssh",
    "celery",
    "kombu",
    "psycopg",
    "redis",
    "cryptography",
    "jwt",
    "argon2",
)
COMMANDS = (
    "demo",
    "backup",
    "restore",
    "up",
    "run",
    "jobs",
    "executions",
    "schedules",
    "triggers",
    "webhooks",
    "calendars",
    "import",
    "dead-letters",
    "notifications",
    "approvals",
    "safety",
    "targets",
    "groups",
    "circuits",
    "credentials",
    "keys",
    "tokens",
    "users",
    "services",
    "audit",
    "login",
    "logout",
    "status",
    "logs",
    "stats",
    "config",
    "api",
    "worker",
    "scheduler",
    "healthcheck",
    "db",
)


def opsjobs(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ
    }
    return subprocess.run(
        [sys.executable, "-m", "opsjobs", *arguments],
        env={**inherited, "OPSJOBS_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_help_imports_no_server_library() -> None:
    program = (
        "import sys; from opsjobs.cli.app import run; assert run(['--help']) == 0; "
        f"print('HEAVY', sorted(set(sys.modules) & set({SERVERS!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=90
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"Usage: opsjobs {command}" in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("opsjobs 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--nope"],
        ["nope"],
        ["run"],
        ["executions", "show"],
        ["run", "x", "-t", "a", "--parallel", "0"],
    ],
)
def test_invalid_arguments_are_a_usage_error(arguments: list[str], tmp_path: Path) -> None:
    assert opsjobs(*arguments, folder=tmp_path).returncode == 2


def test_a_run_without_targets_is_told_how_to_name_them(tmp_path: Path) -> None:
    done = opsjobs("run", "uptime", folder=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "opsjobs: no targets are given. Use -t web-1,web-2, -g GROUP or -l env=prod.\n"
    )


def test_an_invalid_duration_is_a_usage_error(tmp_path: Path) -> None:
    done = opsjobs("run", "uptime", "-t", "web-1", "--timeout", "soon", folder=tmp_path)
    assert done.returncode == 2
    assert "--timeout: 'soon' is not a duration" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tokens", "add", "ci", "--role", "viewer", "--expires", "9" * 20 + "d"], "too far away"),
        (["jobs", "apply", "-f", "~no-such-user/jobs.yaml"], "no such user"),
        (["up", "--data-dir", "~no-such-user/data"], "no such user"),
        (["files", "upload", "x" * 300], "x" * 300),
        (["audit", "list", "--since", "9" * 20 + "d"], "is too long ago"),
        (["executions", "logs", "1", "--tail", "9" * 20], "--tail"),
        (["jobs", "run", "deploy", "-t", ""], "-t: the value is empty"),
        (["jobs", "run", "deploy", "-x", ","], "-x: the value is empty"),
        (["jobs", "run", "deploy", "-x", "web-1", "-x", ""], "-x: the value is empty"),
        (["webhooks", "add", "w", "http://w", "--event", "*", "-l", ""], "-l: the value is empty"),
        (["run", "id", "-t", "web-1", "-l", ""], "-l: the value is empty"),
        (["calendars", "add", "c", "--on", "", "--start", "1:00"], "--on: the value is empty"),
        (["users", "add", "ada", "--role", "operator@"], "the labels after @ are empty"),
        (["tokens", "add", "ci", "--scope", ""], "--scope: the value is empty"),
    ],
)
def test_a_value_that_cannot_be_used_is_said(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPSJOBS_DATA_DIR", str(tmp_path))
    assert run(arguments) in (1, 2)
    assert said in capsys.readouterr().err


def test_without_a_service_every_command_says_how_to_start_one(tmp_path: Path) -> None:
    for arguments in (["run", "uptime", "-t", "web-1"], ["jobs", "list"], ["status"]):
        done = opsjobs(*arguments, folder=tmp_path)
        assert done.returncode == 1
        assert "`opsjobs up`" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("process", ["api", "worker", "scheduler"])
def test_a_process_without_its_settings_names_them(process: str, tmp_path: Path) -> None:
    done = opsjobs(process, folder=tmp_path)
    assert done.returncode == 1
    assert "DATABASE_URL is not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_show_reports_an_invalid_setting_below_the_table(tmp_path: Path) -> None:
    done = opsjobs(
        "config",
        "show",
        folder=tmp_path,
        COMMAND_TIMEOUT="soon",
        OPSJOBS_LEASE_SECOND="1",
        OPSJOBS_TOKEN="opsc_secret",
    )
    assert done.returncode == 1
    assert "COMMAND_TIMEOUT is 'soon'" in done.stderr
    assert "Did you mean OPSJOBS_LEASE_SECONDS?" in done.stderr
    assert "opsc_secret" not in done.stdout + done.stderr
    assert str(tmp_path) in done.stdout


def test_a_secret_cannot_be_given_on_the_command_line(tmp_path: Path) -> None:
    done = opsjobs(
        "credentials", "add", "web-key", "-u", "deploy", "--password=geheim", folder=tmp_path
    )
    assert done.returncode == 2


def test_a_prompt_without_a_terminal_says_what_to_use(tmp_path: Path) -> None:
    done = opsjobs("credentials", "add", "web-key", "-u", "deploy", "--password", folder=tmp_path)
    assert done.returncode == 2
    assert "--password-file" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("job", "'jobs'"), ("target", "'targets'"), ("runn", "'run'")]
)
def test_a_mistyped_command_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str], typed: str, meant: str
) -> None:
    assert run([typed, "list"]) == ExitCode.USAGE
    assert f"No such command '{typed}'. Did you mean {meant}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("noun", "typed", "meant"),
    [("tokens", "create", "add"), ("jobs", "delete", "rm"), ("schedules", "update", "set"),
     ("jobs", "create", "apply"), ("jobs", "add", "apply"), ("targets", "get", "show"),
     ("notifications", "resend", "redeliver")],
)  # fmt: skip
def test_a_verb_of_other_programs_gets_the_one_of_opsjobs(
    capsys: pytest.CaptureFixture[str], noun: str, typed: str, meant: str
) -> None:
    assert run([noun, typed, "x"]) == ExitCode.USAGE
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in capsys.readouterr().err


def test_every_noun_has_the_same_verb_for_a_meaning() -> None:
    root: Any = get_command(app)
    verbs = {
        f"{noun} {verb}"
        for noun in COMMANDS
        for verb in getattr(root.get_command(None, noun), "commands", ())
    }
    assert {"jobs rm", "tokens add", "schedules set"} <= verbs
    others = OTHER_VERBS.keys() - {"add", "set"}
    assert [each for each in sorted(verbs) if each.split()[1] in others] == []
