"""Waves, gates, limits of failures, barriers, pause and resume.

Operations that could miss each other are raced on purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import accumulate

import pytest

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import (
    ErrorCode,
    ExecutionStatus,
    RunError,
    RunStatus,
    WaitingFor,
)
from opsjobs.model.policy import Policy, Strategy
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database

BROKE = RunError(ErrorCode.NONZERO_EXIT, "exit status 1")


def strategy(waves: Sequence[int], **policy: object) -> Strategy:
    """Return a strategy with this many targets in each wave."""
    return Strategy.from_policy(Policy.model_validate(policy), list(accumulate(waves)))


async def fail(owner: Owner, runs: Sequence[Claimed]) -> Settled:
    return await owner.settle(owner.flush(runs, RunStatus.FAILED, error=BROKE))


async def state(database: Database, execution: Execution) -> dict[str, object]:
    row = await database.fetch_one(
        "select open_wave, paused, halted, status from job_executions where id = %s", [execution.id]
    )
    assert row is not None
    return dict(row)


async def test_a_wave_begins_when_the_one_before_has_ended(database: Database) -> None:
    execution = await launch(database, machines(6), strategy=strategy([1, 2, 3]))
    owner = Owner(database)
    for size in (1, 2, 3):
        runs = (await owner.claim()).runs
        assert len(runs) == size
        assert not (await owner.claim()).runs
        await owner.finish(runs[1:])
        assert await faults(database) == []
        settled = await owner.finish(runs[:1])
        assert (settled.admitted != {}) == (size < 3)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    told = [
        e.body
        for e in await ExecutionLog(database).read(execution.id)
        if e.body and "wave" in e.body
    ]
    assert [(body["wave"], body["waves"]) for body in told] == [(2, 3), (3, 3)]


async def test_the_last_two_runs_of_a_wave_that_settle_at_once_open_the_next_one(
    database: Database,
) -> None:
    for _ in range(10):
        execution = await launch(database, machines(3), strategy=strategy([2, 1]))
        one, two = Owner(database), Owner(database, "worker-2")
        first, second = (await one.claim(1)).runs, (await two.claim(1)).runs
        await asyncio.gather(one.finish(first), two.finish(second))
        assert (await state(database, execution))["open_wave"] == 1
        await one.finish((await one.claim()).runs)
        assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_gate_waits_for_a_resume(database: Database) -> None:
    execution = await launch(
        database, machines(2), strategy=strategy([1, 1], gate={"confirm": True})
    )
    owner = Owner(database)
    await owner.finish((await owner.claim()).runs)
    assert not (await owner.claim()).runs
    shown = await read(database, execution)
    assert shown.status is ExecutionStatus.PAUSED
    assert (await Reconciler(database).run_once())["admitted"] == 0
    assert (await Ledger(database).resume(execution.id, by="ada")).ready == {"default": 1}
    await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_manual_pause_does_not_open_the_gate(database: Database) -> None:
    execution = await launch(
        database, machines(2), strategy=strategy([1, 1], gate={"confirm": True})
    )
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    await ledger.pause(execution.id, by="ada", reason="lunch")
    await owner.finish(runs)
    await ledger.resume(execution.id, by="ada")
    assert await state(database, execution) == {
        "open_wave": 0,
        "paused": True,
        "halted": False,
        "status": "running",
    }
    await ledger.resume(execution.id, by="ada")
    assert len((await owner.claim()).runs) == 1
    assert await faults(database) == []


async def test_more_failures_than_max_fail_skip_the_runs_not_begun(database: Database) -> None:
    execution = await launch(database, machines(10), window=4, strategy=strategy([10], max_fail=1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await fail(owner, runs[:1])
    more = (await owner.claim()).runs
    assert len(more) == 1
    settled = await fail(owner, runs[1:2])
    assert settled.halted == [execution.id]
    assert not (await owner.claim()).runs
    await owner.finish([*runs[2:], *more])
    ended = await read(database, execution)
    assert (ended.status, ended.counts) == (
        ExecutionStatus.PARTIAL,
        {"failed": 2, "skipped": 5, "succeeded": 3},
    )
    rows = await database.fetch(
        "select error_message, status from target_runs where status = 'skipped'"
    )
    assert rows[0]["error_message"].endswith("2 of 10 runs failed, and max_fail allows 1")
    results = await database.fetch(
        "select action, status from job_execution_results where status = 'skipped'"
    )
    assert results == [{"action": "step-1", "status": "skipped"}] * 5
    assert await faults(database) == []


async def test_a_share_is_of_the_wave(database: Database) -> None:
    execution = await launch(database, machines(20), strategy=strategy([10, 10], max_fail="20%"))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await fail(owner, runs[:2])
    await owner.finish(runs[2:])
    runs = (await owner.claim()).runs
    assert len(runs) == 10
    assert (await fail(owner, runs[:2])).halted == []
    await fail(owner, runs[2:3])
    await owner.finish(runs[3:])
    assert (await read(database, execution)).counts == {"failed": 5, "succeeded": 15}
    assert await faults(database) == []


async def test_failures_pause_if_the_gate_says_so_and_a_resume_accepts_them(
    database: Database,
) -> None:
    policy = {"max_fail": 0, "gate": {"pause_on_fail": True}}
    execution = await launch(database, machines(4), window=1, strategy=strategy([2, 2], **policy))
    owner, ledger = Owner(database), Ledger(database)
    await fail(owner, (await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.PAUSED
    assert not (await owner.claim()).runs
    resumed = await ledger.resume(execution.id, by="ada")
    assert (resumed.accepts, resumed.max_fail) == (1, 0)
    await owner.finish((await owner.claim()).runs)
    assert (await state(database, execution))["open_wave"] == 1
    await fail(owner, (await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.PAUSED
    await ledger.resume(execution.id, by="ada")
    await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.PARTIAL
    assert await faults(database) == []


async def test_failures_during_a_manual_pause_are_not_accepted_by_its_resume(
    database: Database,
) -> None:
    policy = {"max_fail": 1, "gate": {"pause_on_fail": True}}
    execution = await launch(database, machines(6), strategy=strategy([4, 2], **policy))
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    await ledger.pause(execution.id, by="ada", reason=None)
    await fail(owner, runs)
    resumed = await ledger.resume(execution.id, by="ada")
    assert resumed.accepts is None
    assert (await read(database, execution)).waiting_on == {
        "kind": "max_fail", "reason": "4 of 6 runs failed, and max_fail allows 1", "by": None,
    }  # fmt: skip
    resumed = await ledger.resume(execution.id, by="ada")
    assert (resumed.accepts, resumed.max_fail, resumed.ready) == (4, 1, {"default": 2})
    await owner.finish((await owner.claim()).runs)
    assert await faults(database) == []


async def test_too_many_failures_pause_an_execution_of_one_wave_too(database: Database) -> None:
    policy = {"max_fail": 0, "gate": {"pause_on_fail": True}}
    execution = await launch(database, machines(2), window=1, strategy=strategy([2], **policy))
    owner = Owner(database)
    await fail(owner, (await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.PAUSED
    await Ledger(database).resume(execution.id, by="ada")
    await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.PARTIAL


async def test_a_failed_check_stops_before_the_next_wave(database: Database) -> None:
    gate = {"check": {"type": "command", "command": "true"}}
    execution = await launch(database, machines(4), strategy=strategy([2, 2], gate=gate))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    flush = owner.flush(runs[:1], RunStatus.FAILED, error=BROKE)
    flush.results[0].action = flush.lines[0].action = "gate-check"
    await owner.settle(flush)
    await owner.finish(runs[1:])
    assert (await read(database, execution)).counts == {"failed": 1, "skipped": 2, "succeeded": 1}
    assert await faults(database) == []


async def test_skipping_beside_claims_starts_nothing_after_it_and_ends_everything(
    database: Database,
) -> None:
    execution = await launch(
        database, machines(300), window=300, strategy=strategy([300], max_fail=0)
    )
    owners = [Owner(database, f"worker-{n}") for n in range(3)]
    (first,) = (await owners[0].claim(1)).runs

    async def claiming(owner: Owner) -> list[Claimed]:
        seen: list[Claimed] = []
        while claim := (await owner.claim(10)).runs:
            seen += claim
        return seen

    held, *_ = await asyncio.gather(
        asyncio.gather(*map(claiming, owners)), fail(owners[0], [first])
    )
    assert (await state(database, execution))["halted"]
    assert not (await owners[0].claim()).runs
    for owner, runs in zip(owners, held, strict=True):
        if runs:
            await owner.finish(runs)
    ended = await read(database, execution)
    assert ended.finished_at is not None
    assert ended.counts.get("skipped", 0) + sum(map(len, held)) == 299
    assert await faults(database) == []


async def test_a_halt_lets_started_runs_continue(database: Database) -> None:
    execution = await launch(
        database, machines(4), window=2, strategy=strategy([4], max_fail=0), actions=2, barrier=True
    )
    owner = Owner(database)
    begun, failing = [[run] for run in (await owner.claim()).runs]
    begun_one = owner.flush(begun, None)
    await owner.settle(begun_one)
    await owner.defer(begun, WaitingFor.TIMER, seconds=3600)
    await fail(owner, failing)
    assert (await read(database, execution)).counts == {"failed": 1, "skipped": 2, "waiting": 1}
    await turn(database, 3601)
    assert (await Reconciler(database).run_once())["woken"] == 1
    await owner.defer((await owner.claim()).runs, WaitingFor.BARRIER, awaits="step-2")
    (again,) = (await owner.claim()).runs
    assert again.passed == {"step-2"}
    assert await faults(database) == []


async def test_a_barrier_opens_when_all_runs_wait_at_it(database: Database) -> None:
    execution = await launch(database, machines(5), window=2, actions=2, barrier=True)
    owner = Owner(database)
    for _ in range(2):
        await owner.defer((await owner.claim()).runs, WaitingFor.BARRIER, awaits="step-2")
    (last,) = (await owner.claim()).runs
    assert (last.watched, last.passed) == (True, frozenset())
    assert (await read(database, execution)).counts == {"running": 1, "waiting": 4}
    settled = await owner.finish([last])
    assert settled.admitted == {"default": 2}
    runs = (await owner.claim()).runs
    assert [run.passed for run in runs] == [{"step-2"}] * 2
    await owner.finish(runs)
    await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_the_last_two_runs_that_reach_a_barrier_at_once_open_it(database: Database) -> None:
    for _ in range(10):
        await launch(database, machines(2), actions=2, barrier=True)
        one, two = Owner(database), Owner(database, "worker-2")
        first, second = (await one.claim(1)).runs, (await two.claim(1)).runs
        await asyncio.gather(
            one.defer(first, WaitingFor.BARRIER, awaits="step-2"),
            two.defer(second, WaitingFor.BARRIER, awaits="step-2"),
        )
        runs = (await one.claim()).runs
        assert len(runs) == 2
        await one.finish(runs)
    assert await faults(database) == []


async def test_the_first_of_two_barriers_opens_first(database: Database) -> None:
    await launch(database, machines(2), actions=3, barrier=True)
    owner = Owner(database)
    one, other = (await owner.claim()).runs
    await owner.defer([one], WaitingFor.BARRIER, awaits="step-3")
    await owner.defer([other], WaitingFor.BARRIER, awaits="step-2")
    (run,) = (await owner.claim()).runs
    assert (run.id, run.passed) == (other.id, {"step-2"})
    await owner.defer([run], WaitingFor.BARRIER, awaits="step-3")
    assert sorted(sorted(run.passed) for run in (await owner.claim()).runs) == [
        ["step-2", "step-3"],
        ["step-3"],
    ]
    assert await faults(database) == []


async def test_a_barrier_counts_the_runs_of_its_wave_only(database: Database) -> None:
    execution = await launch(
        database, machines(4), strategy=strategy([2, 2]), actions=2, barrier=True
    )
    owner = Owner(database)
    for _ in range(2):
        runs = (await owner.claim()).runs
        assert len(runs) == 2
        await owner.defer(runs, WaitingFor.BARRIER, awaits="step-2")
        await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_paused_execution_starts_no_run(database: Database) -> None:
    execution = await launch(database, machines(3), window=2)
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim(1)).runs
    await ledger.pause(execution.id, by="ada", reason="lunch")
    await ledger.pause(execution.id, by="ben", reason="again")
    assert (await read(database, execution)).status is ExecutionStatus.PAUSED
    await owner.finish(runs)
    assert not (await owner.claim()).runs
    assert (await Reconciler(database).run_once())["admitted"] == 0
    assert (await ledger.resume(execution.id, by="ada")).ready == {"default": 2}
    assert (await ledger.resume(execution.id, by="ada")).ready == {}
    await owner.finish((await owner.claim()).runs)
    told = [
        e.body
        for e in await ExecutionLog(database).read(execution.id)
        if e.target_run is None and e.event == "status"
    ]
    assert [body["status"] for body in told if body] == [
        "queued",
        "running",
        "paused",
        "running",
        "completed",
    ]
    assert told[2] == {
        "execution": execution.id,
        "status": "paused",
        "error": None,
        "reason": "lunch",
        "by": "ada",
    }
    for verb in (
        ledger.pause(execution.id, by="ada", reason=None),
        ledger.resume(execution.id, by="ada"),
    ):
        with pytest.raises(Conflict, match="already ended"):
            await verb
    with pytest.raises(NotFound):
        await ledger.pause(10**9, by="ada", reason=None)
    assert await faults(database) == []


async def test_a_pause_beside_four_claiming_workers_holds(database: Database) -> None:
    execution = await launch(database, machines(200), window=200)
    owners = [Owner(database, f"worker-{n}") for n in range(4)]

    async def claiming(owner: Owner) -> int:
        seen = 0
        while claim := (await owner.claim(10)).runs:
            seen += len(claim)
        return seen

    held, *_ = await asyncio.gather(
        asyncio.gather(*map(claiming, owners)),
        Ledger(database).pause(execution.id, by="ada", reason=None),
    )
    assert not (await owners[0].claim()).runs
    assert (await read(database, execution)).counts.get("running", 0) == sum(held)
    assert await faults(database) == []


async def test_a_cancel_of_a_paused_execution_ends_all_its_waves(database: Database) -> None:
    execution = await launch(
        database, machines(4), strategy=strategy([1, 3], gate={"confirm": True})
    )
    owner, ledger = Owner(database), Ledger(database)
    await owner.finish((await owner.claim()).runs)
    await ledger.cancel(execution.id, by="ada", reason=None)
    assert (await read(database, execution)).status is ExecutionStatus.CANCELLED
    with pytest.raises(Conflict):
        await ledger.resume(execution.id, by="ada")
    assert await faults(database) == []


async def test_the_deadline_ends_a_paused_execution(database: Database) -> None:
    execution = await launch(database, machines(2), strategy=strategy([1, 1]), timeout_seconds=60)
    await Ledger(database).pause(execution.id, by="ada", reason=None)
    await turn(database, 61)
    await Reconciler(database).run_once()
    assert (await read(database, execution)).status is ExecutionStatus.TIMEOUT
    assert await faults(database) == []


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )
