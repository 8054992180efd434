"""The API as a process: behaviour that only a real server on a real socket has."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from kit.ports import free_port
from opsjobs.store.envelope import new_key

TOKEN = "opsc_" + "a" * 43
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
START_SECONDS = 90
SERVE = "import sys; from opsjobs.settings import load; from opsjobs.api.app import serve; sys.exit(serve(load()))"


def start(database_url: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPSJOBS_")},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEYS": new_key().reveal(),
        "OPSJOBS_ADMIN_TOKEN": TOKEN,
        "OPSJOBS_API_PORT": str(port),
    }
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", SERVE], env=environment, stdout=out, stderr=subprocess.STDOUT
        )


@contextmanager
def served(database_url: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client]]:
    """Yield a ready process and a client of its admin; end it in any case."""
    port = free_port()
    process = start(database_url, port, log)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=ADMIN, timeout=30) as http:
            until_it_answers(process, http, log)
            yield process, http
    finally:
        process.kill()
        process.wait()


def until_it_answers(process: subprocess.Popen[bytes], http: httpx2.Client, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if http.get("/jobs").status_code == 200:
                return
        except httpx2.ConnectError:
            time.sleep(0.05)
    raise AssertionError(f"no answer within {START_SECONDS} s: {log.read_text()}")


def memory_mib(process: subprocess.Popen[bytes]) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bodies_of_100_mb_are_refused_in_bounded_memory_and_sigterm_ends_cleanly(
    database_url: str, tmp_path: Path
) -> None:
    with served(database_url, tmp_path / "log") as (process, http):
        before = memory_mib(process)
        flood = b" " * (100 << 20)
        assert http.post("/jobs", content=flood, headers=JSON).status_code == 413
        pieces = (flood[i : i + 65_536] for i in range(0, len(flood), 65_536))
        assert http.post("/jobs", content=pieces, headers=JSON).status_code == 413
        assert (
            http.post(
                "/jobs", content=flood, headers={**JSON, "Authorization": "Bearer no"}
            ).status_code
            == 401
        )
        assert http.get("/jobs").status_code == 200
        assert memory_mib(process) - before < 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_tokens_and_secrets_of_requests_are_not_logged(
    database_url: str, tmp_path: Path
) -> None:
    with served(database_url, tmp_path / "log") as (process, http):
        login = {"name": "web", "type": "password", "username": "deploy", "password": "canary-7f3a"}
        assert http.post("/credentials", json=login).status_code == 201
        assert http.post("/credentials", json={**login, "type": "agent"}).status_code == 422
        assert (
            http.get("/jobs", headers={"Authorization": "Bearer opsc_canary-token"}).status_code
            == 401
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    logged = (tmp_path / "log").read_text()
    assert '"path": "/credentials"' in logged
    assert "canary" not in logged
    assert TOKEN not in logged


def test_a_port_in_use_ends_the_process_with_one_line(database_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(database_url, taken.getsockname()[1], tmp_path / "log")
        assert process.wait(START_SECONDS) != 0
    assert "address already in use" in (tmp_path / "log").read_text().lower()
