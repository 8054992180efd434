"""`opsjobs up` as a user runs it: it survives faults, and refuses with clear messages."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import (
    COMMAND_SECONDS,
    POLL_SECONDS,
    UpProcess,
    opsjobs_up,
    wait_for_ends,
    watched_processes,
)
from kit.ports import free_port
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine, machine_names

# So long that nothing before its end waited for it.
LONG_LEASE_SECONDS = 600
ALL = {"api", "worker", "scheduler", "postgres", "valkey", "lab"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder(memory()) as found:
        yield found


@pytest.fixture(scope="module")
def running() -> Iterator[UpProcess]:
    settings = {"OPSJOBS_LEASE_SECONDS": str(LONG_LEASE_SECONDS)}
    with open_folder(memory()) as found:
        choose_lab_ports(found / "data", 2)
        with opsjobs_up(found / "data", "--lab", "2", settings=settings) as service:
            yield service


def choose_lab_ports(data: Path, count: int) -> None:
    """Let a lab use ports of its own: others take the first free ones, also while a killed lab starts again."""
    lab = LabFolder(data / "lab")
    lab.path.mkdir(mode=0o700, parents=True)
    (data / "lock").touch()
    machines = (Machine(name, free_port()) for name in machine_names(count))
    lab.write(LabRecord(0, "", "", tuple(machines)))


def test_a_command_runs_on_the_lab(running: UpProcess) -> None:
    done = running.run("run", "echo out; echo err >&2", "-l", "lab=true")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["lab-1 | out", "lab-2 | out"]


def test_processes_have_recognizable_titles(running: UpProcess) -> None:
    assert set(running.children()) == ALL


def test_a_second_up_is_refused_with_the_running_process(running: UpProcess) -> None:
    done = running.run("up", "--port", "0")
    assert done.returncode != 0
    assert f"process {running.process.pid}" in done.stderr
    assert "--data-dir" in done.stderr


def test_secret_files_are_private(running: UpProcess) -> None:
    assert {
        p.name: p.stat().st_mode & 0o777
        for p in (running.data / "admin-token", running.data / "keys")
    } == {
        "admin-token": 0o600,
        "keys": 0o600,
    }


@pytest.mark.parametrize("victim", sorted(ALL))
def test_a_killed_process_is_restarted(running: UpProcess, victim: str) -> None:
    before = running.children()
    os.kill(before[victim], signal.SIGKILL)
    running.expect("ended by SIGKILL")
    running.expect("runs again")
    # It is logged when the process exists; /proc shows its parent's name for a moment longer.
    deadline = time.monotonic() + COMMAND_SECONDS
    while (after := running.children()).get(victim, before[victim]) == before[victim]:
        assert time.monotonic() < deadline, after
        time.sleep(POLL_SECONDS / 5)
    assert {n: p for n, p in after.items() if n != victim} == {
        n: p for n, p in before.items() if n != victim
    }
    assert "hello" in running.run_until_it_works("run", "echo hello", "-t", "lab-1")


def test_runs_of_a_killed_worker_are_taken_over_at_once(running: UpProcess, folder: Path) -> None:
    leave = folder / "leave"
    begun = running.run(
        "run", f"while ! test -e {leave}; do sleep 0.1; done; echo done", "-t", "lab-1", "--detach"
    )
    state = ("executions", "show", begun.stdout.strip(), "-o", "json")
    _wait_for(running, '"running"', *state)
    os.kill(running.children()["worker"], signal.SIGKILL)
    running.expect("ended by SIGKILL")
    running.expect("runs again")
    leave.touch()
    _wait_for(running, '"succeeded": 1', *state)


def _wait_for(service: UpProcess, words: str, *command: str) -> None:
    deadline = time.monotonic() + LONG_LEASE_SECONDS / 3
    while words not in (said := service.run_until_it_works(*command)):
        assert time.monotonic() < deadline, said
        time.sleep(POLL_SECONDS)


@pytest.mark.long
def test_after_kill_9_nothing_survives_and_the_next_up_uses_the_same_data(
    folder: Path,
) -> None:
    with opsjobs_up(folder / "data", "--lab", "2") as service:
        service.run_until_it_works("run", "echo hello", "-t", "lab-1")
        token = (folder / "data/admin-token").read_text()
        with watched_processes(list(service.children().values())) as ends:
            service.stop(signal.SIGKILL)
            wait_for_ends(ends)
    with opsjobs_up(folder / "data", "--lab", "2") as service:
        assert (folder / "data/admin-token").read_text() == token
        assert "completed" in service.run("executions", "list").stdout
        service.run_until_it_works("run", "echo hello", "-l", "lab=true")
        assert_it_ends_in_order(service, signal.SIGTERM)


def test_a_stop_during_the_start_is_honoured(folder: Path) -> None:
    service = UpProcess(folder / "data", [], {}, [])
    try:
        service.expect("starting")
        assert service.stop(signal.SIGTERM) == 0
    finally:
        service.process.kill()
        service.process.wait()


def test_a_taken_port_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = UpProcess(folder / "data", ["--port", str(port)], {}, [])
        service.expect(f"Port {port} on 127.0.0.1 cannot be used")
        assert service.process.wait(60) == 1


def test_configured_servers_replace_the_embedded_ones(
    folder: Path, database_url: str, redis_url: str
) -> None:
    settings = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    with opsjobs_up(folder / "data", "--lab", "1", settings=settings) as service:
        assert set(service.children()) == {"api", "worker", "scheduler", "lab"}
        assert "hello" in service.run_until_it_works("run", "echo hello", "-t", "lab-1")
    assert not (folder / "data/pg").exists()


def test_an_ordinary_user_needs_no_privileges(folder: Path) -> None:
    before: list[str] = []
    if os.geteuid() == 0:
        # The tests' own Python may be in a place for root only: in a user namespace, root's files
        # belong to another user.
        user = next(e for e in pwd.getpwall() if e.pw_uid not in (0, 65_534))
        before = ["unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]
        if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
            pytest.skip(
                "this machine cannot make user namespaces, by which root tries what an ordinary user sees"
            )
    with opsjobs_up(folder / "data", "--lab", "1", before=before) as service:
        done = service.run("run", "id -u", "-t", "lab-1", before=before)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() != "0"
        assert (folder / "data").stat().st_mode & 0o777 == 0o700
        assert_it_ends_in_order(service, signal.SIGINT)


def assert_it_ends_in_order(service: UpProcess, how: signal.Signals) -> None:
    with watched_processes(list(service.children().values())) as ends:
        assert service.stop(how) == 0
        wait_for_ends(ends, 1)
    assert not (service.data / "endpoint").exists()
    assert (
        "database system is shut down"
        in (service.data / "logs/postgres.log").read_text().splitlines()[-1]
    )
