"""A cluster to break: real processes and servers, machines that can be switched off, a network that can be cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg

from chaos import long_text_work, long_texts
from chaos.long_text_work import LongTextWork
from chaos.machines import IS_ROOT, Machine, keep_mounts_to_ourselves, machines
from chaos.network import Network
from chaos.windows import LOGIN, PORT, WindowsHosts
from chaos.work import Nasty
from e2e.cluster import WORKERS, Cluster
from e2e.processes import ServiceProcess, still_running, wait_until
from kit import backing_servers
from kit.backing_servers import AUDIT_KEY, open_folder
from kit.postgres_proxy import ROLE, parts_of
from kit.start_witness import Witness
from kit.tcp_proxy import Proxy
from opsjobs.settings import names as settings
from opsjobs.standalone.postgres import Postgres
from opsjobs.standalone.spawn import spawn
from opsjobs.standalone.valkey import Valkey
from opsjobs.store.migrations import runner

MACHINES, ADDRESSES_A_MACHINE = 4, 12
WINDOWS_HOSTS = 5
"""One host for each kind of work in `work.mixture`."""
SLOTS = 3
POSTGRES_MIB = 768
HALVES = ("first", "second")
"""The values of the label `half`; half of all targets have each of them."""
# A machine reports its uptime in whole seconds, and two more are for clocks (docs/decisions/0048).
BOOT_SECONDS = 6.0
PROCESSES = ("api", *WORKERS, "scheduler")
_MORE_SETTINGS = {
    "OPSJOBS_CONCURRENCY": "30",
    "OPSJOBS_REATTACH_WINDOW": "60s",
    "CONNECTION_TIMEOUT": "10s",
}


class ChaosCluster(Cluster):
    """A cluster whose machines, network and servers break on request; targets are `name_of` their address."""

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        valkey: Valkey,
        witness: Witness,
        fleet: list[Machine],
        windows: WindowsHosts,
        network: Network,
    ) -> None:
        self.fleet = fleet
        self.windows = windows
        self.network = network
        self.nasty = Nasty(witness.path.parent, "nasty")
        self.long_texts = LongTextWork(witness.path.parent, self.name_of)
        self._armed: set[str] = set()
        super().__init__(folder, postgres, valkey, witness, [machine.server for machine in fleet])

    @property
    def environment(self) -> dict[str, str]:
        """Return those settings that this release knows."""
        return {
            **super().environment,
            **{name: text for name, text in _MORE_SETTINGS.items() if name in settings()},
        }

    @property
    def addresses(self) -> list[str]:
        """The addresses of all targets."""
        return [address for machine in self.fleet for address in machine.addresses]

    def name_of(self, address: str) -> str:
        """Return the target's name."""
        return long_texts.name(f"web-{address.replace('.', '-')}")

    def machine_of(self, address: str) -> Machine:
        """Return the machine behind it."""
        return next(machine for machine in self.fleet if address in machine.addresses)

    def furnish(self) -> None:
        """Add the fleet as targets, through the proxies."""
        first = self.fleet[0].server
        login = {"type": "ssh_key", "username": first.user, "private_key": first.private_key}
        self.post("/credentials", {"name": "fleet", **login}, 201)
        for number, address in enumerate(self.addresses):
            machine = self.machine_of(address)
            port = self.network.proxies[address].port
            labels = {**long_text_work.labels(), "half": HALVES[number % 2]}
            more = {"slots": SLOTS, "labels": labels, "groups": long_text_work.groups()}
            self.add_target(self.name_of(address), address, port, machine.server.host_keys, **more)
        self.post("/credentials", {"name": "windows", **LOGIN}, 201)
        for address in self.windows.addresses:
            way = {"transport": "winrm", "winrm": {"scheme": "http"}, "credential": "windows"}
            port = self.network.proxies[address].port
            self.add_target(self.name_of(address), address, port, slots=SLOTS, **way)

    def forget_circuits(self) -> None:
        """Close all circuits: the effects of a fault do not count against the next one."""
        for row in self.rows("select distinct target_id from circuits where state <> 'closed'"):
            self.post(f"/circuits/{row['target_id']}/reset", {}, 200)

    def let_boots_pass(self) -> None:
        """Wait until no machine has just booted.

        A run that is claimed within seconds of a boot cannot be distinguished from an earlier one.
        """
        last = max(machine.booted_at for machine in self.fleet)
        time.sleep(max(0.0, last + BOOT_SECONDS - time.monotonic()))

    # Our processes.

    def spawn(self, name: str, **settings: str) -> ServiceProcess:
        """Start a process, without waiting for it."""
        self._starts += 1
        log = self.folder / f"{name}.{self._starts}.log"
        command = [sys.executable, "-m", "opsjobs", name.partition("-")[0]]
        started = ServiceProcess(
            name, spawn(command, log=log, environment={**self.environment, **settings}), log
        )
        self.running[name] = started
        return started

    def arm(self, name: str, failpoint: str) -> None:
        """Restart it with these failpoints; return when it works, or has died of one already."""
        if self.running[name].alive:
            self.running[name].kill()
        self._armed.add(name)
        started = self.spawn(name, OPSJOBS_FAILPOINT=failpoint)
        wait_until(lambda: not started.alive or self._works(started), f"{name} works or is dead")

    def reach_postgres_by_proxy(self, *names: str) -> Proxy:
        """Restart these processes (without any: all) with a proxy to PostgreSQL; return the proxy.

        They use it until everything is healed.
        """
        folder, database = parts_of(self.postgres.url)
        way = self.network.database(folder)
        self.restart(
            *(names or PROCESSES),
            DATABASE_URL=f"postgresql://{ROLE}@127.0.0.1:{way.port}/{database}?sslmode=disable",
        )
        return way

    def restart(self, *names: str, **settings: str) -> None:
        """Restart these processes with these settings, until everything is healed.

        Returns when they work.
        """
        for name in names:
            if self.running[name].alive:
                self.running[name].kill()
            self._armed.add(name)
            self.spawn(name, **settings)
        for name in names:
            started = self.running[name]
            wait_until(lambda started=started: self._works(started), f"{name} works")

    def step_clock(self, seconds: float) -> None:
        """Move PostgreSQL's clock, which leases and deadlines use, by this much."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(
                "update opsjobs_clock set shift = make_interval(secs => %s)", [seconds]
            )

    def revive(self, name: str) -> None:
        """Restart it if it is dead, as a service manager does."""
        if not self.running[name].alive:
            self._armed.discard(name)
            self.spawn(name)

    def heal(self) -> None:
        """Heal everything: restart dead processes, thaw frozen ones, remove failpoints."""
        for name in self._armed:
            if self.running[name].alive:
                self.running[name].kill()
        self._armed.clear()
        self.network.heal()
        self.windows.heal()
        for machine in self.fleet:
            machine.heal()
        for server in (self.postgres, self.valkey):
            self.thaw(server)
        super().heal()
        self.set_read_only(False)
        self.step_clock(0)
        wait_until(self._api_is_ready, "the API is ready")

    def _works(self, started: ServiceProcess) -> bool:
        with suppress(psycopg.Error):
            if started.name == "api":
                return self._api_is_ready()
            return started.name == "scheduler" or self._is_registered(started)
        return False

    def sweep_up(self, marks: Sequence[str]) -> None:
        """End commands that nothing awaits any more, and free disk space."""
        for machine in self.fleet:
            for pid in machine.durable_processes():
                _send(pid, signal.SIGKILL)
            machine.forget_output()
        for pid in self.windows.processes():
            _send(pid, signal.SIGKILL)
        for mark in marks:
            for pid in still_running(f"{mark}-"):
                _send(pid, signal.SIGKILL)

    # Servers.

    def kill_server(self, server: Postgres | Valkey) -> None:
        """Kill it, like a crash; `heal` starts it again."""
        if server.process is not None:
            server.process.kill()
            server.process.wait()

    def freeze(self, server: Postgres | Valkey) -> None:
        """Freeze it: it does nothing, and its connections stay open."""
        for pid in _family(server):
            _send(pid, signal.SIGSTOP)

    def thaw(self, server: Postgres | Valkey) -> None:
        """Let it continue."""
        for pid in _family(server):
            _send(pid, signal.SIGCONT)

    def set_read_only(self, on: bool) -> None:
        """Let PostgreSQL refuse writes in every session from now on, or accept them again."""
        with psycopg.connect(
            self.postgres.url, autocommit=True, options="-c default_transaction_read_only=off"
        ) as connection:
            shown = connection.execute(
                "select count(*) from pg_file_settings where name = 'default_transaction_read_only'"
            ).fetchone()
            assert shown is not None
            if on or shown[0]:
                order = (
                    "set default_transaction_read_only = on"
                    if on
                    else "reset default_transaction_read_only"
                )
                connection.execute(f"alter system {order}")
                connection.execute("select pg_reload_conf()")

    def kill_a_backend(self) -> bool:
        """Kill one PostgreSQL session, after which PostgreSQL restarts itself.

        Returns whether there was one.
        """
        backends = "select pid from pg_stat_activity where application_name like 'opsjobs%%' order by random() limit 1"
        found = self.rows(backends)
        for row in found:
            _send(int(row["pid"]), signal.SIGKILL)
        return bool(found)

    @property
    def postgres_filler(self) -> Path:
        """A file that fills PostgreSQL's disk, if it has one of its own."""
        return self.postgres._home / "filler"

    def fill_postgres_disk(self) -> None:
        """Fill the disk to the last block."""
        assert IS_ROOT
        with suppress(OSError), self.postgres_filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free_postgres_disk(self) -> None:
        """Free the space again."""
        self.postgres_filler.unlink(missing_ok=True)


def _family(server: Postgres | Valkey) -> list[int]:
    if server.process is None or server.process.poll() is not None:
        return []
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def _send(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, what)


@contextmanager
def chaos_cluster() -> Iterator[ChaosCluster]:
    """Run a service with its fleet until the block ends."""
    keep_mounts_to_ourselves()
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        postgres = _postgres(stack)
        runner.upgrade(postgres.url, [AUDIT_KEY])
        valkey = backing_servers.make_valkey(folder)
        stack.callback(valkey.stop)
        valkey.start()
        fleet = stack.enter_context(machines(_addresses(), stack.enter_context(open_folder())))
        windows = WindowsHosts(_windows_addresses(), stack.enter_context(open_folder()))
        stack.callback(windows.kill)
        windows.start()
        network = Network(
            [(address, machine.server.port) for machine in fleet for address in machine.addresses]
            + [(address, PORT) for address in windows.addresses]
        )
        stack.callback(network.close)
        found = ChaosCluster(
            folder,
            postgres,
            valkey,
            Witness(stack.enter_context(open_folder())),
            fleet,
            windows,
            network,
        )
        stack.callback(found.stop)
        for name in PROCESSES:
            found.spawn(name)
        for started in found.running.values():
            found._wait_for(started)
        found.furnish()
        yield found


def _addresses() -> list[list[str]]:
    """Return addresses that depend on the process, so that two clusters do not meet."""
    return [
        [f"127.{_network()}.{n}.{m}" for m in range(1, ADDRESSES_A_MACHINE + 1)]
        for n in range(1, MACHINES + 1)
    ]


def _windows_addresses() -> list[str]:
    return [f"127.{_network()}.{MACHINES + 1}.{m}" for m in range(1, WINDOWS_HOSTS + 1)]


def _network() -> int:
    return 140 + os.getpid() % 100


def _postgres(stack: ExitStack) -> Postgres:
    """Start one on a disk of its own that can be filled, if mounting is possible."""
    folder = stack.enter_context(open_folder(None if IS_ROOT else backing_servers.memory()))
    if IS_ROOT:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={POSTGRES_MIB}m,mode=755", "tmpfs", str(folder)],
            check=True,
        )
        stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=False)
    found = backing_servers.make_postgres(
        folder, {**backing_servers.CARELESS, "max_wal_size": "128MB"}
    )
    stack.callback(found.stop, 5)
    found.start()
    return found
