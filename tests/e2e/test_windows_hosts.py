"""A Windows host from the command line to its output: real API and worker, a stand-in host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from e2e.cluster import Cluster
from e2e.processes import SECONDS, wait_until
from kit.windows_hosts import PASSWORD, USER, WindowsHost, host_in_thread
from opsjobs.standalone.lab.wsman.service import POWERSHELL

OPSJOBS = [sys.executable, "-m", "opsjobs"]
JOB = """
name: on-windows
targets: {{ids: [{name}]}}
parameters:
  - {{name: who, default: ada & ben}}
  - {{name: token, secret: true}}
actions:
  - key: line
    type: command
    command: echo "hello %OPSJOBS_PARAM_WHO% $OPSJOBS_PARAM_WHO from $OPSJOBS_TARGET"; cat $OPSJOBS_SECRETS/token
  - key: powershell
    type: script
    interpreter: powershell
    script: |
      Write-Output "PowerShell $env:OPSJOBS_JOB $args[0]"
      exit 3010
    args: ["${{who}}"]
    expected_exit_codes: [{code}]
  - key: python
    type: script
    interpreter: python
    script: |
      import sys
      sys.stdout.buffer.write(sys.stdin.buffer.read() + bytes([255, 0, 10]))
      sys.exit(4)
    stdin: "grüße "
    cwd: /usr
"""


def opsjobs(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OPSJOBS, *arguments],
        env=cluster.environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )


def done(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = opsjobs(cluster, *arguments)
    assert found.returncode == 0, found.stderr
    return found


def commands(host: WindowsHost) -> int:
    """How many commands the host knows."""
    return sum(len(shell.commands) for shell in host.server.service.shells.values())


@pytest.fixture(params=["http", "https"])
def host(
    cluster: Cluster, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[WindowsHost, str]]:
    """A host, and its name as a target."""
    secure = request.param == "https"
    with registered(cluster, tmp_path, secure=secure) as (running, name):
        if secure:
            told = done(cluster, "targets", "trust", name, "--yes").stderr
            assert "x509  SHA256" in told
        yield running, name


@contextmanager
def registered(
    cluster: Cluster, tmp_path: Path, *options: str, secure: bool = False
) -> Iterator[tuple[WindowsHost, str]]:
    """A host that is registered as a target with these options."""
    scheme = "https" if secure else "http"
    name = f"win-{scheme}-{uuid4().hex[:6]}"
    login = f"{name}-login"
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    with host_in_thread(secure=secure) as running:
        done(cluster, "credentials", "add", login, "-u", USER, "--password-file", str(password))
        done(
            cluster, "targets", "add", name, "127.0.0.1", "--transport", "winrm",
            "--port", str(running.server.port), "-c", login, "--winrm-scheme", scheme,
            "--label", "os=windows", *options,
        )  # fmt: skip
        yield running, name
        done(cluster, "targets", "rm", name)
        done(cluster, "credentials", "rm", login)


def test_a_job_runs_on_a_windows_host(
    cluster: Cluster, host: tuple[WindowsHost, str], tmp_path: Path
) -> None:
    running, name = host
    tested = done(cluster, "targets", "test", name)
    assert [line.split()[0] for line in tested.stdout.splitlines()[1:]] == [
        "connect",
        "auth",
        "shell",
        "durable",
        "file",
    ]
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(name=name, code=3010 % 256))
    done(cluster, "jobs", "apply", "-f", str(job))
    ran = opsjobs(cluster, "jobs", "run", "on-windows", "--param", "token=s3cr3t")
    assert "hello %OPSJOBS_PARAM_WHO% ada & ben from " + name in ran.stdout
    assert "s3cr3t" not in ran.stdout  # it is masked
    assert "PowerShell on-windows ada & ben" in ran.stdout
    assert ran.returncode == 3  # python ended with 4
    execution = json.loads(done(cluster, "executions", "list", "-o", "json").stdout)[0]
    results = cluster.get(f"/executions/{execution['id']}/results")["items"]
    assert [(r["action_key"], r["exit_code"]) for r in results] == [
        ("line", 0),
        ("powershell", 3010 % 256),
        ("python", 4),
    ]
    wait_until(lambda: commands(running) == 0, "the host to forget the commands")


def test_files_come_to_a_windows_host_and_back(
    cluster: Cluster, host: tuple[WindowsHost, str], tmp_path: Path
) -> None:
    running, name = host
    data = bytes(range(256)) * 4096
    (tmp_path / "app.bin").write_bytes(data)
    source = done(cluster, "files", "upload", str(tmp_path / "app.bin")).stdout.strip()
    place = running.folder / "place"
    place.mkdir()
    # A Windows path may have either separator.
    destination = str(place / "new.bin").replace("/", "\\")
    actions: list[dict[str, Any]] = [
        {"key": "up", "direction": "upload", "source": source, "destination": destination},
        {"key": "down", "direction": "download", "source": f"{place}/*.bin"},
    ]
    body = {
        "targets": {"ids": [name]},
        "actions": [{"type": "file_transfer", **action} for action in actions],
    }
    started = cluster.post("/run", body)["id"]
    wait_until(lambda: cluster.get(f"/executions/{started}")["status"] == "completed", "its end")
    assert (place / "new.bin").read_bytes() == data
    assert [file.name for file in place.iterdir()] == ["new.bin"]
    done(cluster, "executions", "artifacts", str(started), "--to", str(tmp_path / "got"))
    (found,) = (tmp_path / "got").rglob("new.bin")
    assert found.read_bytes() == data
    actions[0]["mode"] = "0644"
    refused = cluster.post("/run", {**body, "actions": [{"type": "file_transfer", **actions[0]}]})
    path = f"/executions/{refused['id']}"
    wait_until(lambda: cluster.get(path)["status"] == "failed", "its refusal")
    (run,) = cluster.get(f"{path}/targets")["items"]
    assert "leave out `mode`" in run["error"]["message"]


def test_a_cancel_ends_what_runs_on_a_windows_host(
    cluster: Cluster, host: tuple[WindowsHost, str]
) -> None:
    running, name = host
    started = done(cluster, "run", "echo up; sleep 600", "-t", name, "--detach").stdout.split()
    wait_until(lambda: commands(running) == 1, "the command to start")
    done(cluster, "executions", "cancel", started[0])
    wait_until(lambda: cluster.get(f"/executions/{started[0]}")["status"] == "cancelled", "its end")
    (run,) = cluster.get(f"/executions/{started[0]}/targets")["items"]
    assert (run["status"], run["cancel_proof"]) == ("cancelled", "killed")


def test_a_wrong_password_is_tried_once_and_opens_the_circuit(
    cluster: Cluster, host: tuple[WindowsHost, str], tmp_path: Path
) -> None:
    running, name = host
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    done(cluster, "credentials", "rotate", f"{name}-login", "--password-file", str(wrong))
    before = len(running.server.attempts)
    for _ in range(2):
        assert opsjobs(cluster, "run", "echo never", "-t", name).returncode == 3
    assert len(running.server.attempts) == before + 1
    circuits = json.loads(done(cluster, "circuits", "list", "-o", "json").stdout)
    assert [c["error"]["code"] for c in circuits if c["target"]["name"] == name] == ["auth_failed"]


STREAMS = """
Write-Output 'grüße'
Write-Host 'host'
Write-Information 'info'
Write-Warning 'low disk'
Write-Verbose 'detail'
Write-Error 'broken'
Write-Progress Copying '3 of 4' 75
Write-Output "$env:OPSJOBS_JOB $args[0]"
exit 6
"""
PIPELINES = """
name: pipelines
targets: {{ids: [{name}]}}
actions:
  - {{key: script, type: script, interpreter: powershell, args: [one], expected_exit_codes: [6],
     script: "{script}"}}
  - {{key: command, command: "Write-Output 'last'; sh -c 'exit 7'", expected_exit_codes: [7]}}
"""


def output(cluster: Cluster, execution: str, action: str) -> tuple[str, str]:
    """What an action wrote to both streams, of the log."""
    items = cluster.get(f"/executions/{execution}/log?limit=500")["items"]
    said = [
        one["data"] for one in items if one["event"] == "output" and one["data"]["action"] == action
    ]
    out, err = (
        "".join(one["data"] for one in said if one["stream"] == stream)
        for stream in ("stdout", "stderr")
    )
    return out, err


def test_a_job_of_pipelines_has_every_stream_of_powershell(
    cluster: Cluster, tmp_path: Path
) -> None:
    with registered(cluster, tmp_path, "--winrm-engine", "psrp") as (_, name):
        job = tmp_path / "job.yaml"
        text = STREAMS.strip().replace('"', '\\"').replace("\n", "\\n")
        job.write_text(PIPELINES.format(name=name, script=text))
        done(cluster, "jobs", "apply", "-f", str(job))
        ran = done(cluster, "jobs", "run", "pipelines")
        assert "grüße" in ran.stdout
        assert "WARNING: low disk" in ran.stderr
        execution = json.loads(done(cluster, "executions", "list", "-o", "json").stdout)[0]["id"]
        out, err = output(cluster, execution, "script")
        assert out == "grüße\nhost\ninfo\npipelines one\n"
        assert err.splitlines() == [
            "WARNING: low disk",
            "VERBOSE: detail",
            "broken",
            "    + FullyQualifiedErrorId : LabError",
            "PROGRESS: Copying: 3 of 4 (75 %)",
        ]
        results = cluster.get(f"/executions/{execution}/results")["items"]
        assert [(r["action_key"], r["exit_code"]) for r in results] == [
            ("script", 6),
            ("command", 7),
        ]
        started = done(
            cluster, "run", "Write-Output up; Start-Sleep 600", "-t", name, "--detach"
        ).stdout.split()[0]
        wait_until(lambda: output(cluster, started, "step-1")[0] == "up\n", "its first line")
        done(cluster, "executions", "cancel", started)
        path = f"/executions/{started}"
        wait_until(lambda: cluster.get(path)["status"] == "cancelled", "its end")
        (run,) = cluster.get(f"{path}/targets")["items"]
        assert (run["status"], run["cancel_proof"]) == ("cancelled", "killed")


def test_a_jea_endpoint_runs_its_commands_and_says_what_it_refuses(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = ("--winrm-engine", "psrp", "--winrm-configuration", "Maintenance.JEA")
    with registered(cluster, tmp_path, *options) as (running, name):
        unknown = opsjobs(cluster, "run", "Get-Command", "-t", name)
        assert "Maintenance.JEA" in unknown.stderr
        assert "(WinRM fault 2150859008)" in unknown.stderr
        running.server.service.configurations.add(f"{POWERSHELL}/Maintenance.JEA")
        tested = done(cluster, "targets", "test", name)
        assert [line.split()[0] for line in tested.stdout.splitlines()[1:]] == [
            "connect",
            "auth",
            "psrp",
        ]
        ran = done(cluster, "run", "Get-Parameters -Name 'a b' -Force", "-t", name)
        assert ran.stdout == "Name='a b'\nForce=True\n"
        refused = opsjobs(cluster, "run", "Get-Service; Stop-Service x", "-t", name)
        assert "commands with parameters and literal values only (JEA)" in refused.stderr
        file = tmp_path / "x.ps1"
        file.write_text("Write-Output 1")
        refused = opsjobs(cluster, "run", "--script", str(file), "-t", name)
        assert "runs commands only, without a script" in refused.stderr


def test_output_in_other_encodings_is_shown_as_text(cluster: Cluster, tmp_path: Path) -> None:
    program = """
import sys
out = sys.stdout.buffer
out.write("Größe\\r\\n".encode("cp850"))
out.flush()
out.write("Größe 日本上\\r\\n".encode("utf-16-le"))
out.write("Ende ä\\n".encode())
"""
    file = tmp_path / "words.py"
    file.write_text(program)
    with registered(cluster, tmp_path, "--winrm-encoding", "850") as (_, name):
        ran = done(cluster, "run", "--script", str(file), "-t", name, "--detach")
        execution = ran.stdout.split()[0]
        path = f"/executions/{execution}"
        wait_until(lambda: cluster.get(path)["status"] == "completed", "its end")
        lines = cluster.get(f"{path}/lines?from=1&count=10")["lines"]
        assert [line["text"] for line in lines] == ["Größe", "Größe 日本上", "Ende ä"]
        assert output(cluster, execution, "step-1")[0] == "Größe\r\nGröße 日本上\r\nEnde ä\n"
