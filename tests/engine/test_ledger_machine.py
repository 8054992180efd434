"""The ledger compared with a model in a dictionary: refusals, and invariants after each step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, TypeVar
from uuid import UUID, uuid4

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
from kit.ledger_fixtures import NOW, faults, launch
from opsjobs.model.errors import Conflict, Invalid
from opsjobs.model.execution import FINAL_RUN_STATUSES, ErrorCode, RunError, RunStatus
from opsjobs.model.program import SpoolIdentity
from opsjobs.model.target import Target, Transport
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.ledger.takeover import CLAIMS_MAX, SUSPECT_CLAIMS
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Workers

T = TypeVar("T")
NAMES = ("web-1", "web-2", "web-3", "db-1")
ENDS = [s for s in FINAL_RUN_STATUSES if s not in (RunStatus.SKIPPED, RunStatus.BLOCKED)]
STORES = (
    SpoolIdentity("store-1", "boot-1"),
    SpoolIdentity("store-1", "boot-2"),
    SpoolIdentity("store-2", "boot-1"),
)
SECONDS = 60


class Say(Enum):
    """Reports of a worker about a run that continues, other than a state."""

    NOTHING = auto()
    OUTPUT = auto()
    MET = auto()
    DIRECT = auto()
    RETRY = auto()


Word = Say | RunStatus
WORDS = some.lists(some.sampled_from([*Say, RunStatus.WAITING, *ENDS]), min_size=1, max_size=4)


@dataclass
class Worker:
    """An owner in the model:

    the runs that it believes to hold, whether it was reaped, or stopped.
    """

    name: str
    id: UUID = field(default_factory=uuid4)
    buried: bool = False
    stopped: bool = False
    flushes: int = 0
    believes: dict[int, Claimed] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """The ledger's expected state of a running run.

    `store`: where it may have been started; `direct`: it leaves no trace on the machine.
    """

    owner: UUID
    fence: int
    attempt: int
    claims: int = 0
    store: SpoolIdentity | None = None
    direct: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """`holds`: the running runs. `stored`: stored bytes of each attempt. `known`: a target's spool.

    Each run has one action. Rules have no preconditions: the winner of a race cannot be repeated by
    Hypothesis, so the values that it draws may not depend on it.
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
        self.workers: list[Worker] = []
        self.holds: dict[int, Held] = {}
        self.stored: dict[tuple[int, int], int] = {}
        self.attempts: dict[int, int] = {}
        self.known: dict[str, SpoolIdentity] = {}
        self.poisoned: set[int] = set()
        self.ended: dict[int, str] = {}
        self.executions: list[int] = []
        self.cancelled: set[tuple[int, str]] = set()

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

    @initialize(window=some.integers(1, 4), slots=some.integers(1, 3), limit=some.integers(1, 8))
    def two_workers_in_the_middle_of_it(self, window: int, slots: int, limit: int) -> None:
        for number in (1, 2):
            self.do(self.hire(f"worker-{number}"))
        for timeout in (None, SECONDS):
            self.launch_on([*NAMES], slots, window, 5, timeout)
        self.claim(0, limit)

    async def hire(self, name: str) -> None:
        worker = Worker(f"{name}.{len(self.workers)}")
        await Workers(self.database).register(
            Incarnation(worker.id, worker.name, "default", 1, 10), lease_seconds=15
        )
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
    def launch(
        self, names: list[str], slots: int, window: int, priority: int, timeout: int | None
    ) -> None:
        self.launch_on(names, slots, window, priority, timeout)

    def launch_on(
        self, names: list[str], slots: int, window: int, priority: int, timeout: int | None
    ) -> None:
        targets = [Target(name, name, "10.0.0.1", 22, Transport.SSH, slots=slots) for name in names]
        execution = self.do(
            launch(
                self.database, targets, window=window, priority=priority, timeout_seconds=timeout
            )
        )
        self.executions.append(execution.id)

    @rule(which=some.integers(0, 9), limit=some.integers(1, 5))
    def claim(self, which: int, limit: int) -> None:
        worker = self.one_of(self.living, which)
        self.take(worker, self.do(self.claiming(worker, limit)), ours=False)

    @rule(limit=some.integers(1, 5))
    def claim_at_once(self, limit: int) -> None:
        async def both() -> list[list[Claimed]]:
            return await asyncio.gather(
                *(self.claiming(worker, limit) for worker in self.living[:2])
            )

        for worker, runs in zip(self.living[:2], self.do(both()), strict=True):
            self.take(worker, runs, ours=False)

    def one_of(self, workers: list[Worker], which: int) -> Worker:
        return workers[which % len(workers)]

    async def claiming(self, worker: Worker, limit: int) -> list[Claimed]:
        return [
            *(
                await self.ledger.claim(
                    owner=worker.id, worker=worker.name, zone="default", limit=limit, floor=0
                )
            ).runs
        ]

    def take(self, worker: Worker, runs: list[Claimed], *, ours: bool) -> None:
        for run in runs:
            assert ours or (run.execution_id, run.target_id) not in self.cancelled
            assert (run.id in self.holds) == ours, (
                "claimed is only what nobody holds, taken over only what somebody does"
            )
            fresh = Held(
                worker.id, run.fence, self.attempts.get(run.id, 1), 0, self.known.get(run.target_id)
            )
            held = self.inherited(run.id, worker) if ours else fresh
            assert (run.fence, run.attempt) == (held.fence, held.attempt)
            assert (run.taken_over, run.direct) == (ours, held.direct)
            assert run.identity == held.store
            self.holds[run.id] = held
            worker.believes[run.id] = run

    def inherited(self, run_id: int, heir: Worker) -> Held:
        """Return the state of a run after a takeover:

        an owner that stopped in order does not count.
        """
        held = self.holds[run_id]
        owner = next(w for w in self.workers if w.id == held.owner)
        assert owner.buried, "the living are not robbed"
        return replace(
            held, owner=heir.id, fence=held.fence + 1, claims=held.claims + (not owner.stopped)
        )

    @rule(which=some.integers(0, 9), how=WORDS, store=some.sampled_from(STORES))
    def settle(self, which: int, how: list[Word], store: SpoolIdentity) -> None:
        """A worker that believes to hold runs reports on some of them; so do dead workers."""
        if self.speaking:
            self.say(self.one_of(self.speaking, which), how, store)

    @rule(which=some.integers(0, 9), how=WORDS)
    def a_late_word(self, which: int, how: list[Word]) -> None:
        if dead := [worker for worker in self.speaking if worker.buried]:
            self.say(self.one_of(dead, which), how)

    @property
    def speaking(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.believes]

    def say(self, worker: Worker, how: list[Word], store: SpoolIdentity = STORES[0]) -> None:
        said = dict(zip(list(worker.believes.values()), how, strict=False))
        self.note(worker, said, self.do(self.ledger.settle(self.flush(worker, said, store))), store)

    @rule(how=some.sampled_from(ENDS))
    def settle_at_once(self, how: RunStatus) -> None:
        """Two workers end everything that they hold at the same time."""

        async def both() -> list[Settled]:
            return await asyncio.gather(*(self.ledger.settle(flush) for flush in flushes))

        said: list[dict[Claimed, Word]] = [
            dict.fromkeys(worker.believes.values(), how) for worker in self.living[:2]
        ]
        flushes = [
            self.flush(worker, words) for worker, words in zip(self.living[:2], said, strict=True)
        ]
        for worker, words, settled in zip(self.living[:2], said, self.do(both()), strict=True):
            self.note(worker, words, settled)

    @rule(stores=some.lists(some.sampled_from(STORES), min_size=2, max_size=2))
    def meet_at_once(self, stores: list[SpoolIdentity]) -> None:
        """Two workers report on the same machines at the same time; the last commit wins."""

        async def both() -> list[Settled]:
            return await asyncio.gather(*(self.ledger.settle(flush) for flush in flushes))

        said: list[dict[Claimed, Word]] = [
            dict.fromkeys(worker.believes.values(), Say.MET) for worker in self.living[:2]
        ]
        flushes = [
            self.flush(w, words, store)
            for w, words, store in zip(self.living[:2], said, stores, strict=True)
        ]
        for worker, words, settled, store in zip(
            self.living[:2], said, self.do(both()), stores, strict=True
        ):
            self.note(worker, words, settled, store)
        rows = self.do(self.database.fetch("select target_id, store_id, boot_id from target_state"))
        self.known |= {
            row["target_id"]: SpoolIdentity(row["store_id"], row["boot_id"]) for row in rows
        }

    def flush(
        self, worker: Worker, said: Mapping[Claimed, Word], store: SpoolIdentity = STORES[0]
    ) -> Flush:
        worker.flushes += 1
        flush = Flush(worker.id, worker.name, worker.flushes, [], [], [])
        for run, word in said.items():
            self.put(flush, run, word, store)
        return flush

    def put(self, flush: Flush, run: Claimed, word: Word, store: SpoolIdentity) -> None:
        moves, results, lines = flush.runs, flush.results, flush.lines
        assert isinstance(moves, list)
        assert isinstance(results, list)
        assert isinstance(lines, list)
        status = (
            RunStatus.WAITING
            if word is Say.RETRY
            else word
            if isinstance(word, RunStatus)
            else None
        )
        error = RunError(ErrorCode.LOST, "contact was lost") if word is RunStatus.LOST else None
        move = RunMove(
            run.id,
            run.execution_id,
            run.target_id,
            run.fence,
            status,
            error=error,
            direct=word is Say.DIRECT,
        )
        if word is Say.RETRY:
            move = replace(move, attempt=run.attempt + 1)
        moves.append(replace(move, identity=store) if word is Say.MET else move)
        if (become := self.action_becomes(word)) is not None:
            before = self.stored.get((run.id, run.attempt))
            at, begins = before or 0, before is None
            stored, ended = (at + 3, 0), NOW if become.final else None
            results.append(
                ResultState(
                    run.id,
                    "step-1",
                    run.attempt,
                    begins,
                    become,
                    (at, 0),
                    stored,
                    stored,
                    NOW,
                    ended,
                )
            )
            lines.append(LogLine(run.id, "output", "step-1", run.attempt, "stdout", at, b"ok\n"))
        if status is not None:
            lines.append(
                LogLine(run.id, "status", body={"target_run": run.id, "status": status.value})
            )

    def action_becomes(self, word: Word) -> RunStatus | None:
        """Return the result's status after this report; None if it is not about the action.

        The report has three bytes.
        """
        if word in (Say.NOTHING, Say.MET, Say.DIRECT, RunStatus.WAITING):
            return None
        return {Say.OUTPUT: RunStatus.RUNNING, Say.RETRY: RunStatus.LOST}.get(word) or RunStatus(
            word
        )  # type: ignore[call-overload,no-any-return]

    def note(
        self,
        worker: Worker,
        said: Mapping[Claimed, Word],
        settled: Settled,
        store: SpoolIdentity = STORES[0],
    ) -> None:
        for run, word in said.items():
            held = self.holds.get(run.id)
            ours = held is not None and (held.owner, held.fence) == (worker.id, run.fence)
            assert (run.id in settled.stale) != ours, "owner and fence alone decide who may write"
            over = isinstance(word, RunStatus) or word is Say.RETRY
            if not ours or over:
                worker.believes.pop(run.id, None)
            if ours and held is not None:
                self.note_ours(run, word, held, store)

    def note_ours(self, run: Claimed, word: Word, held: Held, store: SpoolIdentity) -> None:
        if self.action_becomes(word) is not None:
            key = (run.id, run.attempt)
            self.stored[key] = self.stored.get(key, 0) + 3
        if isinstance(word, RunStatus) or word is Say.RETRY:
            del self.holds[run.id]
            self.attempts[run.id] = run.attempt + (word is Say.RETRY)
            return
        if word is Say.MET:
            self.known[run.target_id] = store
            held = replace(held, store=store, direct=False)
        if word is Say.DIRECT:
            held = replace(held, store=None, direct=True)
        self.holds[run.id] = held if word is Say.NOTHING else replace(held, claims=0)

    @rule(which=some.integers(0, 9))
    def bury(self, which: int) -> None:
        if self.may_die:
            self.dies(self.one_of(self.may_die, which))

    @property
    def may_die(self) -> list[Worker]:
        return (
            [worker for worker in self.living if worker.believes] if len(self.workers) < 10 else []
        )

    def dies(self, worker: Worker) -> None:
        assert self.do(Workers(self.database).reap(worker.name)) == 1
        worker.buried = True
        self.do(self.hire("worker"))

    @rule(which=some.integers(0, 9))
    def stop(self, which: int) -> None:
        """A worker stops in order; its runs continue without it."""
        if self.may_die:
            worker = self.one_of(self.may_die, which)
            self.do(Workers(self.database).stop(worker.id))
            worker.buried = worker.stopped = True
            self.do(self.hire("worker"))

    @rule(which=some.integers(0, 9))
    def a_run_that_kills_whoever_has_it(self, which: int) -> None:
        """A shortcut for many steps: every successor dies without a report.

        The oldest orphan goes to every successor. If its owner stopped in order, the first
        successor's death is the first one that counts.
        """
        if not self.may_die or self.poisoned:
            return
        dying = self.one_of(self.may_die, which)
        for _ in range(CLAIMS_MAX + 2):
            if self.poisoned:
                break
            self.dies(dying)
            dying = self.workers[-1]
            self.inherit(dying, 100)
        assert self.poisoned

    @property
    def orphans(self) -> list[int]:
        buried = {worker.id for worker in self.workers if worker.buried}
        return sorted(run for run, held in self.holds.items() if held.owner in buried)

    @rule(which=some.integers(0, 9), limit=some.integers(1, 5))
    def take_over(self, which: int, limit: int) -> None:
        self.inherit(self.one_of(self.living, which), limit)

    def handed_out(self, worker: Worker) -> list[int]:
        """Return the orphans that this worker gets, in order.

        Of the suspects (two workers or more died with them) it gets the first one, unless it has
        one already.
        """
        claims = {run: self.inherited(run, worker).claims for run in self.orphans}
        suspects = [run for run, count in claims.items() if SUSPECT_CLAIMS <= count <= CLAIMS_MAX]
        in_hand = any(
            held.owner == worker.id and held.claims >= SUSPECT_CLAIMS
            for held in self.holds.values()
        )
        later = suspects if in_hand else suspects[1:]
        return [run for run in claims if run not in later]

    def inherit(self, worker: Worker, limit: int) -> None:
        due = self.handed_out(worker)[:limit]
        dead = {run for run in due if self.inherited(run, worker).claims > CLAIMS_MAX}
        taken = self.do(
            self.ledger.take_over(owner=worker.id, worker=worker.name, zone="default", limit=limit)
        )
        assert {run.id for run in taken} == {*due} - dead
        for run in dead:
            del self.holds[run]
        self.poisoned |= dead
        self.take(worker, taken, ours=True)

    @rule(which=some.integers(0, 9), how=WORDS)
    def a_death_and_a_word_after_it(self, which: int, how: list[Word]) -> None:
        """A shortcut for many steps: reaped, taken over, and then the dead worker reports."""
        if not self.may_die:
            return
        dying = self.one_of(self.may_die, which)
        self.dies(dying)
        self.inherit(self.one_of(self.living, which), 100)
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
                "select 1 from target_runs where execution_id = %s and status = 'waiting'",
                [execution_id],
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

    @rule(
        which=some.integers(0, 99),
        names=some.lists(some.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        limit=some.integers(1, 5),
    )
    def cancel_some_beside_claims(self, which: int, names: list[str], limit: int) -> None:
        execution = self.executions[which % len(self.executions)]

        async def beside() -> list[Any]:
            return await asyncio.gather(
                self.cancelling_runs(execution, names),
                *(self.claiming(worker, limit) for worker in self.living[:2]),
            )

        done, *claims = self.do(beside())
        for worker, runs in zip(self.living[:2], claims, strict=True):
            self.take(worker, runs, ours=False)
        self.cancelled |= {(execution, name) for name in names if done}

    async def cancelling_runs(self, execution_id: int, names: list[str]) -> bool:
        """Cancel these runs; the running ones stay in the model. False: it is refused."""
        rows = await self.database.fetch(
            "select target_id from target_runs where execution_id = %s", [execution_id]
        )
        there = {row["target_id"] for row in rows}
        try:
            await self.ledger.cancel_runs(execution_id, names, by="ada", reason=None)
        except Invalid:
            assert not there.issuperset(names)
        except Conflict:
            assert execution_id in {
                row["id"]
                for row in await self.database.fetch(
                    "select id from job_executions where finished_at is not null"
                )
            }
        else:
            assert there.issuperset(names)
            left = await self.database.fetch(
                "select 1 from target_runs where execution_id = %s and status = 'waiting' "
                "and target_id = any(%s)",
                [execution_id, names],
            )
            assert left == []
            return True
        return False

    @rule()
    def time_passes_beyond_deadlines(self) -> None:
        self.do(self.turning(SECONDS + 1))

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
    def the_ledger_holds_what_the_model_holds(self) -> None:
        rows = self.do(self.database.fetch("select * from target_runs where status = 'running'"))
        assert {row["id"]: _held(row) for row in rows} == self.holds

    @invariant()
    def poison_ends_dead_and_so_does_nothing_else(self) -> None:
        rows = self.do(
            self.database.fetch(
                "select id from target_runs where error_code = 'poison' and status = 'dead'"
            )
        )
        assert {row["id"] for row in rows} == self.poisoned

    @invariant()
    def what_a_machine_may_still_have_is_remembered(self) -> None:
        """The folders of every run that reached a spool are removed after its end.

        Lost runs are looked up.
        """
        rows = self.do(
            self.database.fetch(
                "select id, status, spool_due, sweep_due, store_id from target_runs where boot_id is not null and finished_at is not null"
            )
        )
        assert [row for row in rows if row["spool_due"] is None] == []
        unknown = {
            row["id"]
            for row in rows
            if (row["status"] == "lost" or row["id"] in self.poisoned)
            and row["store_id"] != "direct"
        }
        assert {row["id"] for row in rows if row["sweep_due"] is not None} == unknown

    @invariant()
    def what_has_ended_stays_as_it_is(self) -> None:
        rows = self.do(
            self.database.fetch("select id, status from target_runs where finished_at is not null")
        )
        now = {row["id"]: row["status"] for row in rows}
        assert self.ended.items() <= now.items()
        self.ended = now

    def finish_everything(self) -> None:
        """After any steps, one running worker ends every execution and leaves no run behind."""
        for worker in self.living:
            self.do(Workers(self.database).reap(worker.name))
            worker.buried = True
        self.do(self.hire("last"))
        (last,) = self.living
        for _ in range(200):
            self.do(self.reconciler.run_once())
            self.inherit(last, 100)
            self.take(last, self.do(self.claiming(last, 100)), ours=False)
            if not last.believes:
                break
            said: dict[Claimed, Word] = dict.fromkeys(last.believes.values(), RunStatus.SUCCEEDED)
            self.note(last, said, self.do(self.ledger.settle(self.flush(last, said))))
        assert (
            self.do(
                self.database.fetch(
                    "select id, status from job_executions where finished_at is null"
                )
            )
            == []
        )
        assert self.do(faults(self.database)) == []


def _held(row: Mapping[str, Any]) -> Held:
    direct = row["store_id"] == "direct"
    store = (
        SpoolIdentity(row["store_id"], row["boot_id"])
        if row["boot_id"] is not None and not direct
        else None
    )
    return Held(row["owner"], row["fence"], row["attempt"], row["claims"], store, direct)


def test_the_ledger_does_what_the_model_does(databases: Databases) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(databases),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=10,
            stateful_step_count=35,
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
