"""The ledger against a model of it in a dictionary: what it refuses, and what must hold after each step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kit.ledgering import NOW, faults, launch
from kit.servers import Databases
from opsjobs.model.execution import FINAL_RUN_STATUSES, RunStatus
from opsjobs.model.failures import Conflict
from opsjobs.model.target import Target, Transport
from opsjobs.store.ledger import Claimed, Flush, Ledger, LogLine, ResultState, RunMove, Settled
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Workers

T = TypeVar("T")
NAMES = ("web-1", "web-2", "web-3", "db-1")
ENDS = [s for s in FINAL_RUN_STATUSES if s not in (RunStatus.SKIPPED, RunStatus.BLOCKED)]
SECONDS = 60


@dataclass
class Worker:
    """An owner as the model knows it: what it believes to hold, and whether it was buried."""

    name: str
    id: UUID = field(default_factory=uuid4)
    buried: bool = False
    flushes: int = 0
    believes: dict[int, Claimed] = field(default_factory=dict)


class LedgerMachine(RuleBasedStateMachine):
    """`holds`: which owner and fence the ledger must have for a running run. `stored`: bytes of its only action on record.

    Rules have no preconditions: who wins a race is not Hypothesis' to repeat, so what it draws may not depend on it.
    """

    def __init__(self, databases: Databases) -> None:
        super().__init__()
        self.databases = databases
        self.name = databases.create()
        self.runner = asyncio.Runner()
        self.database = Database(DatabaseOptions(databases.url_of(self.name), connections=4))
        self.ledger = Ledger(self.database)
        self.do(self.database.open())
        self.workers: list[Worker] = []
        self.holds: dict[int, tuple[UUID, int]] = {}
        self.stored: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.executions: list[int] = []

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        """The verb's answer."""
        return self.runner.run(verb)

    def teardown(self) -> None:
        try:
            self.finish_everything()
        finally:
            self.do(self.database.close())
            self.runner.close()
            self.databases.drop(self.name)

    @initialize(window=some.integers(1, 4), slots=some.integers(1, 3), limit=some.integers(1, 8))
    def two_workers_in_the_middle_of_it(self, window: int, slots: int, limit: int) -> None:
        for number in (1, 2):
            self.do(self.hire(f"worker-{number}"))
        for timeout in (None, SECONDS):
            self.launch_on([*NAMES], slots, window, 5, timeout)
        self.claim(0, limit)

    async def hire(self, name: str) -> None:
        worker = Worker(f"{name}.{len(self.workers)}")
        await Workers(self.database).register(Incarnation(worker.id, worker.name, "default", 1, 10), lease_seconds=15)
        self.workers.append(worker)

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.buried]

    @rule(
        names=some.lists(some.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
        slots=some.integers(1, 3),
        window=some.integers(1, 4),
        priority=some.sampled_from([1, 5, 10]),
        timeout=some.sampled_from([None, None, SECONDS]),
    )
    def launch(self, names: list[str], slots: int, window: int, priority: int, timeout: int | None) -> None:
        self.launch_on(names, slots, window, priority, timeout)

    def launch_on(self, names: list[str], slots: int, window: int, priority: int, timeout: int | None) -> None:
        targets = [Target(name, name, "10.0.0.1", 22, Transport.SSH, slots=slots) for name in names]
        execution = self.do(launch(self.database, targets, window=window, priority=priority, timeout_seconds=timeout))
        self.executions.append(execution.id)

    @rule(which=some.integers(0, 9), limit=some.integers(1, 5))
    def claim(self, which: int, limit: int) -> None:
        worker = self.one_of(self.living, which)
        self.take(worker, self.do(self.claiming(worker, limit)), ours=False)

    @rule(limit=some.integers(1, 5))
    def claim_at_once(self, limit: int) -> None:
        async def both() -> list[list[Claimed]]:
            return await asyncio.gather(*(self.claiming(worker, limit) for worker in self.living[:2]))

        for worker, runs in zip(self.living[:2], self.do(both()), strict=True):
            self.take(worker, runs, ours=False)

    def one_of(self, workers: list[Worker], which: int) -> Worker:
        return workers[which % len(workers)]

    async def claiming(self, worker: Worker, limit: int) -> list[Claimed]:
        return [*(await self.ledger.claim(owner=worker.id, worker=worker.name, zone="default", limit=limit, floor=0)).runs]

    def take(self, worker: Worker, runs: list[Claimed], *, ours: bool) -> None:
        for run in runs:
            assert (run.id in self.holds) == ours, "claimed is only what nobody holds, taken over only what somebody does"
            if ours:
                owner, fence = self.holds[run.id]
                assert run.fence == fence + 1
                assert next(w for w in self.workers if w.id == owner).buried, "the living are not robbed"
            self.holds[run.id] = (worker.id, run.fence)
            worker.believes[run.id] = run

    @rule(which=some.integers(0, 9), how=some.lists(some.sampled_from([None, RunStatus.WAITING, *ENDS]), min_size=1, max_size=4))
    def settle(self, which: int, how: list[RunStatus | None]) -> None:
        """Whoever believes to hold runs says something of some of them; the dead do so, too."""
        if self.speaking:
            self.say(self.one_of(self.speaking, which), how)

    @rule(which=some.integers(0, 9), how=some.lists(some.sampled_from([None, RunStatus.WAITING, *ENDS]), min_size=1, max_size=4))
    def a_late_word(self, which: int, how: list[RunStatus | None]) -> None:
        if dead := [worker for worker in self.speaking if worker.buried]:
            self.say(self.one_of(dead, which), how)

    @property
    def speaking(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.believes]

    def say(self, worker: Worker, how: list[RunStatus | None]) -> None:
        said = dict(zip(list(worker.believes.values()), how, strict=False))
        self.note(worker, said, self.do(self.ledger.settle(self.flush(worker, said))))

    @rule(how=some.sampled_from(ENDS))
    def settle_at_once(self, how: RunStatus) -> None:
        """Two workers end everything that they hold in the same moment."""

        async def both() -> list[Settled]:
            return await asyncio.gather(*(self.ledger.settle(flush) for flush in flushes))

        said = [dict.fromkeys(worker.believes.values(), how) for worker in self.living[:2]]
        flushes = [self.flush(worker, words) for worker, words in zip(self.living[:2], said, strict=True)]
        for worker, words, settled in zip(self.living[:2], said, self.do(both()), strict=True):
            self.note(worker, words, settled)

    def flush(self, worker: Worker, said: Mapping[Claimed, RunStatus | None]) -> Flush:
        worker.flushes += 1
        moves, results, lines = [], [], []
        for run, status in said.items():
            moves.append(RunMove(run.id, run.execution_id, run.target_id, run.fence, status))
            if status is not RunStatus.WAITING:
                before = self.stored.get(run.id)
                at = before or 0
                results.append(
                    ResultState(
                        run.id, "step-1", 1, before is None, status or RunStatus.RUNNING, (at, 0), (at + 3, 0), (at + 3, 0), NOW
                    )
                )
                lines.append(LogLine(run.id, "output", "step-1", 1, "stdout", at, b"ok\n"))
            if status is not None:
                lines.append(LogLine(run.id, "status", body={"target_run": run.id, "status": status.value}))
        return Flush(worker.id, worker.name, worker.flushes, moves, results, lines)

    def note(self, worker: Worker, said: Mapping[Claimed, RunStatus | None], settled: Settled) -> None:
        for run, status in said.items():
            ours = self.holds.get(run.id) == (worker.id, run.fence)
            assert (run.id in settled.stale) != ours, "owner and fence alone decide who may write"
            if not ours or status is not None:
                worker.believes.pop(run.id, None)
            if not ours:
                continue
            if status is not RunStatus.WAITING:
                self.stored[run.id] = self.stored.get(run.id, 0) + 3
            if status is not None:
                del self.holds[run.id]

    @rule(which=some.integers(0, 9))
    def bury(self, which: int) -> None:
        if self.may_die:
            self.dies(self.one_of(self.may_die, which))

    @property
    def may_die(self) -> list[Worker]:
        return [worker for worker in self.living if worker.believes] if len(self.workers) < 10 else []

    def dies(self, worker: Worker) -> None:
        assert self.do(Workers(self.database).bury(worker.name)) == 1
        worker.buried = True
        self.do(self.hire("worker"))

    @property
    def orphans(self) -> list[int]:
        buried = {worker.id for worker in self.workers if worker.buried}
        return [run for run, (owner, _) in self.holds.items() if owner in buried]

    @rule(which=some.integers(0, 9), limit=some.integers(1, 5))
    def take_over(self, which: int, limit: int) -> None:
        worker, orphans = self.one_of(self.living, which), self.orphans
        taken = self.do(self.ledger.take_over(owner=worker.id, worker=worker.name, zone="default", limit=limit))
        assert len(taken) == min(limit, len(orphans))
        self.take(worker, taken, ours=True)

    @rule(which=some.integers(0, 9), how=some.lists(some.sampled_from([None, RunStatus.WAITING, *ENDS]), min_size=1, max_size=4))
    def a_death_and_a_word_after_it(self, which: int, how: list[RunStatus | None]) -> None:
        """What usually takes many steps: buried, taken over, and then the dead one speaks."""
        if not self.may_die:
            return
        dying = self.one_of(self.may_die, which)
        self.dies(dying)
        self.take_over(which, 100)
        self.say(dying, how)

    @rule(which=some.integers(0, 99))
    def cancel(self, which: int) -> None:
        self.do(self.cancelling(self.executions[which % len(self.executions)]))

    async def cancelling(self, execution_id: int) -> None:
        query = "select finished_at is not null as ended from job_executions where id = %s"
        row = await self.database.fetch_one(query, [execution_id])
        assert row is not None
        try:
            await self.ledger.cancel(execution_id, by="ada", reason=None)
        except Conflict:
            assert row["ended"]
        else:
            assert not row["ended"]
            left = await self.database.fetch(
                "select 1 from target_runs where execution_id = %s and status = 'waiting'", [execution_id]
            )
            assert left == []

    @rule(which=some.integers(0, 99), limit=some.integers(1, 5))
    def cancel_beside_claims(self, which: int, limit: int) -> None:
        async def beside() -> list[Any]:
            return await asyncio.gather(
                self.cancelling(self.executions[which % len(self.executions)]),
                *(self.claiming(worker, limit) for worker in self.living[:2]),
            )

        _, *claims = self.do(beside())
        for worker, runs in zip(self.living[:2], claims, strict=True):
            self.take(worker, runs, ours=False)

    @rule()
    def time_passes_beyond_deadlines(self) -> None:
        self.do(self.turning(SECONDS + 1))

    async def turning(self, seconds: int) -> None:
        async with self.database.connection() as connection:
            await connection.execute("update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds])

    @rule()
    def reconcile(self) -> None:
        self.do(self.ledger.reconcile())
        assert self.do(self.ledger.recount()) == {"slots_mended": 0, "miscounted": 0}

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert self.do(faults(self.database)) == []

    @invariant()
    def the_ledger_holds_what_the_model_holds(self) -> None:
        rows = self.do(self.database.fetch("select id, owner, fence from target_runs where status = 'running'"))
        assert {row["id"]: (row["owner"], row["fence"]) for row in rows} == self.holds

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        rows = self.do(self.database.fetch("select id, status from target_runs where finished_at is not null"))
        now = {row["id"]: row["status"] for row in rows}
        assert self.ended.items() <= now.items()
        self.ended = now

    def finish_everything(self) -> None:
        """Whatever was done: with one worker that goes on, every execution ends, and no run is left behind."""
        for worker in self.living:
            self.do(Workers(self.database).bury(worker.name))
            worker.buried = True
        self.do(self.hire("last"))
        (last,) = self.living
        for _ in range(200):
            self.do(self.ledger.reconcile())
            self.take(last, self.do(self.ledger.take_over(owner=last.id, worker=last.name, zone="default", limit=100)), ours=True)
            self.take(last, self.do(self.claiming(last, 100)), ours=False)
            if not last.believes:
                break
            said: dict[Claimed, RunStatus | None] = dict.fromkeys(last.believes.values(), RunStatus.SUCCEEDED)
            self.note(last, said, self.do(self.ledger.settle(self.flush(last, said))))
        assert self.do(self.database.fetch("select id, status from job_executions where finished_at is null")) == []
        assert self.do(faults(self.database)) == []


def test_the_ledger_does_what_the_model_does(databases: Databases) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(databases),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=10,
            stateful_step_count=35,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a race cannot be shrunk: the steps as they came tell more
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
