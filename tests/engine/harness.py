"""Harness of engine tests: real PostgreSQL, scripted machines, workers in the test's event loop.

At the end it checks what the test left behind.

async with harness(database) as on:
    on.machine("web-1").reply([Output("stdout", b"ok\\n"), Exit(0)])
    async with on.worker():
        execution = await on.ended(await on.launch("uptime", 3))
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from structlog.testing import capture_logs

from kit.allow_everything import as_administrator
from kit.fake_remote import FakeMachine, FakeSessions
from kit.ledger_fixtures import faults
from opsjobs import failpoints
from opsjobs.bus import Bus
from opsjobs.clock import Clock, SystemClock
from opsjobs.engine.launching.approval_service import ApprovalService
from opsjobs.engine.launching.launch import Launcher, LaunchLimits
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.engine.launching.target_pinning import PinCheck
from opsjobs.engine.loop import Loop
from opsjobs.engine.runs.child_executions import ChildExecutions
from opsjobs.engine.runs.run_tools import RunLimits, TransferTools
from opsjobs.engine.runs.upload_source import ChunkCache
from opsjobs.engine.worker.worker import Worker, WorkerOptions, WorkerTools
from opsjobs.model.access import Reach
from opsjobs.model.errors import Invalid, Unavailable
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import CommandAction, LaunchOrder, Policy
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.remote.download import FindLimits
from opsjobs.remote.session import Fetch, Sessions, refuse_external
from opsjobs.store.approvals import Approvals
from opsjobs.store.blobs import Contents
from opsjobs.store.envelope import new_key
from opsjobs.store.execution_log import ExecutionLog, LogEntry
from opsjobs.store.executions import Executions
from opsjobs.store.files import Artifacts, Files
from opsjobs.store.idempotency import IdempotentRequest
from opsjobs.store.jobs import Jobs
from opsjobs.store.ledger import Ledger
from opsjobs.store.outbox import Outbox
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.workers import Lease, Workers
from opsjobs.telemetry.metrics import Metrics

SECONDS = 60.0
"""Time limit of every wait."""


async def until(condition: Callable[[], bool | Awaitable[Any]], seconds: float = SECONDS) -> None:
    """Return once the condition holds; raise AssertionError if it does not in time."""
    deadline, pause = time.monotonic() + seconds, 0.005
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"{condition} did not come true in {seconds} s"
        await asyncio.sleep(pause)
        pause = min(pause * 1.25, 0.05)


@dataclass
class InMemoryTargets:
    """An inventory in memory. `away`: endpoints cannot be read now."""

    targets: dict[str, Target] = field(default_factory=dict)
    away: bool = False

    def add(self, name: str, *, slots: int = 10, zone: str = "default") -> Target:
        """Add a machine at the first call; its id is the number in its name, or the name."""
        target = Target(
            name.removeprefix("web-"), name, "10.0.0.1", 22, Transport.SSH, slots=slots, zone=zone
        )
        return self.targets.setdefault(target.id, target)

    async def resolve(self, selection: SelectionDraft, _sight: Reach | None = None) -> list[Target]:
        """Return the targets by name or id."""
        by_name = self.targets | {target.name: target for target in self.targets.values()}
        if missing := [name for name in selection.ids if name not in by_name]:
            raise Invalid("unknown_target", f"There is no target {missing[0]!r}.")
        return [by_name[name] for name in selection.ids]

    async def count(self) -> int:
        """Return the number of targets."""
        return len(self.targets)

    async def get_many(
        self, target_ids: Sequence[str], *, strict: bool = False
    ) -> dict[str, Target]:
        """Return those that exist."""
        return {i: self.targets[i] for i in target_ids if i in self.targets}

    async def endpoints(self, target_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return their endpoints."""
        if self.away:
            raise Unavailable("the inventory is away (as scripted)")
        return {
            i: Endpoint(self.targets[i], None, self._jumps(self.targets[i]))
            for i in target_ids
            if i in self.targets
        }

    def _jumps(self, target: Target) -> tuple[Endpoint, ...]:
        return () if target.jump is None else (Endpoint(self.targets[target.jump], None),)


class Harness:
    """Everything that a worker needs, and short verbs for what tests do."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.sessions = FakeSessions(clock)
        self.targets = InMemoryTargets()
        self.vault = Vault(database, [new_key()], clock)
        self.metrics = Metrics()
        self.ledger = Ledger(database)
        self.workers = Workers(database)
        self.executions = Executions(database)
        self.jobs = Jobs(database)
        self.journal = ExecutionLog(database)
        self.contents = Contents(database)
        self.files = Files(database, clock)
        self.artifacts = Artifacts(database, clock)
        self.chunks = ChunkCache(self.contents)
        self.find_limits = FindLimits()
        self.said: Sequence[MutableMapping[str, Any]] = []
        self.notified: list[str] = []
        self.current_principal: PrincipalLookup = as_administrator
        self.wakeups: list[Callable[[], None]] = []
        self.launcher = Launcher(
            database=database,
            ledger=self.ledger,
            targets=self.targets,
            vault=self.vault,
            files=self.files,
            clock=clock,
            limits=LaunchLimits(default_parallel=50),
            notify=self.notify,
        )

    def notify(self, zone: str) -> None:
        """Wake every worker of this harness, as the notifier would."""
        self.notified.append(zone)
        for wake in self.wakeups:
            wake()

    def transfers(self) -> TransferTools:
        """Return what the transfers of a new worker share; the last cache is `self.chunks`."""
        self.chunks = ChunkCache(self.contents)
        stores = (
            self.files,
            self.contents,
            self.artifacts,
            self.chunks,
            Outbox(self.database),
            self.metrics,
        )
        return TransferTools(*stores, self.find_limits, self.current_principal)

    def machine(self, name: str) -> FakeMachine:
        """Return the scripted machine of this target, which is added to the inventory."""
        self.targets.add(name)
        return self.sessions.machine(name)

    async def launch(
        self,
        commands: str | Sequence[str | CommandAction] = "true",
        on: int | Sequence[str] = 1,
        *,
        idem: IdempotentRequest | None = None,
        **policy: Any,
    ) -> Execution:
        """Start these commands (step-1, step-2 …) on web-1, web-2 … or on machines by name.

        They are run directly, unless the policy sets `durable`.
        """
        policy.setdefault("durable", "off")
        names = [f"web-{n}" for n in range(1, on + 1)] if isinstance(on, int) else on
        for name in names:
            self.targets.add(name)
        launched = await self.launcher.launch(
            LaunchOrder(
                _actions(commands), SelectionDraft(ids=list(names)), Policy(**policy), "ad-hoc"
            ),
            triggered_by=TriggeredBy.API,
            requested_by=Identity("api_key", "ada"),
            idem=idem,
        )
        assert launched.execution is not None
        return launched.execution

    @asynccontextmanager
    async def worker(
        self,
        name: str = "worker-1",
        *,
        concurrency: int = 200,
        lease_seconds: float = 15.0,
        poll_seconds: float = 0.05,
        drain_seconds: float = 0.5,
        hears_bells: bool = True,
        zone: str = "default",
        limits: RunLimits | None = None,
        sessions: Sessions | None = None,
        bus: Bus | None = None,
        ledger: Ledger | None = None,
        background: Sequence[Loop] = (),
        fetch: Fetch = refuse_external,
    ) -> AsyncIterator[Worker]:
        """Run a worker, and stop it after the block unless the test did."""
        options = WorkerOptions(name, zone, concurrency, lease_seconds, poll_seconds, drain_seconds)
        tools = WorkerTools(
            ledger=ledger or self.ledger,
            workers=self.workers,
            lease=lambda life: Lease(self.database.options.url, life, lease_seconds=lease_seconds),
            targets=self.targets,
            vault=self.vault,
            sessions=sessions or self.sessions,
            bus=bus or Bus(None, self.metrics),
            clock=self.clock,
            metrics=self.metrics,
            limits=limits or RunLimits(kill_grace_seconds=0.3),
            transfers=self.transfers(),
            child_executions=ChildExecutions(
                self.launcher, self.jobs, self.executions, self.current_principal
            ),
            approvals=ApprovalService(
                Approvals(self.database), self.ledger, self.targets, self.vault
            ),
            pin_check=PinCheck(self.launcher.safety),
            notify=self.notify,
            fetch=fetch,
        )
        worker = Worker(options, tools, background)
        await worker.start()
        if hears_bells:
            self.wakeups.append(worker.wake)
        try:
            yield worker
        finally:
            await worker.stop()

    async def ended(self, execution: Execution, seconds: float = SECONDS) -> Execution:
        """Wait for the end of the execution and return it."""

        async def over() -> bool:
            return (await self.executions.get(execution.id)).finished_at is not None

        await until(over, seconds)
        return await self.executions.get(execution.id)

    async def run(
        self,
        commands: str | Sequence[str | CommandAction] = "true",
        on: int | Sequence[str] = 1,
        **policy: Any,
    ) -> Execution:
        """Launch, and wait for the end."""
        return await self.ended(await self.launch(commands, on, **policy))

    async def cancel(self, execution: Execution) -> None:
        """Request the cancellation of the execution."""
        await self.ledger.cancel(execution.id, by="ben", reason=None)

    async def cancel_runs(self, execution: Execution, *targets: str) -> Sequence[int]:
        """Request the cancellation of these targets; return the ids of runs that are running."""
        asked = await self.ledger.cancel_runs(execution.id, targets, by="ben", reason=None)
        return asked.stopping

    async def bury(self, name: str = "worker-1") -> None:
        """Expire the lease of a worker."""
        assert await self.workers.reap(name) >= 1

    async def turn(self, seconds: float) -> None:
        """Advance the clock that processes agree on."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
            )

    async def rows(self, execution: Execution) -> list[dict[str, Any]]:
        """Return the rows of its target runs."""
        return await self.database.fetch(
            "select * from target_runs where execution_id = %s order by position", [execution.id]
        )

    async def row(self, execution: Execution) -> dict[str, Any]:
        """Return the row of its only target run."""
        (row,) = await self.rows(execution)
        return row

    async def claimed(self, execution: Execution) -> bool:
        """Return whether all of its runs are claimed."""
        return {row["status"] for row in await self.rows(execution)} == {"running"}

    async def results(self, execution: Execution) -> list[dict[str, Any]]:
        """Return the rows of its results."""
        return await self.database.fetch(
            "select * from job_execution_results where execution_id = %s order by id",
            [execution.id],
        )

    async def log(self, execution: Execution) -> list[LogEntry]:
        """Return its whole log."""
        return await self.journal.read(execution.id, limit=100_000, max_bytes=1 << 30)

    async def output(self, execution: Execution, stream: str = "stdout") -> bytes:
        """Return the stored output of its only run."""
        return b"".join(e.data or b"" for e in await self.log(execution) if e.stream == stream)

    async def running(self, machine: FakeMachine, count: int = 1) -> None:
        """Wait until that many commands have started there."""
        await until(lambda: len(machine.starts) >= count)

    @property
    def bugs(self) -> dict[str, float]:
        """Bugs that were counted, by the part that found them."""
        samples = [
            s
            for metric in self.metrics.bugs.collect()
            for s in metric.samples
            if s.name.endswith("_total")
        ]
        return {s.labels["where"]: s.value for s in samples if s.value}


@asynccontextmanager
async def harness(
    database: Database,
    clock: Clock | None = None,
    *,
    bugs: Sequence[str] = (),
    open_ends: bool = False,
) -> AsyncIterator[Harness]:
    """Yield a harness, and check at the end that nothing was left behind.

    The ledger's invariants hold, no task and no heartbeat thread is left, and no bug was counted
    except in `bugs`. `open_ends`: executions may be left that have not ended.
    """
    before = asyncio.all_tasks()
    made = Harness(database, clock or SystemClock())
    try:
        with capture_logs() as made.said:
            yield made
    finally:
        failpoints.arm("")
    assert await faults(database) == []
    assert set(made.bugs) == set(bugs), made.bugs
    if not open_ends:
        assert (
            await database.fetch("select id, status from job_executions where finished_at is null")
            == []
        )
        assert await database.fetch(_HALF_ENDED) == []
    await made.sessions.close()
    await until(lambda: _left(before) == [])
    await until(lambda: [t for t in threading.enumerate() if t.name == "opsjobs-heartbeat"] == [])


# An ended run has at least one result, and none that still runs; one of them has the status of the
# run, unless all were skipped.
_HALF_ENDED = """
select r.id, r.status, array_agg(x.status)
from target_runs r left join job_execution_results x on x.target_run_id = r.id
where r.finished_at is not null group by r.id
having count(x.id) = 0 or bool_or(x.status = 'running')
  or not (bool_or(x.status = r.status or r.status = 'dead')
    or bool_and(x.status = 'skipped' and r.status = 'succeeded'))"""


def _left(before: set[asyncio.Task[Any]]) -> list[str]:
    """Return the tasks that the test left behind.

    The tasks of the connection pool (and those that wait_for makes for it) live as long as it.
    """
    tasks = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
    names = [f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', '')}" for task in tasks]
    return [
        name
        for name in names
        if not name.startswith("pool-") and "Event.wait" not in name and "Queue.get" not in name
    ]


def _actions(commands: str | Sequence[str | CommandAction]) -> list[CommandAction]:
    given = [commands] if isinstance(commands, str) else commands
    actions = [CommandAction(command=c) if isinstance(c, str) else c for c in given]
    return [
        a.model_copy(update={"key": a.key or f"step-{n}"}) for n, a in enumerate(actions, start=1)
    ]


@asynccontextmanager
async def postgres_away(database: Database) -> AsyncIterator[None]:
    """Make PostgreSQL refuse connections to this database, and end those that exist."""
    name = (await database.fetch("select current_database() as name"))[0]["name"]
    url = database.options.url.replace(f"/{name}?", "/postgres?")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        await admin.execute(f"alter database {name} allow_connections false".encode())
        try:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
            )
            yield
        finally:
            await admin.execute(f"alter database {name} allow_connections true".encode())
