"""Random mixes of waves, gates, barriers, timers, pauses, names and maintenance.

Nothing starts too early or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from enum import Enum, auto
from itertools import accumulate
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kit.backing_servers import Databases
from kit.ledger_fixtures import NOW, Owner, faults, launch, machines
from opsjobs.model.errors import Conflict
from opsjobs.model.execution import ErrorCode, RunError, RunStatus, WaitingFor
from opsjobs.model.policy import Policy, Strategy
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database, DatabaseOptions

T = TypeVar("T")
SECONDS = 600
BARRIER = "step-2"


class Word(Enum):
    """Reports of a worker about a run."""

    SUCCEED = auto()
    FAIL = auto()
    TIMER = auto()
    BACKOFF = auto()
    BARRIER = auto()
    GIVE_BACK = auto()


WORDS = some.lists(
    some.sampled_from([*Word, Word.SUCCEED, Word.BARRIER, Word.BARRIER]), min_size=1, max_size=8
)
MAX_FAIL = some.sampled_from([None, None, 0, 1, "50%"])
WAVES = some.sampled_from([[4], [1, 3], [2, 2], [1, 1, 2]])

_TOO_MANY = """
select e.id from job_executions e join execution_gates g on g.execution_id = e.id
where e.finished_at is null and not e.halted and not e.paused and not e.cancelling and e.waiting + e.ready > 0
  and e.failed + e.unreachable + e.timeout + e.blocked + e.lost + e.dead - g.fail_base > g.limits[e.open_wave + 1]"""
_BEFORE_THE_OTHERS = """
select r.id from target_runs r join target_runs o on o.execution_id = r.execution_id and o.wave = r.wave
where r.passed is not null and o.passed is null and o.finished_at is null"""
_STARTED_WRONGLY = """
select r.id from target_runs r join job_executions e on e.id = r.execution_id
where r.id = any(%s::bigint[]) and (e.paused or e.cancelling or exists (
  select 1 from exclusive_locks l where l.execution_id = e.id and not l.granted))"""


class StrategyMachine(RuleBasedStateMachine):
    """`holds`: the runs of each worker. `begun`: runs whose first action is recorded.

    `barriers`: executions whose jobs have a barrier. Only their runs wait at one.
    """

    def __init__(self, databases: Databases) -> None:
        super().__init__()
        self.databases = databases
        self.name = databases.create()
        self.runner = asyncio.Runner()
        self.database = Database(DatabaseOptions(databases.url_of(self.name), connections=4))
        self.ledger = Ledger(self.database)
        self.reconciler = Reconciler(self.database)
        self.do(self.database.open())
        self.owners = [Owner(self.database, "worker-1"), Owner(self.database, "worker-2")]
        self.holds: list[dict[int, Claimed]] = [{}, {}]
        self.begun: set[int] = set()
        self.executions: list[int] = []
        self.barriers: set[int] = set()

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        """Return the operation's result."""
        return self.runner.run(verb)

    def teardown(self) -> None:
        try:
            self.finish_everything()
        finally:
            self.do(self.database.close())
            self.runner.close()
            self.databases.drop(self.name)

    @initialize(window=some.integers(1, 4), waves=WAVES, max_fail=MAX_FAIL)
    def two_executions_in_the_middle_of_it(
        self, window: int, waves: list[int], max_fail: int | str | None
    ) -> None:
        self.launch(
            window,
            waves,
            max_fail,
            barrier=True,
            confirm=False,
            pauses=True,
            names=["a"],
            deadline=False,
        )
        self.launch(
            4, [1, 3], None, barrier=True, confirm=True, pauses=False, names=[], deadline=False
        )
        self.launch(
            2, [2, 2], 0, barrier=True, confirm=False, pauses=False, names=[], deadline=False
        )
        self.claim(0, 3)

    @rule(
        window=some.integers(1, 4),
        waves=WAVES,
        max_fail=MAX_FAIL,
        barrier=some.booleans(),
        confirm=some.booleans(),
        pauses=some.booleans(),
        names=some.sampled_from([[], [], ["a"], ["b"], ["a", "b"]]),
        deadline=some.sampled_from([False, False, True]),
    )
    def launch(
        self,
        window: int,
        waves: list[int],
        max_fail: int | str | None,
        *,
        barrier: bool,
        confirm: bool,
        pauses: bool,
        names: list[str],
        deadline: bool,
    ) -> None:
        gate = {"confirm": confirm, "pause_on_fail": pauses}
        strategy = Strategy.from_policy(
            Policy.model_validate({"max_fail": max_fail, "gate": gate}), list(accumulate(waves))
        )
        launched = self.do(
            launch(
                self.database,
                machines(sum(waves), slots=2),
                window=window,
                actions=2,
                barrier=barrier,
                strategy=strategy,
                names=names,
                timeout_seconds=SECONDS if deadline else None,
            )
        )
        self.executions.append(launched.id)
        if barrier:
            self.barriers.add(launched.id)

    @rule(which=some.integers(0, 1), limit=some.integers(1, 6))
    def claim(self, which: int, limit: int) -> None:
        runs = list(self.do(self.owners[which].claim(limit)).runs)
        assert self.do(self.database.fetch(_STARTED_WRONGLY, [[run.id for run in runs]])) == []
        self.take(which, runs)

    @rule(limit=some.integers(1, 6), execution=some.integers(0, 99))
    def claims_beside_a_pause(self, limit: int, execution: int) -> None:
        async def beside() -> list[Any]:
            return await asyncio.gather(
                *(owner.claim(limit) for owner in self.owners), self.pausing(self.one(execution))
            )

        *claims, _ = self.do(beside())
        for which, claim in enumerate(claims):
            self.take(which, list(claim.runs))

    def take(self, which: int, runs: list[Claimed]) -> None:
        assert not {run.id for run in runs} & {*self.holds[0], *self.holds[1]}
        self.holds[which] |= {run.id: run for run in runs}

    @rule(how=WORDS, other=WORDS)
    def work(self, how: list[Word], other: list[Word]) -> None:
        """A shortcut for several steps: both workers claim, and report, at the same time."""
        for which in (0, 1):
            self.claim(which, 4)
        self.settle_at_once(how, other)

    @rule(last=some.sampled_from([Word.BARRIER, Word.SUCCEED, Word.FAIL, Word.TIMER]))
    def all_come_to_the_barrier(self, last: Word) -> None:
        """Run as many as windows and waves allow; both workers report on the last ones at once."""
        for _ in range(3):
            for which in (0, 1):
                self.claim(which, 2)
            self.settle_at_once([Word.BARRIER] * 8, [last])

    @rule(times=some.integers(1, 3))
    def whatever_is_begun_fails(self, times: int) -> None:
        for _ in range(times):
            self.claim(0, 2)
            self.note(0, self.do(self.owners[0].settle(self.flush(0, [Word.FAIL] * 8))))

    @rule(which=some.integers(0, 1), how=WORDS)
    def settle(self, which: int, how: list[Word]) -> None:
        self.note(which, self.do(self.owners[which].settle(self.flush(which, how))))

    @rule(how=WORDS, other=WORDS)
    def settle_at_once(self, how: list[Word], other: list[Word]) -> None:
        async def both() -> list[Settled]:
            return await asyncio.gather(
                *(o.settle(f) for o, f in zip(self.owners, flushes, strict=True))
            )

        flushes = [self.flush(0, how), self.flush(1, other)]
        for which, settled in enumerate(self.do(both())):
            self.note(which, settled)

    def flush(self, which: int, how: list[Word]) -> Flush:
        """Return a flush with a report for each of the first runs of this worker.

        There are as many as reports; the worker drops them.
        """
        said = list(zip(list(self.holds[which].values()), how, strict=False))
        for run, _ in said:
            del self.holds[which][run.id]
        return self.owners[which].say(
            [self.move(run, word) for run, word in said],
            [state for run, word in said for state in self.results(run, word)],
            [
                LogLine(run.id, "status", body={"target_run": run.id, "status": "?"})
                for run, _ in said
            ],
        )

    def move(self, run: Claimed, word: Word) -> RunMove:
        move = RunMove(
            run.id, run.execution_id, run.target_id, run.fence, RunStatus.WAITING, watched=run.watched
        )  # fmt: skip
        match word:
            case Word.SUCCEED:
                return replace(move, status=RunStatus.SUCCEEDED)
            case Word.FAIL:
                return replace(
                    move,
                    status=RunStatus.FAILED,
                    error=RunError(ErrorCode.NONZERO_EXIT, "exit status 1"),
                )
            case Word.TIMER:
                return replace(move, waiting_for=WaitingFor.TIMER, wake_seconds=30.0)
            case Word.BACKOFF:
                return replace(
                    move, waiting_for=WaitingFor.BACKOFF, wake_seconds=30.0, attempt=run.attempt + 1
                )
            case Word.BARRIER if run.execution_id in self.barriers and BARRIER not in run.passed:
                return replace(move, waiting_for=WaitingFor.BARRIER, awaits=BARRIER)
        return move

    def results(self, run: Claimed, word: Word) -> list[ResultState]:
        if word is Word.GIVE_BACK:
            return []
        action = "step-2" if run.id in self.begun else "step-1"
        if action == "step-2" and word not in (Word.SUCCEED, Word.FAIL):
            return []
        self.begun.add(run.id)
        status = RunStatus.FAILED if word is Word.FAIL else RunStatus.SUCCEEDED
        nothing = (0, 0)
        return [
            ResultState(
                run.id, action, run.attempt, True, status, nothing, nothing, nothing, NOW, NOW
            )
        ]

    def note(self, which: int, settled: Settled) -> None:
        assert settled.stale == frozenset(), "nobody else has them"

    def one(self, which: int) -> int:
        return self.executions[which % len(self.executions)]

    @rule(which=some.integers(0, 99))
    def pause(self, which: int) -> None:
        self.do(self.pausing(self.one(which)))

    async def pausing(self, execution_id: int) -> None:
        try:
            await self.ledger.pause(execution_id, by="ada", reason="lunch")
        except Conflict:
            return
        row = await self.database.fetch_one(
            "select paused from job_executions where id = %s", [execution_id]
        )
        assert row == {"paused": True}

    @rule(which=some.integers(0, 99))
    def resume(self, which: int) -> None:
        self.do(self.resuming(self.one(which)))

    async def resuming(self, execution_id: int) -> None:
        try:
            await self.ledger.resume(execution_id, by="ada")
        except Conflict:
            return

    @rule(which=some.integers(0, 99), how=WORDS)
    def a_cancel_beside_a_settle(self, which: int, how: list[Word]) -> None:
        async def beside() -> list[Any]:
            return await asyncio.gather(
                self.owners[0].settle(flush), self.cancelling(self.one(which))
            )

        flush = self.flush(0, how)
        settled, _ = self.do(beside())
        self.note(0, settled)

    async def cancelling(self, execution_id: int) -> None:
        try:
            await self.ledger.cancel(execution_id, by="ada", reason=None)
        except Conflict:
            return

    @rule(machine=some.sampled_from(["1", "2", "3"]), begins=some.booleans())
    def maintenance(self, machine: str, begins: bool) -> None:
        if begins:
            self.do(self.ledger.hold_target(machine, 2, seconds=120.0, reason="new disk", by="ada"))
        else:
            self.do(self.ledger.release_target(machine))

    @rule(seconds=some.sampled_from([31, 31, 121, SECONDS + 1]))
    def time_passes(self, seconds: int) -> None:
        self.do(self.turning(seconds))

    async def turning(self, seconds: int) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
            )

    @rule()
    def reconcile(self) -> None:
        self.do(self.reconciler.run_once())
        assert self.do(self.reconciler.recount()) == {"slots_mended": 0, "miscounted": 0}

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert self.do(faults(self.database)) == []

    @invariant()
    def nobody_goes_through_a_barrier_before_the_others(self) -> None:
        assert self.do(self.database.fetch(_BEFORE_THE_OTHERS)) == []

    @invariant()
    def who_fails_too_often_goes_no_further(self) -> None:
        assert self.do(self.database.fetch(_TOO_MANY)) == []

    def finish_everything(self) -> None:
        """After any steps:

        once resumed, running workers end every execution, and no name stays held.
        """
        for _ in range(60):
            for target in ("1", "2", "3"):
                self.do(self.ledger.release_target(target))
            for execution_id in self.executions:
                self.do(self.resuming(execution_id))
            self.do(self.turning(31))
            self.do(self.reconciler.run_once())
            self.take(0, list(self.do(self.owners[0].claim(100)).runs))
            for which in (0, 1):
                self.note(
                    which,
                    self.do(self.owners[which].settle(self.flush(which, [Word.SUCCEED] * 1_000))),
                )
            if not self.do(
                self.database.fetch("select 1 from job_executions where finished_at is null")
            ):
                break
        assert (
            self.do(
                self.database.fetch(
                    "select id, status from job_executions where finished_at is null"
                )
            )
            == []
        )
        assert self.do(self.database.fetch("select name from exclusive_locks")) == []
        assert self.do(faults(self.database)) == []


def test_strategies_mixed_in_any_way_start_nothing_too_early_and_leave_nobody_waiting(
    databases: Databases,
) -> None:
    run_state_machine_as_test(
        lambda: StrategyMachine(databases),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=5,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a race cannot be shrunk: the steps in their order show more
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.filter_too_much,
                HealthCheck.data_too_large,
            ],
        ),
    )
