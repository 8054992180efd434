"""The whole of opsjobs as a user runs it (`opsjobs up`), measured through its API and /proc."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from machines import Machine, Machines
from processes import cpu_seconds, pss_bytes, tree

READY_SECONDS = 60
STOP_SECONDS = 60
EXECUTION_SECONDS_MAX = 60
SPARE = "bench-spare"
KEPT_ALIVE_SECONDS = 2  # the server closes connections after 5


class Api:
    """One kept-alive HTTP connection."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._used_at = 0.0

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON of the response; any status but 2xx ends the bench with the text of the API."""
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
        """Close the connection."""
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

    def api(self) -> Api:
        """Return a new connection to its API."""
        return Api(self.host, self.port, self.token)

    def children(self) -> dict[str, list[int]]:
        """Return the process ids of the stack by kind: worker, api, scheduler, postgres, valkey, up."""
        found: dict[str, list[int]] = {}
        for pid, command in tree(self.process.pid):
            found.setdefault(_kind(pid, self.process.pid, command), []).append(pid)
        return found

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds used so far, by kind."""
        return {kind: sum(map(cpu_seconds, pids)) for kind, pids in self.children().items()}

    def pss(self) -> dict[str, int]:
        """Return the proportional memory in bytes, by kind."""
        return {kind: sum(map(pss_bytes, pids)) for kind, pids in self.children().items()}

    def forget_connections(self, api: Api) -> None:
        """End the worker; `up` starts another one, which is warmed up on the spare machine and has no other connection."""
        (worker,) = self.children()["worker"]
        os.kill(worker, signal.SIGTERM)
        run_to_end(api, "/run", {"actions": [{"command": "true"}], "targets": {"ids": [SPARE]}})
        assert worker not in self.children()["worker"]


def _kind(pid: int, up: int, command: str) -> str:
    if pid == up:
        return "up"
    if "postgres" in command:
        return "postgres"
    if "valkey" in command:
        return "valkey"
    return next(
        (word for word in ("worker", "api", "scheduler") if command.endswith(f"-m opsjobs {word}")),
        "other",
    )


@contextmanager
def service(data_dir: Path, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """`opsjobs up` for the length of the block, with a worker and no lab."""
    command = [sys.executable, "-m", "opsjobs", "up", "--data-dir", str(data_dir), "--port", "0"]
    began = time.perf_counter()
    with (data_dir.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
    try:
        url = _endpoint(process, data_dir)
        ready = time.perf_counter() - began
        host, _, port = url.removeprefix("http://").rpartition(":")
        yield Service(
            process,
            host,
            int(port),
            (data_dir / "admin-token").read_text().strip(),
            data_dir,
            ready,
        )
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
            raise RuntimeError(
                f"up does not start: {(data_dir.parent / 'up.log').read_text()[-2000:]}"
            )
        time.sleep(0.005)


def register(running: Service, machines: Machines) -> None:
    """Add the machines as targets with pinned host keys."""
    api = running.api()
    login = {"username": machines.user, "private_key": machines.private_key}
    api.call("POST", "/credentials", {"name": "bench", "type": "ssh_key", **login})
    for machine in machines.all:
        api.call(
            "POST", "/targets", {**_target(machine), "name": machine.name, "groups": ["bench"]}
        )
    api.call("POST", "/targets", {**_target(machines.spare), "name": SPARE, "slots": 100})
    api.close()


def _target(machine: Machine) -> dict[str, Any]:
    address = {"host": machine.host, "port": machine.port, "credential": "bench"}
    return {**address, "host_keys": [machine.host_key], "host_key_policy": "pinned"}


def job(
    api: Api,
    name: str,
    targets: dict[str, Any],
    parallel: int,
    *,
    durable: str = "auto",
    command: str = "echo ok",
) -> int:
    """Create a job that runs `echo ok`; return its id."""
    actions = [{"type": "command", "command": command, "durable": durable}]
    draft = {
        "name": name,
        "targets": targets,
        "actions": actions,
        "policy": {"max_parallel": parallel},
    }
    return int(api.call("POST", "/jobs", draft)["id"])


def run_to_end(api: Api, path: str, body: Any, *, due_seconds: float = 0.0) -> dict[str, Any]:
    """Launch, and poll for the end only when it is due, so that polling costs little."""
    execution = api.call("POST", path, body)
    deadline = time.monotonic() + EXECUTION_SECONDS_MAX
    time.sleep(due_seconds * 0.9)
    while (execution := api.call("GET", f"/executions/{execution['id']}"))["finished_at"] is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the execution does not end: {execution}")
        time.sleep(0.03)
    return dict(execution)


@dataclass(frozen=True, slots=True)
class Round:
    """One execution: seconds from the POST until the commit that ended it, and the CPU seconds of the stack's processes."""

    seconds: float
    cpu: dict[str, float]


def fan_out(
    running: Service, api: Api, job_id: int, count: int, *, due_seconds: float = 0.0
) -> Round:
    """Execute and wait; every target must have printed ok."""
    before, began = running.cpu(), time.time()
    execution = run_to_end(api, f"/jobs/{job_id}/execute", {}, due_seconds=due_seconds)
    after = running.cpu()
    if execution["counts"] != {"succeeded": count}:
        raise RuntimeError(f"not all succeeded: {execution}")
    # The database's clock is this machine's clock.
    seconds = datetime.fromisoformat(execution["finished_at"]).timestamp() - began
    return Round(seconds, {kind: after[kind] - before.get(kind, 0.0) for kind in after})


def command_seconds(api: Api, job_id: int) -> float:
    """Execute a job with one target; return the time from start to end of its command, as seen by the worker."""
    execution = run_to_end(api, f"/jobs/{job_id}/execute", {})
    (result,) = api.call("GET", f"/executions/{execution['id']}/results")["items"]
    if result["status"] != "succeeded":
        raise RuntimeError(f"it did not succeed: {result}")
    begun, ended = (datetime.fromisoformat(result[name]) for name in ("started_at", "finished_at"))
    return (ended - begun).total_seconds()
