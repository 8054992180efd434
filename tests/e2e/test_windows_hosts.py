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

from e2e.cluster import WORKERS, Cluster
from e2e.processes import SECONDS, wait_until
from kit.windows_hosts import PASSWORD, USER, WindowsHost, authority, host_in_thread
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
    # Its own thread changes them.
    return sum(len(shell.commands) for shell in [*host.server.service.shells.values()])


@contextmanager
def registered(
    cluster: Cluster, *, secure: bool = False, **options: str
) -> Iterator[tuple[WindowsHost, str]]:
    """Yield a host that is a target with these options of WinRM.

    The name is that of both target and login.
    """
    with host_in_thread(secure=secure) as running:
        name = f"win-{uuid4().hex[:6]}"
        login = {"name": name, "type": "password", "username": USER, "password": PASSWORD}
        cluster.post("/credentials", login, 201)
        trust = {"ca": authority().ca.certificate} if secure else {}
        target = {
            "name": name,
            "host": "127.0.0.1",
            "port": running.server.port,
            "credential": name,
            "transport": "winrm",
            "winrm": {"scheme": "https" if secure else "http", **trust, **options},
        }
        cluster.post("/targets", target, 201)
        yield running, name


@pytest.fixture(params=["http", "https"])
def host(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[WindowsHost, str]]:
    """Yield a host, and its name as a target."""
    with registered(cluster, secure=request.param == "https") as found:
        yield found


def failure(cluster: Cluster, execution: int) -> str:
    """Wait for the end; return the error message of its only run."""
    assert cluster.ended(execution)["status"] == "failed"
    (run,) = cluster.runs(execution)
    return str(run["error"]["message"])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_job_runs_on_a_windows_host(cluster: Cluster, scheme: str, tmp_path: Path) -> None:
    name = f"win-{scheme}-{uuid4().hex[:6]}"
    login = f"{name}-login"
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    with host_in_thread(secure=scheme == "https") as running:
        done(cluster, "credentials", "add", login, "-u", USER, "--password-file", str(password))
        done(
            cluster, "targets", "add", name, "127.0.0.1", "--transport", "winrm",
            "--port", str(running.server.port), "-c", login, "--winrm-scheme", scheme,
            "--label", "os=windows", "--winrm-encoding", "auto",
        )  # fmt: skip
        if scheme == "https":
            told = done(cluster, "targets", "trust", name, "--yes").stderr
            assert "x509  SHA256" in told
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
        assert ran.returncode == 3  # Python ended with 4
        results = cluster.results(last_execution(cluster))
        assert [(r["action_key"], r["exit_code"]) for r in results] == [
            ("line", 0),
            ("powershell", 3010 % 256),
            ("python", 4),
        ]
        wait_until(lambda: commands(running) == 0, "the host to forget the commands")
        done(cluster, "targets", "rm", name)
        done(cluster, "credentials", "rm", login)


def last_execution(cluster: Cluster) -> int:
    """Return the id of the last execution."""
    return int(cluster.get("/executions", limit=1)["items"][0]["id"])


def test_files_come_to_a_windows_host_and_back(
    cluster: Cluster, host: tuple[WindowsHost, str], tmp_path: Path
) -> None:
    running, name = host
    data = bytes(range(256)) * 4096
    (tmp_path / "app.bin").write_bytes(data)
    source = done(cluster, "files", "upload", str(tmp_path / "app.bin")).stdout.strip()
    place = running.folder / "place"
    place.mkdir()
    # a Windows path may have either separator
    destination = str(place / "new.bin").replace("/", "\\")
    actions: list[dict[str, Any]] = [
        {"key": "up", "direction": "upload", "source": source, "destination": destination},
        {"key": "down", "direction": "download", "source": f"{place}/*.bin"},
    ]
    body = {
        "targets": {"ids": [name]},
        "actions": [{"type": "file_transfer", **action} for action in actions],
    }
    started = int(cluster.post("/run", body)["id"])
    assert cluster.ended(started)["status"] == "completed"
    assert (place / "new.bin").read_bytes() == data
    assert [file.name for file in place.iterdir()] == ["new.bin"]
    done(cluster, "executions", "artifacts", str(started), "--to", str(tmp_path / "got"))
    (found,) = (tmp_path / "got").rglob("new.bin")
    assert found.read_bytes() == data
    actions[0]["mode"] = "0644"
    refused = cluster.post("/run", {**body, "actions": [{"type": "file_transfer", **actions[0]}]})
    assert "leave out `mode`" in failure(cluster, int(refused["id"]))


def test_a_cancel_ends_what_runs_on_a_windows_host(
    cluster: Cluster, host: tuple[WindowsHost, str]
) -> None:
    _, name = host
    started = cluster.run("echo up; sleep 600", [name], witnessed=False)
    wait_until(lambda: output(cluster, started, "step-1")[0] == "up\n", "its first line")
    assert_killed(cluster, started)


def assert_killed(cluster: Cluster, execution: int) -> None:
    """Cancel the execution, whose only run is killed."""
    cluster.post(f"/executions/{execution}/cancel", {}, 202)
    assert cluster.ended(execution)["status"] == "cancelled"
    (run,) = cluster.runs(execution)
    assert (run["status"], run["cancel_proof"]) == ("cancelled", "killed")


def test_a_wrong_password_is_tried_once_and_opens_the_circuit(
    cluster: Cluster, host: tuple[WindowsHost, str], tmp_path: Path
) -> None:
    running, name = host
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    done(cluster, "credentials", "rotate", name, "--password-file", str(wrong))
    before = len(running.server.attempts)
    for _ in range(2):
        execution = cluster.run("echo never", [name], witnessed=False)
        assert cluster.ended(execution)["status"] == "failed"
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


def output(cluster: Cluster, execution: int, action: str) -> tuple[str, str]:
    """Return the output of an action on both streams, from the log."""
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
    with registered(cluster, engine="psrp") as (_, name):
        job = tmp_path / "job.yaml"
        text = STREAMS.strip().replace('"', '\\"').replace("\n", "\\n")
        job.write_text(PIPELINES.format(name=name, script=text))
        done(cluster, "jobs", "apply", "-f", str(job))
        ran = done(cluster, "jobs", "run", "pipelines")
        assert "grüße" in ran.stdout
        assert "WARNING: low disk" in ran.stderr
        execution = last_execution(cluster)
        out, err = output(cluster, execution, "script")
        assert out == "grüße\nhost\ninfo\npipelines one\n"
        assert err.splitlines() == [
            "WARNING: low disk",
            "VERBOSE: detail",
            "broken",
            "    + FullyQualifiedErrorId : LabError",
            "PROGRESS: Copying: 3 of 4 (75 %)",
        ]
        assert [(r["action_key"], r["exit_code"]) for r in cluster.results(execution)] == [
            ("script", 6),
            ("command", 7),
        ]
        started = cluster.run("Write-Output up; Start-Sleep 600", [name], witnessed=False)
        wait_until(lambda: output(cluster, started, "step-1")[0] == "up\n", "its first line")
        assert_killed(cluster, started)


def test_a_jea_endpoint_runs_its_commands_and_says_what_it_refuses(cluster: Cluster) -> None:
    options = ("--winrm-engine", "psrp", "--winrm-configuration", "Maintenance.JEA")
    with registered(cluster) as (running, name):
        done(cluster, "targets", "set", name, *options)
        unknown = failure(cluster, cluster.run("Get-Command", [name], witnessed=False))
        assert "Maintenance.JEA" in unknown
        assert "(WinRM fault 2150859008)" in unknown
        running.server.service.configurations.add(f"{POWERSHELL}/Maintenance.JEA")
        tested = done(cluster, "targets", "test", name)
        assert [line.split()[0] for line in tested.stdout.splitlines()[1:]] == [
            "connect",
            "auth",
            "psrp",
        ]
        ran = done(cluster, "run", "Get-Parameters -Name 'a b' -Force", "-t", name)
        assert ran.stdout == "Name='a b'\nForce=True\n"
        refused = cluster.run("Get-Service; Stop-Service x", [name], witnessed=False)
        assert "commands with parameters and literal values only (JEA)" in failure(cluster, refused)
        script = {"type": "script", "interpreter": "powershell", "script": "Write-Output 1"}
        refused = int(cluster.post("/run", {"targets": {"ids": [name]}, "actions": [script]})["id"])
        assert "runs commands only, without a script" in failure(cluster, refused)


def test_encoded_output_is_whole_text_after_its_worker_was_killed_in_a_character(
    cluster: Cluster, tmp_path: Path
) -> None:
    latch, starts = cluster.latch(), tmp_path / "starts"
    program = f"""
import sys
open({str(starts)!r}, "a").write("x")
out = sys.stdout.buffer
out.write("Größe\\r\\n".encode("cp850"))
wide = "Größe 日本上\\r\\n".encode("utf-16-le")
out.write(wide[:15])
out.flush()
open({str(latch.path)!r}).close()
out.write(wide[15:])
out.write("Ende ä\\n".encode())
"""
    script = {"type": "script", "interpreter": "python", "script": program}
    with registered(cluster, encoding="850") as (_, name):
        body = {"targets": {"ids": [name]}, "actions": [script]}
        execution = int(cluster.post("/run", body)["id"])
        begun = "Größe\r\nGröße 日"
        wait_until(lambda: output(cluster, execution, "step-1")[0] == begun, "its first lines")
        for worker in cluster.workers:
            worker.kill()
        cluster.start(*WORKERS)
        latch.open()
        assert cluster.ended(execution)["status"] == "completed"
        lines = cluster.get(f"/executions/{execution}/lines?from=1&count=10")["lines"]
        assert [line["text"] for line in lines] == ["Größe", "Größe 日本上", "Ende ä"]
        assert output(cluster, execution, "step-1")[0] == f"{begun}本上\r\nEnde ä\n"
        assert starts.read_text() == "x"
