"""The whole service as processes of its own, which a test may kill, freeze, end and restart."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psycopg
from psycopg.rows import DictRow, dict_row

from e2e.processes import SECONDS, Json, Latch, ServiceProcess, still_running, wait_until
from kit import backing_servers
from kit.invariants import Invariants
from kit.ports import free_port
from kit.sshd import Sshd, sshd
from kit.start_witness import Witness
from opsjobs.standalone.postgres import Postgres
from opsjobs.standalone.spawn import bare_environment, spawn
from opsjobs.standalone.valkey import Valkey
from opsjobs.store.migrations import runner

LEASE_SECONDS = 3
CONCURRENCY = 24
TOKEN = "opsc_" + "e2e" * 12
MACHINES = 200
# A server listens on at most 16 addresses, so 200 machines are 13 servers.
ADDRESSES_A_SERVER = 16
WORKERS = ("worker-1", "worker-2")
_SETTINGS = {
    "OPSJOBS_ADMIN_TOKEN": TOKEN,
    "ENCRYPTION_KEYS": backing_servers.AUDIT_KEY.reveal(),
    "OPSJOBS_LEASE_SECONDS": str(LEASE_SECONDS),
    "OPSJOBS_CONCURRENCY": str(CONCURRENCY),
    # So long that none has ended before its test has looked, however slow the machine is.
    "OPSJOBS_DRAIN_SECONDS": "90",
    "OPSJOBS_OUTPUT_LIMIT_BYTES": "64MiB",
    "CONNECTION_TIMEOUT": "90s",
    # Their commands would need approvals: shells in shells, kills, files that are written and run.
    "ENABLE_SAFETY_CHECKS": "off",
}

_AWAY = re.compile(r"PostgreSQL does not answer|Cannot connect to redis")
_LOUD = re.compile(r'"level": "(error|critical)"')


@dataclass
class Cluster:
    """The service and its machines web-1 … web-200, all with the credential `fleet`."""

    folder: Path
    postgres: Postgres
    valkey: Valkey
    witness: Witness
    machines: Sequence[Sshd]
    invariants: Invariants = field(init=False)
    running: dict[str, ServiceProcess] = field(default_factory=dict)
    port: int = 0
    _starts: int = 0
    _latches: list[Latch] = field(default_factory=list)
    _read_up_to: dict[Path, int] = field(default_factory=dict)
    _connection: psycopg.Connection[DictRow] | None = None

    def __post_init__(self) -> None:
        self.invariants = Invariants(lambda: self.postgres.url, self.witness)
        self.port = free_port()
        self.http = self.client()

    # The service.

    @property
    def url(self) -> str:
        """The URL of the API, even while it is down."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[ServiceProcess]:
        """Both workers."""
        return [self.running[name] for name in WORKERS]

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every process."""
        return {
            **bare_environment(),
            **_SETTINGS,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "OPSJOBS_API_PORT": str(self.port),
            "OPSJOBS_DATA_DIR": str(self.folder / "data"),
            "OPSJOBS_URL": self.url,
            "OPSJOBS_TOKEN": TOKEN,
        }

    def start(self, *names: str, **settings: str) -> None:
        """Start these processes and return once they work."""
        for name in names:
            self._starts += 1
            log = self.folder / f"{name}.{self._starts}.log"
            command = [sys.executable, "-m", "opsjobs", name.partition("-")[0]]
            process = spawn(command, log=log, environment={**self.environment, **settings})
            self.running[name] = ServiceProcess(name, process, log)
        for name in names:
            self._wait_for(self.running[name])

    def heal(self) -> None:
        """Restart everything that a test has ended."""
        for process in self.running.values():
            if process.frozen and process.alive:
                process.thaw()
        if not self.postgres.running:
            self.postgres.start()
        if not self.valkey.running:
            self.valkey.start()
        self.start(
            *(
                name
                for name in ("api", *WORKERS, "scheduler")
                if name not in self.running or not self.running[name].alive
            )
        )

    def complaints(self) -> list[str]:
        """Return errors that processes have logged since the last call: bugs of ours.

        Those about servers that were stopped are left out.
        """
        found = []
        for log in sorted(p for p in self.folder.glob("*.log") if p.name != "valkey.log"):
            with log.open("rb") as file:
                file.seek(self._read_up_to.get(log, 0))
                portion = file.read()
            whole = portion[: portion.rfind(b"\n") + 1]  # the last line may still be on its way
            self._read_up_to[log] = self._read_up_to.get(log, 0) + len(whole)
            lines = whole.decode(errors="replace").splitlines()
            loud = (line for line in lines if not line.startswith("{") or _LOUD.search(line))
            found += [f"{log.name}: {line[:3000]}" for line in loud if not _AWAY.search(line)]
        return found

    def settle(self, seconds: float = SECONDS) -> None:
        """Wait until every execution has ended and its events were published."""
        open_ones = "select id from job_executions where finished_at is null"
        wait_until(lambda: not self.rows(open_ones), "every execution ends", seconds)
        wait_until(
            lambda: not self.rows("select 1 from events where published_at is null limit 1"),
            "every event is published",
            seconds,
        )

    def sweep(self) -> None:
        """End commands that nothing awaits any more: those of lost runs."""
        for pid in still_running(*self.invariants.marks.values()):
            with suppress(ProcessLookupError):
                if (group := os.getpgid(pid)) != os.getpgid(0):
                    os.killpg(group, signal.SIGKILL)

    def stop(self) -> None:
        """End all of it at once."""
        self.http.close()
        if self._connection is not None:
            self._connection.close()
        self.sweep()
        for latch in self._latches:
            latch.close()
        for process in self.running.values():
            if process.alive:
                process.kill()

    def _wait_for(self, started: ServiceProcess) -> None:
        def ready_or_dead() -> bool:
            assert started.alive, (
                f"{started.name} ended: {started.log.read_text(errors='replace')[-2000:]}"
            )
            if started.name == "api":
                return self._api_is_ready()
            return started.name.startswith("scheduler") or self._is_registered(started)

        wait_until(ready_or_dead, f"{started.name} works")

    def _api_is_ready(self) -> bool:
        try:
            # the token arrives a moment after the readiness
            return (
                self.http.get("/readyz").status_code == 200
                and self.http.get("/targets").status_code == 200
            )
        except httpx2.TransportError:
            return False

    def _is_registered(self, worker: ServiceProcess) -> bool:
        return bool(
            self.rows("select 1 from workers where name = %s and buried_at is null", worker.title)
        )

    # Requests of a caller.

    def client(self) -> httpx2.Client:
        """The admin's HTTP client."""
        return httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=SECONDS,
            trust_env=False,
        )

    def post(self, path: str, body: Json, expect: int | None = None, **headers: str) -> Json:
        """Return the response to a POST, which must succeed (or have the status `expect`)."""
        answer = self.http.post(path, json=body, headers=headers)
        assert answer.status_code == expect if expect else answer.is_success, answer.text
        return dict(answer.json())

    def get(self, path: str, **query: Any) -> Json:
        """Return the response to a GET, which must succeed.

        After a 503 or 429 the request is repeated, as the response asks.
        """
        answers: list[httpx2.Response] = []

        def answered() -> bool:
            answers.append(self.http.get(path, params=query))
            return answers[-1].status_code != 503

        wait_until(answered, f"an answer to GET {path}")
        assert answers[-1].is_success, answers[-1].text
        return dict(answers[-1].json())

    def run(
        self,
        command: str,
        targets: Sequence[str],
        *,
        max_parallel: int | None = None,
        witnessed: bool = True,
        **action: Any,
    ) -> int:
        """Launch a command on these targets; return the execution's id.

        If it is `witnessed`, `$3` is the machine's address in it.
        """
        mark = f"e{len(self.invariants.marks) + 1}-{os.getpid()}"
        body: Json = {
            "actions": [
                {
                    "type": "command",
                    "command": self.witness.on_each(mark, command) if witnessed else command,
                    **action,
                }
            ],
            "targets": {"ids": list(targets)},
            "policy": {"max_parallel": max_parallel} if max_parallel else {},
        }
        execution = int(self.post("/run", body, 202)["id"])
        if witnessed:
            self.invariants.marks[execution] = mark
        return execution

    def runs(self, execution: int) -> list[Json]:
        """Return its target runs, in the order of launch."""
        found: list[Json] = []
        cursor: str | None = None
        while True:
            page = self.get(
                f"/executions/{execution}/targets",
                limit=200,
                **({"cursor": cursor} if cursor else {}),
            )
            found += page["items"]
            if (cursor := page["next"]) is None:
                return found

    def results(self, execution: int) -> list[Json]:
        """Return the first 200 results."""
        return list(self.get(f"/executions/{execution}/results", limit=200)["items"])

    def output(self, execution: int, target: str, stream: str = "stdout") -> bytes:
        """Return the bytes of a stream, as they are downloaded."""
        query = {"format": "text", "target": target, "stream": stream}
        answer = self.http.get(f"/executions/{execution}/log", params=query)
        assert answer.is_success, answer.text
        return answer.content

    def started(self, execution: int, count: int) -> None:
        """Wait until so many of its commands have started on their machines."""
        mark = self.invariants.marks[execution]

        def enough() -> bool:
            lines = self.witness.path.read_text().splitlines()
            return len({line.split()[0] for line in lines if line.startswith(f"{mark}.")}) >= count

        wait_until(enough, f"{count} commands of execution {execution} have started")

    def ended(self, execution: int, seconds: float = SECONDS) -> Json:
        """Wait for its end."""
        query = "select finished_at from job_executions where id = %s"
        try:
            wait_until(
                lambda: self.rows(query, execution)[0]["finished_at"] is not None,
                f"the end of execution {execution}",
                seconds,
            )
        except AssertionError as late:
            counts = self.rows(
                "select status, waiting_for, worker, count(*) from target_runs where execution_id = %s group by 1, 2, 3",
                execution,
            )
            raise AssertionError(f"{late}: {counts}") from None
        return self.get(f"/executions/{execution}")

    def rows(self, query: str, *values: Any) -> list[DictRow]:
        """Return rows of the database."""
        if self._connection is not None:
            with suppress(psycopg.OperationalError):  # the server was down in the meantime
                return self._connection.execute(query.encode(), values).fetchall()
        self._connection = psycopg.connect(self.postgres.url, autocommit=True, row_factory=dict_row)
        return self._connection.execute(query.encode(), values).fetchall()

    def latch(self) -> Latch:
        """Return a name that no other test uses."""
        self._latches.append(Latch(self.witness.path.with_name(f"latch-{len(self._latches)}")))
        return self._latches[-1]

    # Machines.

    def names(self, first: int, last: int) -> list[str]:
        """Return the names web-<first> … web-<last>."""
        return [f"web-{n}" for n in range(first, last + 1)]

    def add_target(
        self, name: str, host: str, port: int, host_keys: Sequence[str] = (), **more: Any
    ) -> str:
        """Add a machine as a target; return its name."""
        body = {
            "name": name,
            "host": host,
            "port": port,
            "credential": "fleet",
            "host_keys": list(host_keys),
            **more,
        }
        self.post("/targets", body, 201)
        return name

    def furnish(self) -> None:
        """Add the whole fleet as targets."""
        login = {
            "type": "ssh_key",
            "username": self.machines[0].user,
            "private_key": self.machines[0].private_key,
        }
        self.post("/credentials", {"name": "fleet", **login}, 201)
        for number, (server, address) in enumerate(
            [(s, a) for s in self.machines for a in s.addresses], start=1
        ):
            self.add_target(f"web-{number}", address, server.port, server.host_keys)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a service with its fleet until the block ends."""
    with ExitStack() as stack:
        found = start_cluster(stack, fleet(stack))
        found.furnish()
        yield found


H = TypeVar("H", bound=Cluster)


def start_cluster(stack: ExitStack, machines: Sequence[Sshd], kind: type[H] = Cluster) -> H:  # type: ignore[assignment]
    """Run a service without targets until the stack is closed."""
    folder = stack.enter_context(backing_servers.open_folder())
    postgres = stack.enter_context(backing_servers.postgres())
    runner.upgrade(postgres.url, [backing_servers.AUDIT_KEY])
    valkey = backing_servers.make_valkey(folder)
    stack.callback(valkey.stop)
    valkey.start()
    found = kind(
        folder,
        postgres,
        valkey,
        Witness(stack.enter_context(backing_servers.open_folder())),
        machines,
    )
    stack.callback(found.stop)
    found.heal()
    return found


def fleet(stack: ExitStack) -> list[Sshd]:
    """Run servers on 200 loopback addresses, with one key to log in."""
    addresses = [f"127.0.{100 + n // 200}.{1 + n % 200}" for n in range(MACHINES)]
    shares = [
        addresses[at : at + ADDRESSES_A_SERVER] for at in range(0, MACHINES, ADDRESSES_A_SERVER)
    ]
    found = [stack.enter_context(machines(share)) for share in shares]
    for server in found[1:]:
        authorize_login(server, found[0])
    return found


@contextmanager
def machines(addresses: Sequence[str]) -> Iterator[Sshd]:
    """Run a server on these addresses, with one host key."""
    with sshd(addresses=addresses, host_key_types=("ed25519",)) as server:
        yield server


def authorize_login(server: Sshd, owner: Sshd) -> None:
    """Let the key of another server's user log in here."""
    server.authorize(server.user, (owner.folder / "login.pub").read_text().strip())
