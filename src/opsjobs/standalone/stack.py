"""Start and stop the whole service on one machine: servers, migrations, keys, processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.secret import Secret
from opsjobs.settings import load
from opsjobs.standalone.data_dir import DataFolder
from opsjobs.standalone.lab.folder import LabFolder
from opsjobs.standalone.postgres import Postgres
from opsjobs.standalone.process_logs import LogCollector, PostgresLines, ValkeyLines
from opsjobs.standalone.spawn import (
    OWN_DATABASE,
    WITH_LAB,
    WITH_WINDOWS_LAB,
    bare_environment,
    run_helper,
    spawn,
)
from opsjobs.standalone.supervisor import Report, SupervisedProcess, Supervisor
from opsjobs.standalone.valkey import Valkey

LAB_MACHINES_MAX = 1_000
READY_SECONDS = 60.0
WORKER_ENDS_SECONDS = 15.0
LAB_SECONDS = 30.0
PORT_SECONDS = 3.0  # a killed `up` may leave processes that hold its port for a moment
DEATHS_AT_START = 3
STATUS_BYTES_MAX = 1_024
# Addresses for the health checks of the stack.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  compared only

_SERVER = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Options of `up` and `demo`."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8003
    """The port of the API; 0 selects a free one."""
    lab: int = 0
    lab_windows: int = 0
    worker_processes: int = 1
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The variables from which the settings are read."""


class Stack:
    """The running service: `with Stack(options) as stack:` serves at `stack.url`.

    `stack.token` is the admin's. Everything ends with this process: in order by `stop()`, at once
    by kill -9. Raises Refusal if the service must not start, Unavailable if a component does not
    start.
    """

    def __init__(self, options: StackOptions, report: Report = lambda _: None) -> None:
        self.options = options
        self.url = ""
        self._report = report
        self._folder = DataFolder(options.data_dir)
        self._settings = load(options.environment)
        self._supervisor = Supervisor(self._report_trouble)
        self._collector = LogCollector(self._folder.logs)
        self._database_url = self._settings.database.url
        self._redis_url = self._settings.redis.url
        self._services: list[str] = []
        self._lab: list[str] = []
        self._servers: list[str] = []

    @property
    def token(self) -> Secret:
        """The admin token, read from `<data dir>/admin-token`."""
        return Secret(self._folder.admin_token.read_text().strip())

    @property
    def admin_token_file(self) -> Path:
        """The path of the file with the admin token."""
        return self._folder.admin_token

    @property
    def logs(self) -> Path:
        """The folder with the logs of the processes."""
        return self._folder.logs

    @property
    def warnings(self) -> list[str]:
        """Return warnings about the power of API callers over this host if `up` runs as root."""
        if os.geteuid() != 0:
            return []
        found = []
        if self._settings.security.local_transport:
            found.append(
                "running as root with OPSJOBS_LOCAL_TRANSPORT=on: "
                "callers with targets:manage and jobs:execute (or commands:run) run commands as "
                f"root on this machine and can read all keys in {self.options.data_dir}. "
                "Run it as a user of its own."
            )
        if self.options.lab or self.options.lab_windows:
            found.append(
                "running a lab as root: callers with jobs:execute (or commands:run) run commands "
                "as root on this machine. Use it for trials only, or run it as another user."
            )
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything; return when the API reports that it is ready."""
        for count in (self.options.lab, self.options.lab_windows):
            if not 0 <= count <= LAB_MACHINES_MAX:
                raise Refusal(
                    "lab_too_large",
                    f"A lab has at most {LAB_MACHINES_MAX} machines: {count} are too many.",
                )
        self._folder.acquire()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything: first API, worker and scheduler, then the lab, the database last."""
        if self._collector.is_running:
            self._collector.write("up", "service_stopping")
        self._supervisor.stop(self._services)
        self._supervisor.stop(self._lab)
        self._supervisor.stop()
        self._collector.stop()
        self._folder.release()

    def hurry(self) -> None:
        """Stop waiting for processes that were asked to end. Safe in a signal handler."""
        self._supervisor.hurry()

    def _start(self) -> None:
        port = _free_port(self.options.host, self.options.port)
        self._check_metrics_ports()
        if not self._database_url:
            self._folder.refuse_half_restored()
        self._folder.make_secrets(keys=not self._settings.security.encryption_keys)
        self._collector.start()
        self._start_servers()
        self._prepare()
        host = _LOOPBACK.get(self.options.host, self.options.host)
        self._start_services(port)
        self._wait_until_ready(host, port)
        self._collector.write("up", "service_ready")
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._folder.publish_endpoint(self.url)

    def _start_servers(self) -> None:
        processes = []
        if not self._database_url:
            processes.append(SupervisedProcess("postgres", self._start_postgres, _SERVER))
            self._servers.append("postgres")
        if not self._redis_url:
            processes.append(SupervisedProcess("valkey", self._start_valkey))
            self._servers.append("valkey")
        if self.options.lab:
            processes.append(SupervisedProcess("lab", self._start_lab))
            self._lab.append("lab")
        if self.options.lab_windows:
            processes.append(SupervisedProcess("lab-windows", self._start_windows_lab))
            self._lab.append("lab-windows")
        self._supervisor.start(processes)

    def _start_postgres(self) -> subprocess.Popen[bytes]:
        server = Postgres(self._folder.path, log=self._collector.log("postgres", PostgresLines))
        self._database_url = server.start()
        assert server.process is not None
        return server.process

    def _start_valkey(self) -> subprocess.Popen[bytes]:
        server = Valkey(self._folder.path, log=self._collector.log("valkey", ValkeyLines))
        self._redis_url = server.start()
        assert server.process is not None
        return server.process

    def _start_lab(self) -> subprocess.Popen[bytes]:
        folder = LabFolder(self._folder.lab)
        return self._start_machines("lab", "lab.machines", folder, self.options.lab)

    def _start_windows_lab(self) -> subprocess.Popen[bytes]:
        folder, count = LabFolder(self._folder.lab).windows, self.options.lab_windows
        return self._start_machines("lab-windows", "lab.wsman.machines", folder, count)

    def _start_machines(
        self, name: str, module: str, folder: LabFolder, count: int
    ) -> subprocess.Popen[bytes]:
        """Start the machines of a lab; return when all of them listen. Raises Unavailable."""
        module = f"opsjobs.standalone.{module}"
        command = [sys.executable, "-m", module, str(folder.path), str(count)]
        environment = {**bare_environment(), **_python_path(self.options.environment)}
        log = self._collector.log(name)
        process = spawn(command, log=log, environment=environment)
        deadline = time.monotonic() + LAB_SECONDS
        while (record := folder.read()) is None or record.pid != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise Unavailable(f"The lab does not start: {log.last_error()}")
            time.sleep(0.01)
        return process

    def _prepare(self) -> None:
        flags = [OWN_DATABASE] * ("postgres" in self._servers)
        flags += [WITH_LAB] * bool(self.options.lab)
        flags += [WITH_WINDOWS_LAB] * bool(self.options.lab_windows)
        self._run_helper("prepare", str(self._folder.path), *flags)

    def _run_helper(self, name: str, *arguments: str) -> None:
        run_helper(
            name,
            *arguments,
            environment=self._environment(),
            log=self._folder.logs / f"{name}.log",
            write=lambda text: self._collector.write(name, text, level="error"),
        )

    def _report_trouble(self, line: str) -> None:
        """Report what the supervisor noticed, and write it to the log."""
        self._collector.write("up", line, level="warning")
        self._report(line)

    def _start_services(self, port: int) -> None:
        workers = [f"worker-{n}" for n in range(1, self.options.worker_processes + 1)]
        names = ["api", *workers, "scheduler"]
        self._services = names
        address = {"OPSJOBS_API_HOST": self.options.host, "OPSJOBS_API_PORT": str(port)}
        self._supervisor.start(
            [
                SupervisedProcess(
                    name,
                    self._start_service(name, number, address),
                    died=self._on_worker_death(name),
                    signals=self._signals(),
                )
                for number, name in enumerate(names)
            ]
        )

    def _start_service(
        self, name: str, number: int, address: Mapping[str, str]
    ) -> Callable[[], subprocess.Popen[bytes]]:
        """Return a function that starts `opsjobs api`, `opsjobs worker` or `opsjobs scheduler`."""

        def start() -> subprocess.Popen[bytes]:
            environment = {**self._environment(), **address}
            base = self._settings.telemetry.metrics_port
            if base is not None:
                environment["OPSJOBS_METRICS_PORT"] = str(base + number)
            command = [sys.executable, "-m", "opsjobs", name.partition("-")[0]]
            process = spawn(command, log=self._collector.log(name), environment=environment)
            if name.startswith("worker"):
                self._folder.record_worker(_worker_name(process.pid))
            return process

        return start

    def _signals(self) -> tuple[tuple[signal.Signals, float], ...]:
        # A worker lets commands continue during its drain, and then needs time to record how
        # they ended.
        return (
            (signal.SIGTERM, self._settings.worker.drain_seconds + WORKER_ENDS_SECONDS),
            (signal.SIGKILL, 5.0),
        )

    def _on_worker_death(self, name: str) -> Callable[[int], None] | None:
        if not name.startswith("worker"):
            return None
        return lambda pid: self._run_helper("reap_worker", _worker_name(pid))

    def _environment(self) -> dict[str, str]:
        """Return the environment of all processes: the caller's, with the stack's additions."""
        ours = {
            "OPSJOBS_DATABASE_URL": self._database_url,
            "OPSJOBS_REDIS_URL": self._redis_url or "",
            "OPSJOBS_DATA_DIR": str(self._folder.path),
        }
        inherited = {k: v for k, v in self.options.environment.items() if k not in _REPLACED}
        if not self._settings.security.encryption_keys:
            ours["OPSJOBS_ENCRYPTION_KEYS_FILE"] = str(self._folder.keys)
        return {**inherited, **_python_path(self.options.environment), **ours}

    def _check_metrics_ports(self) -> None:
        base, host = self._settings.telemetry.metrics_port, self._settings.telemetry.metrics_host
        for number in range(self.options.worker_processes + 2 if base is not None else 0):
            assert base is not None
            _free_port(host, base + number, "METRICS_PORT (one for each process, counting up)")

    def _wait_until_ready(self, host: str, port: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(host, port):
            for name in self._services:
                if self._supervisor.deaths(name) >= DEATHS_AT_START:
                    log = self._collector.log(name)
                    raise Unavailable(
                        f"{name} does not start: {log.last_error()} (more in {log.path})"
                    )
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"The API is not ready after {READY_SECONDS:.0f} seconds: "
                    f"see {self._collector.log('api').path}"
                )
            time.sleep(0.05)


_REPLACED = frozenset(
    {
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "OPSJOBS_DATABASE_URL_FILE",
        "REDIS_URL",
        "REDIS_URL_FILE",
        "OPSJOBS_REDIS_URL_FILE",
    }
)


def _python_path(environment: Mapping[str, str]) -> dict[str, str]:
    return {"PYTHONPATH": environment["PYTHONPATH"]} if "PYTHONPATH" in environment else {}


def _worker_name(pid: int) -> str:
    """Return the name under which `composition.worker` registers a worker process."""
    return f"{socket.gethostname()}-{pid}"


def _free_port(host: str, port: int, setting: str = "--port") -> int:
    """Return the port, or a free one for 0. Raises Refusal if another process listens there."""
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                found: int = probe.getsockname()[1]
                return found
        except OSError as error:
            if time.monotonic() > deadline or port == 0:
                raise Refusal(
                    "port_taken",
                    f"Port {port} on {host} cannot be used ({error.strerror or error}): "
                    f"end what listens there, or choose another with {setting}.",
                ) from None
            time.sleep(0.05)


def _answers(host: str, port: int) -> bool:
    # Without http.client, which would load OpenSSL into `up` for this one status line.
    try:
        with (
            socket.create_connection((host, port), timeout=2) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(
                b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return answer.readline(STATUS_BYTES_MAX).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False
