"""Several schedulers against one database whose clock a test controls.

It can be moved forward, or run sixty times as fast as all other clocks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg

from e2e.cluster import Cluster, machines, start_cluster
from e2e.processes import ServiceProcess, wait_until
from kit.sshd import needs_sshd

SCHEDULERS = tuple(f"scheduler-{n}" for n in range(1, 6))
WORKER = "worker-1"
NAMES = ("api", WORKER, *SCHEDULERS)
ADDRESSES = [f"127.0.122.{n}" for n in range(1, 5)]
TURNING_SECONDS = 0.05


class SchedulerCluster(Cluster):
    """The service with one worker and five schedulers; its machines web-1 … web-4."""

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every process.

        A lease is renewed by a process's own clock and expires by the database's: at sixty times
        the speed it has to be long.
        """
        return {**super().environment, "OPSJOBS_LEASE_SECONDS": "600"}

    @property
    def workers(self) -> list[ServiceProcess]:
        """The only worker."""
        return [self.running[WORKER]]

    @property
    def schedulers(self) -> list[ServiceProcess]:
        """All five schedulers."""
        return [self.running[name] for name in SCHEDULERS]

    def heal(self) -> None:
        """Restart everything that a test has ended."""
        if not self.valkey.running:
            self.valkey.start()
        self.heal_processes()

    def heal_processes(self) -> None:
        """All processes except Redis."""
        self.thaw(*(name for name, process in self.running.items() if process.frozen))
        self.start_dead(*NAMES)
        wait_until(
            lambda: all(process.said("beat: Starting...") for process in self.schedulers),
            "all schedulers are at work",
        )

    def start_dead(self, *names: str, **settings: str) -> None:
        """Return those of these that do not run."""
        self.start(
            *(name for name in names if name not in self.running or not self.running[name].alive),
            **settings,
        )

    # The clock.

    def now(self) -> datetime:
        """Return the time of the database's clock."""
        found: datetime = self.rows("select opsjobs_now() as now")[0]["now"]
        return found

    def shift(self) -> timedelta:
        """Return how far it was moved."""
        found: timedelta = self.rows("select shift from opsjobs_clock")[0]["shift"]
        return found

    def turn(self, interval: str) -> None:
        """Move it forward by so much at once."""
        self._execute("update opsjobs_clock set shift = shift + %s::interval", interval)

    @contextmanager
    def fast(self, factor: int) -> Iterator[None]:
        """Let the clock run so many times as fast as time until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run_fast, args=[factor, ended], daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _run_fast(self, factor: int, ended: threading.Event) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            at = time.monotonic()
            while not ended.wait(TURNING_SECONDS):
                at, before = time.monotonic(), at
                forward = (at - before) * (factor - 1)
                connection.execute(
                    "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [forward]
                )

    def _execute(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(query.encode(), values)

    # Kills.

    def kill(self, *names: str) -> None:
        """Kill it at once, frozen or not."""
        for name in names:
            self.running[name].kill()

    def freeze(self, *names: str) -> None:
        """Return those of these that are alive."""
        for name in names:
            if self.running[name].alive:
                self.running[name].freeze()

    def thaw(self, *names: str) -> None:
        """Return those of these that are alive."""
        for name in names:
            if self.running[name].alive:
                self.running[name].thaw()

    def stop_redis(self) -> None:
        """Kill it, like a crash."""
        assert self.valkey.process is not None
        self.valkey.process.kill()
        self.valkey.process.wait()


@contextmanager
def scheduler_cluster() -> Iterator[SchedulerCluster]:
    """Run the service and its machines until the block ends."""
    needs_sshd()
    with ExitStack() as stack:
        found = start_cluster(stack, [stack.enter_context(machines(ADDRESSES))], SchedulerCluster)
        found.furnish()
        # The first login is made before any clock runs fast.
        found.ended(found.run("true", found.names(1, len(ADDRESSES)), durable="off"))
        with suppress(AssertionError):
            found.complaints()
        yield found
