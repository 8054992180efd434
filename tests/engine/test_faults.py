"""Faults between a worker and its ledger: lost responses, outages, texts that cannot be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from psycopg import errors

from engine.harness import Harness, harness, postgres_away, until
from kit.fake_remote import Gate, Pause
from kit.ledger_fixtures import Owner, launch, machines
from opsjobs import failpoints
from opsjobs.engine.runs.run_journal import RunJournal
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import ExecutionStatus, RunStatus
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger import admit as admitting
from opsjobs.store.ledger import settle as settling
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database


def write_now_and_then(on: Harness, *names: str) -> None:
    """Script machines that write a little, with a pause."""
    for name in names:
        on.machine(name).reply(
            [Output("stdout", b"one\n"), Pause(0.05), Output("stdout", b"two\n"), RemoteExit(0)]
        )


async def is_output_whole(on: Harness, execution: Execution) -> bool:
    """Return True if every run's output is stored once."""
    said: dict[int | None, bytes] = {}
    for entry in await on.log(execution):
        if entry.event == "output":
            said[entry.target_run] = said.get(entry.target_run, b"") + (entry.data or b"")
    return set(said.values()) == {b"one\ntwo\n"} and len(said) == execution.total_targets


async def test_a_claim_whose_answer_was_lost_is_adopted_and_started_once(
    database: Database,
) -> None:
    async with harness(database) as on:
        write_now_and_then(on, "web-1", "web-2", "web-3")
        failpoints.arm("claim:error_after@1")
        execution = await on.launch("uptime", 3)
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 3}
        assert [len(m.starts) for m in on.sessions.machines.values()] == [1, 1, 1]
        assert {row["fence"] for row in await on.rows(execution)} == {1}


@pytest.mark.parametrize(
    "fault",
    ["claim:error@1", "begin:error@1", "begin:error_after@1", "session:error@1", "finish:error@1"],
)
async def test_a_step_that_fails_once_starts_nothing_twice(database: Database, fault: str) -> None:
    async with harness(database) as on:
        write_now_and_then(on, "web-1", "web-2")
        failpoints.arm(fault)
        execution = await on.launch("uptime", 2)
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.counts == (
            {"succeeded": 1, "unreachable": 1} if "session" in fault else {"succeeded": 2}
        )
        assert sum(len(m.starts) for m in on.sessions.machines.values()) == (
            1 if "session" in fault else 2
        )


@pytest.mark.parametrize(
    ("fault", "status", "starts"),
    [("start:error@1", "unreachable", 0), ("start:error_after@1", "lost", 1)],
)
async def test_a_start_that_fails_says_what_may_have_happened(
    database: Database, fault: str, status: str, starts: int
) -> None:
    async with harness(database) as on:
        write_now_and_then(on, "web-1")
        failpoints.arm(fault)
        async with on.worker():
            execution = await on.run()
        assert (await on.row(execution))["status"] == status
        assert len(on.machine("web-1").starts) == starts


@pytest.mark.parametrize("fault", ["settle:error", "settle:error_after"])
async def test_every_flush_may_lose_its_answer_and_nothing_is_repeated_or_dropped(
    database: Database, fault: str
) -> None:
    """`error`: no flush gets through until it stops. `error_after`: all do, without a response."""
    async with harness(database) as on:
        write_now_and_then(on, *(f"web-{n}" for n in range(1, 6)))
        failpoints.arm(fault)
        async with on.worker():
            execution = await on.launch("uptime", 5)
            if fault == "settle:error":
                await until(lambda: sum(len(m.starts) for m in on.sessions.machines.values()) == 5)
                failpoints.arm("")
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.COMPLETED
        assert await is_output_whole(on, execution)
        assert on.metrics.stale_writes._value.get() == 0


class LateLedger(Ledger):
    """A ledger whose first commits arrive late.

    They reach PostgreSQL only after the worker got an error and tried again.
    """

    def __init__(self, database: Database, late: int) -> None:
        super().__init__(database)
        self._late = late
        self.behind: list[asyncio.Task[Settled]] = []

    async def settle(self, flush: Flush) -> Settled:
        if len(self.behind) < self._late:
            self.behind.append(asyncio.create_task(super().settle(flush)))
            await asyncio.wait(self.behind[-1:])
            raise Unavailable(
                "the line broke; the look-up found nothing, for the commit was still on its way"
            )
        return await super().settle(flush)


async def test_a_commit_that_comes_late_is_not_made_again_and_drops_no_run(
    database: Database,
) -> None:
    """The e2e tests found it:

    after a kill -9 of PostgreSQL, the worker dropped its own runs as stale.
    """
    async with harness(database) as on:
        write_now_and_then(on, "web-1", "web-2")
        slow = LateLedger(database, late=3)
        async with on.worker(ledger=slow):
            execution = await on.run("uptime", 2)
        assert len(slow.behind) == 3
        assert execution.status is ExecutionStatus.COMPLETED
        assert await is_output_whole(on, execution)
        assert on.metrics.stale_writes._value.get() == 0


async def test_a_database_that_is_away_for_a_while_stops_nothing_for_good(
    database: Database,
) -> None:
    async with harness(database) as on:
        names = [f"web-{n}" for n in range(1, 21)]
        gate = Gate(asyncio.Event())
        for name in names:
            on.machine(name).reply(
                [Output("stdout", b"one\n"), gate, Output("stdout", b"two\n"), RemoteExit(0)]
            )
        async with on.worker(lease_seconds=30):
            execution = await on.launch("uptime", names, max_parallel=10)
            await until(lambda: sum(len(m.starts) for m in on.sessions.machines.values()) == 10)
            async with postgres_away(database):
                gate.event.set()
                await asyncio.sleep(3)  # the length of the outage, not a wait for something
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 20}
        assert await is_output_whole(on, execution)
        assert [len(m.starts) for m in on.sessions.machines.values()] == [1] * 20


async def test_a_run_whose_words_cannot_be_stored_ends_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = spoiling(monkeypatch, lambda line: line.event == "result" and line.action == "step-1")
    async with harness(database, bugs=["recorder"]) as on:
        for n in range(1, 9):
            on.machine(f"web-{n}").reply([Output("stdout", b"one\n"), RemoteExit(0)])
        execution = await on.launch("uptime", 8)
        spoilt.add((await on.rows(execution))[4]["id"])
        async with on.worker():
            ended = await on.ended(execution)
        assert ended.counts == {"succeeded": 7, "failed": 1}
        row = (await on.rows(execution))[4]
        assert (row["status"], row["error_code"]) == ("failed", "internal")
        assert "the run's output could not be stored" in row["error_message"]
        results = {r["target_run_id"]: r for r in await on.results(execution)}
        assert results[row["id"]]["status"] == "failed"
        words = [
            e.body["status"]
            for e in await on.log(execution)
            if e.target_run == row["id"] and e.body
        ]
        assert words == ["running", "failed", "failed"]


async def test_a_run_that_speaks_on_after_its_words_were_refused_is_not_heard(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = spoiling(monkeypatch, lambda line: line.event == "output")
    async with harness(database, bugs=["recorder"]) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply(
            [Output("stdout", b"one\n"), gate, Output("stdout", b"two\n"), RemoteExit(0)]
        )
        execution = await on.launch()
        spoilt.add((await on.row(execution))["id"])
        async with on.worker():
            ended = await on.ended(execution)
            log = await on.log(execution)
            await until(lambda: web.open_sessions == 0)  # the worker has dropped it
            gate.event.set()
            assert (await on.run("true", ["web-2"])).status is ExecutionStatus.COMPLETED
        assert ended.status is ExecutionStatus.FAILED
        assert await on.log(execution) == log
        assert not web.kills


async def test_a_run_that_cannot_even_be_ended_troubles_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constraint refuses all rows of one execution:

    its runs are given up, and others continue.
    """
    async with harness(database, bugs=["recorder", "given_up"], open_ends=True) as on:
        write_now_and_then(on, "web-1", "web-2")
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([Output("stdout", b"one\n"), gate, RemoteExit(0)], to="broken")
        async with on.worker():
            broken = await on.launch("broken")
            await until(lambda: stored(on, broken))
            await _refuse_more_of(database, await on.executions.get(broken.id))
            gate.event.set()
            await until(lambda: "given_up" in on.bugs)
            assert (await on.run("uptime", 2)).status is ExecutionStatus.COMPLETED
        assert (await on.row(broken))["status"] == "running"
        assert len(on.machine("web-1").starts) == 2


async def _refuse_more_of(database: Database, execution: Execution) -> None:
    parts = await database.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'execution_log'::regclass"
    )
    condition = f"check (execution_id <> {execution.id} or seq <= {execution.last_seq}) not valid"
    async with database.connection() as connection:
        for part in parts:
            await connection.execute(
                f"alter table {part['name']} add constraint refused {condition}".encode()
            )


def spoiling(monkeypatch: pytest.MonkeyPatch, which: Callable[[LogLine], bool]) -> set[int]:
    """Return a set for run ids: PostgreSQL cannot store such lines of these runs."""
    spoilt: set[int] = set()
    take = RunJournal.take

    def spoil(record: RunJournal, draft: object, *share: int) -> int:
        taken = take(record, draft, *share)  # type: ignore[arg-type]
        for line in draft.lines:  # type: ignore[attr-defined]
            if line.run_id in spoilt and which(line):
                line.body, line.stream = {"words": "\x00"}, line.stream
        return taken

    monkeypatch.setattr(RunJournal, "take", spoil)
    return spoilt


async def test_a_run_that_fell_out_of_step_with_its_log_is_lost_and_never_started_again(
    database: Database,
) -> None:
    """The stored offset was moved (a failover lost a commit):

    the guard refuses, the run is still ours.
    """
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply(
            [Output("stdout", b"one\n"), gate, Output("stdout", b"two\n"), RemoteExit(0)]
        )
        async with on.worker():
            execution = await on.launch()
            await until(lambda: stored(on, execution))
            async with database.connection() as connection:
                await connection.execute(
                    "update job_execution_results set stdout_stored = stdout_stored - 1"
                )
            gate.event.set()
            ended = await on.ended(execution)
        assert ended.status is ExecutionStatus.FAILED
        row = await on.row(execution)
        assert (row["status"], row["error_message"]) == (
            "lost",
            "its worker fell out of step with the ledger while the command was perhaps running: whether it ran to its end is unknown",
        )
        assert len(web.starts) == 1


async def stored(on: Harness, execution: Execution) -> bool:
    return bool(await on.output(execution))


async def test_a_deadlock_after_the_commit_does_not_repeat_the_flush(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush frees a slot for another execution, whose admission is another transaction."""
    admit, tried = admitting.admit, []

    async def deadlocks_twice(given: Database, executions: list[int]) -> dict[str, int]:
        tried.append(executions)
        if executions and len([t for t in tried if t]) <= 2:
            raise errors.DeadlockDetected("as scripted")
        return await admit(given, executions)

    one, two = [await launch(database, machines(1, slots=1)) for _ in range(2)]
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    assert [r.execution_id for r in runs] == [one.id]
    monkeypatch.setattr(admitting, "admit", deadlocks_twice)
    settled = await owner.finish(runs)
    assert (settled.stale, settled.unparked, settled.admitted) == (
        frozenset(),
        [two.id],
        {"default": 1},
    )
    assert [r.execution_id for r in (await owner.claim()).runs] == [two.id]


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.WAITING, None])
async def test_the_same_flush_given_twice_counts_once(
    database: Database, status: RunStatus | None
) -> None:
    await launch(database, machines(3))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    flush = owner.flush(runs, status)
    if status is RunStatus.WAITING:
        flush = Flush(flush.owner, flush.worker, flush.number, flush.runs, (), flush.lines[1::2])
    first = await owner.settle(flush)
    again = await owner.settle(flush)
    assert (first.stale, again.stale) == (frozenset(), frozenset())
    after = Flush(
        owner.id,
        owner.name,
        flush.number + 1,
        [RunMove(r.id, r.execution_id, r.target_id, r.fence) for r in runs],
    )
    assert len((await owner.settle(after)).stale) == (0 if status is None else 3)


async def test_a_recalled_flush_names_what_was_stale_in_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost response, and one run did not fit:

    it still runs, so it must not be treated as ended.
    """
    await launch(database, machines(2))
    owner = await Owner(database).register()
    good, bad = (await owner.claim()).runs
    flush = owner.flush([good, bad])
    _spoil_offset(flush.results[1])
    commit = settling._settle

    async def and_then_the_line_breaks(*given: object) -> None:
        await commit(*given)  # type: ignore[arg-type]
        raise Unavailable("the answer to COMMIT was lost")

    monkeypatch.setattr(settling, "_settle", and_then_the_line_breaks)
    assert (await owner.settle(flush)).stale == {bad.id}


def _spoil_offset(result: ResultState) -> None:
    result.begins, result.stored_before = False, (7, 0)
