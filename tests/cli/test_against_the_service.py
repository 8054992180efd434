"""The commands as processes against a whole stack: real API, worker, database and SSH machines."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx2
import pytest

from kit.command_server import run_command
from opsjobs.cli.client import Client
from opsjobs.cli.demo import bare
from opsjobs.cli.endpoint import find_endpoint
from opsjobs.settings import ClientSettings
from opsjobs.standalone.stack import Stack, StackOptions

LAB = 3


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Yield the data folder of a running stack with three lab machines."""
    path = Path(tempfile.mkdtemp(prefix="opsjobs-cli-"))
    with Stack(StackOptions(path, port=0, lab=LAB, environment=bare(os.environ))):
        yield path
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command as a user's shell starts it."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "opsjobs", *arguments]
    with subprocess.Popen(
        command,
        env=settings_of(folder, environment),
        stdout=pipe,
        stderr=pipe,
        stdin=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def settings_of(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    return {**bare(os.environ), "OPSJOBS_DATA_DIR": str(folder), **more}


def opsjobs(folder: Path, *arguments: str, **environment: str) -> tuple[int, bytes, str]:
    done = run_command(arguments, settings_of(folder, environment), seconds=90)
    return done.returncode, done.stdout, done.stderr.decode()


@cache
def names(folder: Path) -> list[str]:
    """Add the lab's machines, which stay the same."""
    return opsjobs(folder, "targets", "list", "-l", "lab=true", "-o", "name")[1].decode().split()


def test_a_command_runs_on_all_machines_live(folder: Path) -> None:
    with started(folder, "run", "echo out; echo careful >&2", "-l", "lab=true") as process:
        out, said = process.communicate(timeout=90)
    code, err = process.returncode, said.decode()
    assert code == 0, err
    assert sorted(out.decode().splitlines()) == sorted(f"{name} | out" for name in names(folder))
    assert sum(line.endswith(" | careful") for line in err.splitlines()) == LAB
    assert f"completed: {LAB} succeeded of {LAB} targets" in err


def test_a_refused_query_parameter_is_named_by_its_option(folder: Path) -> None:
    code, _, err = opsjobs(folder, "events", "--kinds", "job.exploded")
    assert code == 2, err
    assert "--kinds: " in err
    assert "query parameter" not in err


def test_the_console_is_opened_by_an_address_that_logs_in_once(
    folder: Path, tmp_path: Path
) -> None:
    code, out, err = opsjobs(folder, "console", "--print")
    assert (code, err) == (0, "")
    page, _, given = out.decode().strip().partition("#code=")
    service = page.removesuffix("/console/")
    for status in (200, 401):
        answer = httpx2.post(f"{service}/api/v1/auth/session", json={"code": given})
        assert answer.status_code == status
    # All users of a machine can read a browser's arguments: they do not contain the code.
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$*" > {tmp_path}/arguments\n')
    browser.chmod(0o755)
    there = {"BROWSER": str(browser), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    code, _, err = opsjobs(folder, "console", **there)
    assert (code, "opened the console" in err) == (0, True), err
    opened = tmp_path / "config" / "opsjobs" / "console.html"
    assert (tmp_path / "arguments").read_text() == opened.as_uri()
    assert opened.stat().st_mode & 0o777 == 0o600
    assert f"url={service}/console/#code=" in opened.read_text()
    nowhere = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    code, out, err = opsjobs(folder, "console", **nowhere)
    assert (code, out, "opsjobs console --print" in err) == (1, b"", True), err


def test_a_selection_is_resolved_and_its_exclusions_are_spared(folder: Path) -> None:
    first, second, third = sorted(names(folder))
    code, out, err = opsjobs(
        folder, "targets", "resolve", "-l", "lab=true", "-x", second, "-o", "name"
    )
    assert (code, out.decode().split()) == (0, [first, third]), err
    code, _, err = opsjobs(folder, "targets", "resolve", "-l", "lab=true", "-x", "web-9")
    assert (code, "There is no target 'web-9'." in err) == (4, True), err
    code, out, err = opsjobs(folder, "run", "echo out", "-l", "lab=true", "-x", second)
    assert sorted(out.decode().splitlines()) == [f"{first} | out", f"{third} | out"], err
    code, _, err = opsjobs(folder, "run", "echo out", "-x", second)
    assert (code, "nothing is selected" in err) == (2, True), err
    code, out, err = opsjobs(folder, "targets", "labels", "lab", "-o", "json")
    assert json.loads(out) == [{"key": "lab", "value": "true", "targets": LAB}], err


def test_runs_and_health_of_a_target_are_shown(folder: Path) -> None:
    one = names(folder)[1]
    assert opsjobs(folder, "run", "exit 3", "-t", one)[0] == 3
    code, out, err = opsjobs(folder, "targets", "runs", one, "--status", "failed", "-o", "json")
    (run, *_) = json.loads(out)
    assert (code, run["exit_code"], run["execution"]["job_name"]) == (0, 3, "ad-hoc"), err
    code, out, err = opsjobs(folder, "targets", "list", "--health", "ok", "-o", "name")
    assert one in out.decode().split(), err
    assert b"ok, last run failed" in opsjobs(folder, "targets", "show", one)[1]


def test_output_bytes_of_one_target_are_exact(folder: Path) -> None:
    one = names(folder)[0]
    code, out, err = opsjobs(folder, "run", r"printf '\000\377\376 no end'", "-t", one)
    assert (code, out) == (0, b"\x00\xff\xfe no end"), err


def test_a_failed_command_exits_3_and_is_reported(folder: Path) -> None:
    code, _, err = opsjobs(folder, "run", "exit 3", "-t", ",".join(names(folder)))
    assert code == 3
    assert f"{LAB} failed, exit 3 (" in err


def test_a_timeout_exits_124(folder: Path) -> None:
    code, _, err = opsjobs(folder, "run", "sleep 30", "-t", names(folder)[0], "--timeout", "500ms")
    assert code == 124, err
    assert "command_timeout" in err


def test_an_unknown_target_exits_4(folder: Path) -> None:
    code, out, err = opsjobs(folder, "run", "true", "-t", "web-9")
    assert (code, out) == (4, b"")
    assert "web-9" in err


def test_an_empty_selection_exits_4(folder: Path) -> None:
    assert opsjobs(folder, "run", "true", "-l", "lab=false")[0] == 4


def test_a_wrong_token_exits_5(folder: Path) -> None:
    code, _, err = opsjobs(folder, "jobs", "list", OPSJOBS_TOKEN="opsc_wrong")
    assert code == 5
    assert "OPSJOBS_TOKEN" in err


def test_ctrl_c_cancels_running_commands(folder: Path) -> None:
    with started(folder, "run", "echo begun; sleep 60", "-t", names(folder)[0]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert "cancelled" in err.decode()


def test_a_detached_execution_can_be_followed_read_grouped_and_shown(folder: Path) -> None:
    code, out, _ = opsjobs(
        folder, "run", "echo same; echo $((1+1)) >&2", "-l", "lab=true", "--detach"
    )
    execution = out.decode().strip()
    assert code == 0
    code, out, _ = opsjobs(folder, "executions", "follow", execution)
    assert (code, out.count(b"| same\n")) == (0, LAB)
    assert (
        opsjobs(
            folder, "executions", "logs", execution, "-t", names(folder)[0], "--stream", "stderr"
        )[1]
        == b"2\n"
    )
    assert opsjobs(folder, "executions", "logs", execution)[1].count(b" | ") == 2 * LAB
    assert (
        f"{LAB} targets: succeeded, exit 0"
        in opsjobs(folder, "executions", "groups", execution)[1].decode()
    )
    shown = json.loads(opsjobs(folder, "executions", "show", execution, "-o", "json")[1])
    assert [run["status"] for run in shown["targets"]] == ["succeeded"] * LAB
    assert execution in opsjobs(folder, "executions", "list", "-o", "name")[1].decode().split()
    assert opsjobs(folder, "executions", "cancel", execution)[0] == 6
    assert opsjobs(folder, "executions", "show", "999999")[0] == 4


def test_a_retry_runs_only_on_failed_targets(folder: Path) -> None:
    one, two = names(folder)[:2]
    assert opsjobs(folder, "run", "touch ready-for-the-retry", "-t", one)[0] == 0
    code, out, err = opsjobs(
        folder,
        "run",
        "test -e ready-for-the-retry || { echo not yet; exit 4; }",
        "-t",
        f"{one},{two}",
    )
    assert (code, out) == (3, f"{two} | not yet\n".encode()), err
    execution = opsjobs(folder, "executions", "list", "-o", "name")[1].decode().split()[0]
    assert opsjobs(folder, "executions", "retry", execution, "--which", "lost")[0] == 2
    assert opsjobs(folder, "run", "touch ready-for-the-retry", "-t", two)[0] == 0
    code, out, err = opsjobs(folder, "executions", "retry", execution, "--which", "failed")
    assert code == 0, err
    assert "completed: 1 succeeded of 1 target" in err
    retried = json.loads(opsjobs(folder, "executions", "list", "-o", "json")[1])[0]
    assert (retried["triggered_by"], str(retried["parent"]), retried["total_targets"]) == (
        "retry",
        execution,
        1,
    )
    assert opsjobs(folder, "dead-letters", "list", "-o", "name")[:2] == (0, b"")
    assert opsjobs(folder, "approvals", "list", "-o", "json")[:2] == (0, b"[]\n")


def test_json_output_is_the_whole_log_in_order(folder: Path) -> None:
    _, out, _ = opsjobs(folder, "run", "echo a; echo b", "-l", "lab=true", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["event"] == "end"


def test_a_target_is_added_trusted_tested_used_and_removed(folder: Path) -> None:
    lab = json.loads(opsjobs(folder, "targets", "show", names(folder)[0], "-o", "json")[1])
    add = [
        "targets",
        "add",
        "web-1",
        lab["host"],
        "--port",
        str(lab["port"]),
        "-c",
        lab["credential"],
        "--label",
        "env=prod",
    ]
    code, _, err = opsjobs(folder, *add)
    assert code == 0, err
    assert "targets trust web-1" in err
    assert opsjobs(folder, *add)[0] == 6
    code, _, err = opsjobs(folder, "run", "true", "-t", "web-1")
    assert code == 3
    assert "host_key" in err
    assert opsjobs(folder, "targets", "trust", "web-1")[0] == 2
    code, _, err = opsjobs(folder, "targets", "trust", "web-1", "--yes")
    assert code == 0, err
    assert "SHA256:" in err
    assert "already trusted" in opsjobs(folder, "targets", "trust", "web-1")[2]
    code, out, err = opsjobs(folder, "targets", "test", "web-1")
    assert code == 0, (out, err)
    assert opsjobs(folder, "run", "echo hello", "-t", "web-1")[1] == b"hello\n"
    assert opsjobs(folder, "targets", "rm", "web-1")[0] == 0
    assert opsjobs(folder, "targets", "show", "web-1")[0] == 4


def test_a_credential_is_read_from_a_file_and_its_secret_is_write_only(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("geheim\n")
    code, _, err = opsjobs(
        folder,
        "credentials",
        "add",
        "web-login",
        "-u",
        "deploy",
        "--password-file",
        str(tmp_path / "password"),
    )
    assert code == 0, err
    out = opsjobs(folder, "credentials", "list", "-o", "json")[1]
    assert b"web-login" in out
    assert b"geheim" not in out
    assert opsjobs(folder, "credentials", "rm", "web-login")[0] == 0


def test_a_token_is_limited_to_its_role(folder: Path) -> None:
    code, out, err = opsjobs(folder, "tokens", "add", "ben", "--role", "viewer")
    assert code == 0, err
    token = out.decode().strip()
    assert opsjobs(folder, "executions", "list", OPSJOBS_TOKEN=token)[0] == 0
    assert opsjobs(folder, "run", "true", "-l", "lab=true", OPSJOBS_TOKEN=token)[0] == 5


def test_status_shows_the_components(folder: Path) -> None:
    code, out, err = opsjobs(folder, "status")
    assert code == 0, err
    for word in ("PostgreSQL", "redis", "scheduler", "WORKER", "default"):
        assert word in out.decode()


def test_a_killed_api_loses_no_output_line(folder: Path, tmp_path: Path) -> None:
    one, gate = names(folder)[0], tmp_path / "gate"  # the lab shares the files of this machine
    waits = f"until [ -e {gate} ]; do sleep 0.1; done"
    command = f"echo 1; {waits}; for n in 2 3 4 5 6; do echo $n; sleep 0.4; done"
    with started(folder, "run", command, "-t", one) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        os.kill(_own_api(folder), signal.SIGKILL)
        gate.touch()
        out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, b"2\n3\n4\n5\n6\n"), err
    assert b"lost the connection to the service" in err
    assert b"reconnected" in err


def _own_api(folder: Path) -> int:
    """Return the API process of this test's stack: a child of ours, with our data folder.

    Others may run on the same machine.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (
                (entry / "environ").read_bytes().split(b"\0") if parent == os.getpid() else []
            )
        except OSError:  # it has ended, or belongs to another user
            continue
        if (
            arguments[-3:-1] == [b"opsjobs", b"api"]
            and f"OPSJOBS_DATA_DIR={folder}".encode() in environment
        ):
            found.append(int(entry.name))
    assert len(found) == 1, found
    return found[0]


def test_jobs_are_listed_run_and_deleted(folder: Path) -> None:
    _store_job(folder)
    assert opsjobs(folder, "jobs", "list", "-o", "name")[1].decode().split() == ["hello"]
    code, out, err = opsjobs(folder, "jobs", "run", "hello", "-t", names(folder)[0])
    assert (code, out) == (0, b"hello\n"), err
    assert "echo hello" in opsjobs(folder, "jobs", "show", "hello")[1].decode()
    assert (
        opsjobs(folder, "executions", "list", "--job", "hello", "-o", "name")[1].strip().isdigit()
    )
    assert opsjobs(folder, "jobs", "rm", "hello")[0] == 0
    assert opsjobs(folder, "jobs", "show", "hello")[0] == 4


def _store_job(folder: Path) -> None:
    with Client(find_endpoint(ClientSettings(), folder)) as client:
        client.post(
            "/jobs",
            {
                "name": "hello",
                "targets": {"selector": "lab=true"},
                "actions": [{"command": "echo hello"}],
            },
        )


def test_importing_a_thousand_hosts_twice_changes_nothing(folder: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("[fleet]\nnode[0001:1000].example.org ansible_port=2222 rack=r1\n")
    wished = ("targets", "import", str(inventory), "--label-from", "rack", "-o", "name")
    code, _, err = opsjobs(folder, *wished)
    assert code == 0, err
    assert "1000 created" in err
    assert "1000 unchanged" in opsjobs(folder, *wished)[2]
    assert (
        opsjobs(folder, "groups", "add", "rack-1", "--selector", "rack=r1", "-g", "fleet")[0] == 0
    )
    members = opsjobs(folder, "groups", "targets", "rack-1", "--limit", "0", "-o", "name")[
        1
    ].split()
    assert (len(members), members[0]) == (1000, b"node0001.example.org")


def test_a_connection_test_prints_each_step(folder: Path) -> None:
    code, out, err = opsjobs(folder, "targets", "test", names(folder)[0], "-o", "json")
    assert code == 0, err
    (trial,) = json.loads(out)
    assert [step["name"] for step in trial["steps"]] == ["connect", "auth", "shell", "sudo", "sftp"]


def test_a_target_is_changed_labelled_and_put_under_maintenance(folder: Path) -> None:
    lab = json.loads(opsjobs(folder, "targets", "show", names(folder)[0], "-o", "json")[1])
    add = ["targets", "add", "web-9", lab["host"], "--port", str(lab["port"]), "--zone", "paris"]
    code, _, err = opsjobs(folder, *add)
    assert code == 0, err
    assert "zone paris has no worker now" in err
    assert f"web-9 has the same host and port as {lab['name']}" in err
    code, _, err = opsjobs(
        folder, "targets", "set", "web-9", "--zone", "default", "-c", lab["credential"], "-g", "odd"
    )
    assert (code, "zone paris -> default" in err, "groups +odd" in err) == (0, True, True), err
    code, _, err = opsjobs(folder, "targets", "label", "web-9", "team=a", "rack=r1")
    assert (
        code,
        "+label rack=r1, +label team=a" in err or "+label team=a, +label rack=r1" in err,
    ) == (0, True), err
    assert opsjobs(folder, "targets", "label", "web-9", "rack-")[0] == 0
    assert opsjobs(folder, "targets", "maintenance", "web-9", "--reason", "new disk")[0] == 0
    code, out, _ = opsjobs(folder, "targets", "show", "web-9")
    assert (code, b"under maintenance until it is ended: new disk" in out) == (0, True)
    assert opsjobs(folder, "targets", "maintenance", "web-9", "--end")[0] == 0
    code, _, err = opsjobs(folder, "targets", "trust", "-l", "team=a", "-y")
    assert (code, "SHA256:" in err) == (0, True), err
    shown = json.loads(opsjobs(folder, "targets", "show", "web-9", "-o", "json")[1])
    assert (shown["labels"], shown["groups"], shown["zone"]) == ({"team": "a"}, ["odd"], "default")
    assert opsjobs(folder, "targets", "rm", "web-9")[0] == 0


def _failed(folder: Path) -> str:
    """Launch an execution that fails on one of the three machines; return its id."""
    command = (
        'echo out; echo first >&2; echo last words >&2; test "$OPSJOBS_TARGET" != '
        + names(folder)[1]
    )
    code, _, err = opsjobs(folder, "run", command, "-l", "lab=true")
    assert code == 3, err
    assert f"{names(folder)[1]} failed, exit 1: last words" in err
    return opsjobs(folder, "executions", "list", "--limit", "1", "-o", "name")[1].decode().strip()


def test_executions_show_names_the_failed_step_and_last_stderr_line(folder: Path) -> None:
    number, bad = _failed(folder), names(folder)[1]
    code, out, err = opsjobs(folder, "executions", "show", number)
    assert code == 0, err
    rows = {line.split()[0]: line for line in out.decode().splitlines()}
    assert rows["TARGET"].split() == [
        "TARGET",
        "STATUS",
        "STEP",
        "TOOK",
        "EXIT",
        "ERROR",
        "MESSAGE",
    ]
    assert rows[bad].split()[1:3] == ["failed", "step-1"]
    assert rows[bad].endswith("nonzero_exit  last words")
    grouped = opsjobs(folder, "executions", "groups", number)[1].decode()
    assert f"1 target: failed, exit 1: {bad}\n    out\n    ! first\n    ! last words\n" in grouped
    assert "2 targets: succeeded, exit 0" in grouped


def test_logs_are_filtered(folder: Path) -> None:
    number, bad = _failed(folder), names(folder)[1]

    def lines(*options: str) -> list[str]:
        code, out, err = opsjobs(folder, "executions", "logs", number, *options)
        assert code == 0, err
        return out.decode().splitlines()

    assert len(lines()) == 3 * LAB
    assert sorted(lines("--failed")) == sorted(
        [f"{bad} | out", f"{bad} | first", f"{bad} | last words"]
    )
    assert lines("--failed", "--stderr", "--tail", "1") == [f"{bad} | last words"]
    assert len(lines("--stderr", "--tail", "1")) == LAB
    assert lines("--action", "nothing") == []
    (stamped,) = lines("-t", bad, "--stderr", "--tail", "1", "--timestamps")
    moment, _, line = stamped.partition(" ")
    assert (line, moment[-1], len(moment)) == (f"{bad} | last words", "Z", 24)
    assert opsjobs(folder, "executions", "logs", number, "--failed", "--json")[0] == 2
    assert opsjobs(folder, "executions", "logs", number, "--failed", "-t", "nothing")[0] == 4


def test_a_retry_has_a_dry_run_and_is_not_repeated_without_again(folder: Path) -> None:
    number, bad = _failed(folder), names(folder)[1]
    code, out, err = opsjobs(folder, "executions", "retry", number, "--dry-run")
    assert (code, out.decode().splitlines()[1].split()) == (0, [bad, "failed", "nonzero_exit"]), err
    assert opsjobs(folder, "executions", "retry", number)[0] == 3
    code, _, err = opsjobs(folder, "executions", "retry", number)
    assert code == 6
    assert "--again" in err
    assert opsjobs(folder, "executions", "retry", number, "--again")[0] == 3
    assert "retried by " in opsjobs(folder, "executions", "show", number)[2]


def test_lines_are_found_on_all_targets(folder: Path) -> None:
    number, bad = _failed(folder), names(folder)[1]

    def found(*options: str) -> tuple[list[str], str]:
        code, out, err = opsjobs(folder, "executions", "search", number, *options)
        assert code == 0, err
        return out.decode().splitlines(), err.strip()

    assert found("last", "-t", bad) == ([f"{bad} | last words"], "1 line on 1 target")
    everywhere, told = found("OUT", "-i")
    assert (sorted(everywhere), told) == (
        sorted(f"{name} | out" for name in names(folder)),
        f"{LAB} lines on {LAB} targets",
    )
    assert sorted(found("^first$", "-e", "--names")[0]) == sorted(names(folder))
    around, _ = found("first", "-C", "1", "-t", bad)
    assert around == [f"{bad} | first", f"{bad} - last words"]
    (item,), _ = found("last", "--json", "--target", bad)
    assert json.loads(item)["stream"] == "stderr"
    _, told = found("out", "--limit", "1")
    assert "There may be more" in told
    assert found("nothing like this") == ([], "0 lines on 0 targets")
    code, _, err = opsjobs(folder, "executions", "search", number, "(a", "-e")
    assert (code, "pattern" in err) == (2, True)


def test_outputs_are_compared_and_grouped(folder: Path) -> None:
    assert opsjobs(folder, "run", 'echo "$OPSJOBS_TARGET"; echo same', "-l", "lab=true")[0] == 0
    code, _, err = opsjobs(folder, "executions", "show", "--last")
    number = err.split()[1]
    assert (code, f"execution {number} of ad-hoc" in err) == (0, True)
    assert opsjobs(folder, "executions", "show")[0] == 2
    one, two = names(folder)[:2]
    code, out, err = opsjobs(folder, "executions", "diff", number, one, two)
    changed = [f"--- {one}", f"+++ {two}", "@@ -1,2 +1,2 @@", f"-{one}", f"+{two}", " same"]
    assert (code, out.decode().splitlines()) == (0, changed), err
    code, out, err = opsjobs(folder, "executions", "diff", number, one, two, "--normalise")
    assert (code, out, "no difference in stdout" in err) == (0, b"", True)
    code, _, err = opsjobs(folder, "executions", "diff", number, one)
    assert (code, "No earlier execution" in err) == (4, True)
    for options, groups in (((), LAB), (("--normalise",), 1), (("--stream", "stderr"), 1)):
        code, out, err = opsjobs(folder, "executions", "groups", number, *options)
        assert (code, out.decode().count("succeeded")) == (0, groups), err


def test_status_and_stats_show_versions_and_what_ended(folder: Path) -> None:
    assert opsjobs(folder, "run", "true", "-l", "lab=true")[0] == 0
    code, out, err = opsjobs(folder, "status")
    assert code == 0, err
    shown = dict(line.split(maxsplit=1) for line in out.decode().splitlines() if " " in line)
    assert "PostgreSQL" in shown["database"]
    assert "version" in shown["redis"]
    assert shown["schedules"].startswith("0")
    code, out, err = opsjobs(folder, "stats")
    assert code == 0, err
    hour = out.decode().partition("Last day")[0]
    assert "completed" in hour
    assert "ad-hoc" in hour
    stats = json.loads(opsjobs(folder, "stats", "-o", "json")[1])
    assert [period["period"] for period in stats["periods"]] == ["hour", "day", "week"]
    assert stats["periods"][0]["runs"]["by_status"]["succeeded"] >= LAB


def test_a_folder_is_uploaded_transferred_and_its_artifacts_saved(
    folder: Path, tmp_path: Path
) -> None:
    site, data = tmp_path / "site", random.Random(3).randbytes(700_000)
    (site / "conf.d").mkdir(parents=True)
    (site / "conf.d" / "ü 1.conf").write_bytes(data)
    (site / "run.sh").write_bytes(b"#!/bin/sh\n")
    (site / "run.sh").chmod(0o755)
    code, out, err = opsjobs(folder, "files", "upload", str(site))
    assert code == 0, err
    source, machine = out.decode().strip(), names(folder)[0]
    assert "site.tar" in opsjobs(folder, "files", "show", source)[1].decode()
    put = {
        "key": "put",
        "direction": "upload",
        "source": source,
        "destination": "site",
        "unpack": True,
    }
    get = {"key": "get", "direction": "download", "source": "site"}
    actions = [{"type": "file_transfer", **action} for action in (put, get)]
    with Client(find_endpoint(ClientSettings(), folder)) as client:
        execution = client.post("/run", {"actions": actions, "targets": {"ids": [machine]}})["id"]
    code, out, err = opsjobs(folder, "executions", "follow", str(execution))
    assert code == 0, err + out.decode()
    assert "site/run.sh" in opsjobs(folder, "executions", "artifacts", str(execution))[1].decode()
    code, _, err = opsjobs(
        folder, "executions", "artifacts", str(execution), "--to", str(tmp_path / "got")
    )
    assert code == 0, err
    got = tmp_path / "got" / machine / "site"
    assert (got / "conf.d" / "ü 1.conf").read_bytes() == data
    assert (got / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert opsjobs(folder, "files", "rm", source)[0] == 0
    assert opsjobs(folder, "files", "show", source)[0] == 4


def test_a_downloaded_file_is_unchanged_and_overwrites_nothing(
    folder: Path, tmp_path: Path
) -> None:
    data, path = random.Random(4).randbytes(300_000), tmp_path / "a.bin"
    path.write_bytes(data)
    source = opsjobs(folder, "files", "upload", str(path), "--name", "b.bin")[1].decode().strip()
    assert opsjobs(folder, "files", "download", source, "--to", "-")[1] == data
    code, _, err = opsjobs(folder, "files", "download", source, "--to", str(path))
    assert (code, "exists already" in err) == (6, True)
    assert opsjobs(folder, "files", "download", source, "--to", str(tmp_path / "c.bin"))[0] == 0
    assert (tmp_path / "c.bin").read_bytes() == data
    assert "b.bin" in opsjobs(folder, "files", "list")[1].decode()
    assert opsjobs(folder, "files", "upload", str(tmp_path / "none"))[0] == 2
