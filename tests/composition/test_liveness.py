"""Liveness: reports of a process to systemd and to probes, which stop once it is stuck."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kit import backing_servers
from kit.ports import free_port
from opsjobs.composition.liveness import LAG_SECONDS_MAX, Liveness, ServiceManager
from opsjobs.standalone.spawn import bare_environment
from opsjobs.store.restores import NOT_FINISHED
from opsjobs.store.system_status import HEAD
from opsjobs.telemetry.metrics import Metrics

SECONDS = 60.0
SILENCE_SECONDS = 1.5


class Manager:
    """The receiving end of NOTIFY_SOCKET, as systemd has it.

    A thread reads what comes at once: the kernel keeps ten datagrams, and a sender drops the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._came: queue.Queue[list[str]] = queue.Queue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "300000"}

    def wait_for(self, assignment: str, seconds: float = SECONDS) -> list[str]:
        """Return the lines of the next datagram with this line."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            try:
                lines = self._came.get(timeout=left)
            except queue.Empty:
                break
            self.heard += lines
            if assignment in lines:
                return lines
        raise AssertionError(f"no {assignment} within {seconds} s: {self.heard}")

    def drain(self) -> None:
        """Forget all that was sent before."""
        self._send(mark := f"drained {time.monotonic_ns()}")
        self.wait_for(mark)

    def close(self) -> None:
        self._send("")
        self._thread.join(SECONDS)
        self._socket.close()

    def _read(self) -> None:
        while datagram := self._socket.recv(4096):
            self._came.put(datagram.decode().split("\n"))

    def _send(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), str(self.path))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path / "notify")
    yield found
    found.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def test_start_and_stop_are_reported_and_the_watchdog_is_fed(manager: Manager) -> None:
    liveness = Liveness(manager=ServiceManager(manager.environment))
    assert (liveness.unready(), liveness.fault()) == ("starting", None)
    liveness.start()
    await asyncio.to_thread(manager.wait_for, "WATCHDOG=1")
    await asyncio.to_thread(manager.wait_for, "WATCHDOG=1")
    assert (liveness.unready(), liveness.fault()) == (None, None)
    liveness.begin_stop(90)
    lines = await asyncio.to_thread(manager.wait_for, "STOPPING=1")
    assert lines == ["STOPPING=1", "STATUS=stopping", "EXTEND_TIMEOUT_USEC=90000000"]
    await asyncio.to_thread(manager.wait_for, "WATCHDOG=1")
    assert (liveness.unready(), liveness.fault()) == ("stopping", None)
    await liveness.stop()
    assert manager.heard[0] == "READY=1"
    assert "STATUS=ready" in manager.heard


async def test_a_blocked_event_loop_does_not_feed_the_watchdog(manager: Manager) -> None:
    liveness, blocked, freed = (
        Liveness(manager=ServiceManager(manager.environment)),
        threading.Event(),
        threading.Event(),
    )

    def block() -> None:
        blocked.set()
        freed.wait(SECONDS)

    def look() -> None:
        blocked.wait(SECONDS)
        manager.drain()
        with pytest.raises(AssertionError):
            manager.wait_for("WATCHDOG=1", SILENCE_SECONDS)
        freed.set()
        manager.wait_for("WATCHDOG=1")

    liveness.start()
    looking = asyncio.create_task(asyncio.to_thread(look))
    asyncio.get_running_loop().call_later(0.2, block)
    await looking
    await liveness.stop()


async def test_a_blocked_event_loop_fails_the_probe() -> None:
    now = [1000.0]
    liveness = Liveness(manager=ServiceManager({}), monotonic=lambda: now[0])
    liveness.start()
    now[0] += LAG_SECONDS_MAX + 1  # before the loop had a turn
    assert liveness.fault() == "the event loop has been blocked for 31 s"
    assert liveness.unready() == liveness.fault()
    await until(lambda: liveness.fault() is None)
    await liveness.stop()


async def test_work_that_has_stopped_for_good_ends_the_feeding(manager: Manager) -> None:
    faults: list[str] = []
    liveness = Liveness(
        fault=lambda: faults[0] if faults else None, manager=ServiceManager(manager.environment)
    )
    liveness.start()
    await asyncio.to_thread(manager.wait_for, "WATCHDOG=1")
    faults.append("the claim loop has ended by itself")
    await asyncio.to_thread(manager.wait_for, "STATUS=the claim loop has ended by itself")
    manager.drain()
    with pytest.raises(AssertionError):
        await asyncio.to_thread(manager.wait_for, "WATCHDOG=1", SILENCE_SECONDS)
    assert liveness.fault() == faults[0]
    await liveness.stop()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000"}, 30),
        (
            {
                "NOTIFY_SOCKET": "/run/n",
                "WATCHDOG_USEC": "1500000",
                "WATCHDOG_PID": str(os.getpid()),
            },
            1.5,
        ),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "1500000"}, None),
    ],
)
def test_the_watchdog_is_on_if_it_is_meant_for_this_process(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager(environ).watchdog_seconds == seconds


def test_an_abstract_socket_is_understood_and_a_status_stays_one_line() -> None:
    name = f"opsjobs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name)
        heard.settimeout(SECONDS)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).notify(STATUS="a\nREADY=1\nb")
        assert heard.recv(4096) == b"STATUS=a READY=1 b"


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).notify(READY=1)


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.loads(refused.read())


async def test_the_metrics_listener_answers_the_probes() -> None:
    metrics, reasons = Metrics(), ["no lease"]
    liveness = Liveness(unready=lambda: reasons[0] if reasons else None, manager=ServiceManager({}))
    port = metrics.serve("127.0.0.1", 0, liveness.probes)
    try:
        liveness.start()
        assert await asyncio.to_thread(get, port, "/livez") == (200, {"status": "ok"})
        assert await asyncio.to_thread(get, port, "/readyz") == (
            503,
            {"status": "unavailable", "reasons": ["no lease"]},
        )
        reasons.clear()
        assert await asyncio.to_thread(get, port, "/readyz") == (200, {"status": "ok"})
    finally:
        metrics.close()
        await liveness.stop()


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(
        [sys.executable, "-m", "opsjobs", *arguments],
        env={**bare_environment(), "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait(SECONDS)


def healthcheck(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opsjobs", "healthcheck", *arguments],
        env={
            **bare_environment(),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "METRICS_PORT": str(port),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("role", ["api", "worker", "scheduler"])
def test_every_process_notifies_answers_probes_and_stops_in_order(
    role: str, database_url: str, manager: Manager, tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        **manager.environment,
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEYS": backing_servers.AUDIT_KEY.reveal(),
        "METRICS_PORT": str(port),
        "OPSJOBS_API_PORT": "0",
        "OPSJOBS_DATA_DIR": str(tmp_path),
    }
    with process(role, **settings) as started:
        manager.wait_for("READY=1")
        manager.wait_for("STATUS=ready")
        manager.wait_for("WATCHDOG=1")
        assert get(port, "/livez") == get(port, "/readyz") == (200, {"status": "ok"})
        asked = healthcheck(port)
        assert (asked.returncode, asked.stderr) == (0, f"http://127.0.0.1:{port}/livez: ok\n")
        started.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert started.wait(SECONDS) == 0
    gone = healthcheck(port)
    assert gone.returncode == 1
    assert "no answer" in gone.stderr


def test_a_healthcheck_names_the_reason_and_the_way_out() -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0, {"/livez": lambda: "the event loop has been blocked"})
    try:
        asked = healthcheck(port)
        assert (asked.returncode, asked.stderr) == (
            1,
            f"opsjobs: http://127.0.0.1:{port}/livez: the event loop has been blocked\n",
        )
        wrong = healthcheck(port, f"https://127.0.0.1:{port}/livez")
        assert wrong.returncode == 2
        assert "write http://HOST:PORT/livez" in wrong.stderr
    finally:
        metrics.close()


def test_a_database_that_is_away_is_a_reason_to_wait_and_no_fault(
    manager: Manager, tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        **manager.environment,
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        "ENCRYPTION_KEYS": backing_servers.AUDIT_KEY.reveal(),
        "METRICS_PORT": str(port),
        "OPSJOBS_DATA_DIR": str(tmp_path),
    }
    with process("worker", **settings):
        manager.wait_for("READY=1")
        manager.wait_for("STATUS=PostgreSQL does not answer")
        manager.wait_for("WATCHDOG=1")
        assert get(port, "/livez")[0] == 200
        assert get(port, "/readyz")[0] == 503


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_a_process_begins_once_the_schema_is_there_and_stops_before_that_if_asked(
    role: str, databases: backing_servers.Databases, manager: Manager, tmp_path: Path
) -> None:
    name = databases.create()
    url = databases.url_of(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update alembic_version set version_num = '0001_before'")
        settings = {
            **manager.environment,
            "DATABASE_URL": url,
            "ENCRYPTION_KEYS": backing_servers.AUDIT_KEY.reveal(),
            "OPSJOBS_DATA_DIR": str(tmp_path),
        }
        waits = f"STATUS=the schema is 0001_before, {HEAD} is needed: run `opsjobs db upgrade`"
        with process(role, **settings) as started:
            manager.wait_for(waits)
            started.send_signal(signal.SIGTERM)
            assert started.wait(SECONDS) == 0
        with process(role, **settings):
            manager.wait_for(waits)
            registered = connection.execute("select count(*) from workers").fetchone()
            assert registered == (0,)
            connection.execute("create table restore_unfinished()")
            connection.execute("update alembic_version set version_num = %s", [HEAD])
            manager.wait_for(f"STATUS={NOT_FINISHED}")
            assert connection.execute("select count(*) from workers").fetchone() == (0,)
            connection.execute("drop table restore_unfinished")
            manager.wait_for("STATUS=ready")
    databases.drop(name)
