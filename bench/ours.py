"""The whole of opsjobs as a user runs it (`opsjobs up`), measured through its API and /proc."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from machines import Machines
from processes import cpu_seconds, tree

READY_SECONDS = 60
STOP_SECONDS = 60
KEPT_ALIVE_SECONDS = 2  # the server hangs up after 5


class Api:
    """One kept-alive HTTP connection."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._used_at = 0.0

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer's JSON; anything but 2xx ends the bench with what the API said."""
        if time.monotonic() - self._used_at > KEPT_ALIVE_SECONDS:
            self._connection.close()
        data = json.dumps(body) if body is not None else None
        self._connection.request(method, path, data, {**self._headers, **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        self._used_at = time.monotonic()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text) if text else None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass(slots=True)
class Service:
    """A running `opsjobs up`."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    token: str
    data_dir: Path
    ready_seconds: float
    jobs: dict[int, int] = field(default_factory=dict)

    def api(self) -> Api:
        """A new connection to it."""
        return Api(self.host, self.port, self.token)

    def children(self) -> dict[str, list[int]]:
        """The process ids of the stack by what they are: worker, api, scheduler, postgres, valkey, up."""
        found: dict[str, list[int]] = {}
        for pid, command in tree(self.process.pid):
            found.setdefault(_kind(pid, self.process.pid, command), []).append(pid)
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by kind."""
        return {kind: sum(cpu_seconds(pid) for pid in pids) for kind, pids in self.children().items()}


def _kind(pid: int, up: int, command: str) -> str:
    if pid == up:
        return "up"
    if "postgres" in command:
        return "postgres"
    if "valkey" in command:
        return "valkey"
    return next((word for word in ("worker", "api", "scheduler") if command.endswith(f"-m opsjobs {word}")), "other")


@contextmanager
def service(data_dir: Path, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """`opsjobs up` for the length of the block, with a worker and no lab."""
    command = [sys.executable, "-m", "opsjobs", "up", "--data-dir", str(data_dir), "--port", "0"]
    began = time.perf_counter()
    with (data_dir.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
    try:
        url = _endpoint(process, data_dir)
        ready = time.perf_counter() - began
        host, _, port = url.removeprefix("http://").rpartition(":")
        yield Service(process, host, int(port), (data_dir / "admin-token").read_text().strip(), data_dir, ready)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _endpoint(process: subprocess.Popen[bytes], data_dir: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if url := (data_dir / "endpoint").read_text().strip():
                return url
        except FileNotFoundError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"up does not start: {(data_dir.parent / 'up.log').read_text()[-2000:]}")
        time.sleep(0.005)


def register(running: Service, machines: Machines) -> None:
    """Make the machines known as targets, host keys pinned, and the jobs that say `echo ok` on them."""
    api = running.api()
    api.call("POST", "/credentials", {"name": "bench", "type": "ssh_key", "username": machines.user, "private_key": machines.private_key})
    for machine in machines.all:
        target = {"name": machine.name, "host": machine.host, "port": machine.port, "groups": ["bench"], "credential": "bench"}
        api.call("POST", "/targets", {**target, "host_keys": [machine.host_key], "host_key_policy": "pinned"})
    api.close()


def job(api: Api, name: str, targets: dict[str, Any], parallel: int) -> int:
    """A job that says `echo ok`; its id."""
    draft = {"name": name, "targets": targets, "actions": [{"type": "command", "command": "echo ok"}], "policy": {"max_parallel": parallel}}
    return int(api.call("POST", "/jobs", draft)["id"])


@dataclass(frozen=True, slots=True)
class Round:
    """One execution: seconds from the POST until the commit that ended it, and what the processes used meanwhile."""

    seconds: float
    cpu: dict[str, float]


def fan_out(running: Service, api: Api, job_id: int, count: int, expected_seconds: float = 0.0) -> Round:
    """Execute and wait; every target must have said ok. The end is asked for when it is due, so that asking costs little."""
    before = running.cpu()
    began = time.time()
    execution = api.call("POST", f"/jobs/{job_id}/execute", {})
    time.sleep(max(0.05, expected_seconds * 0.9 - (time.time() - began)))
    while (execution := api.call("GET", f"/executions/{execution['id']}"))["finished_at"] is None:
        time.sleep(0.03)
    after = running.cpu()
    if execution["counts"] != {"succeeded": count}:
        raise RuntimeError(f"not all succeeded: {execution}")
    seconds = datetime.fromisoformat(execution["finished_at"]).timestamp() - began
    return Round(seconds, {kind: after[kind] - before.get(kind, 0.0) for kind in after})
