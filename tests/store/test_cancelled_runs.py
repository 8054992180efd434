"""Runs that are cancelled one by one: which end, which continue, and the final status."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import accumulate

import pytest
from psycopg.errors import DeadlockDetected

from kit.ledger_fixtures import Owner, faults, launch, machines, read, says
from opsjobs.model.access import Requester
from opsjobs.model.approval import ApprovalTerms
from opsjobs.model.errors import Conflict, Invalid
from opsjobs.model.execution import (
    ExecutionStatus,
    RunStatus,
    WaitingFor,
)
from opsjobs.model.policy import Policy, Strategy
from opsjobs.model.run_views import Execution
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Ledger, cancelled_runs
from opsjobs.store.ledger.approval_rows import PendingApproval
from opsjobs.store.ledger.cancelled_runs import CancelledRuns
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Lease


def strategy(waves: Sequence[int], **policy: object) -> Strategy:
    """Return a strategy with this many targets in each wave."""
    return Strategy.from_policy(Policy.model_validate(policy), list(accumulate(waves)))


async def cancel(database: Database, execution: Execution, *targets: str) -> CancelledRuns:
    return await Ledger(database).cancel_runs(execution.id, targets, by="ada", reason="wrong")


async def runs(database: Database, execution: Execution) -> list[tuple[str, str, str | None]]:
    rows = await database.fetch(
        "select target_name, status, cancel_proof from target_runs where execution_id = %s "
        "order by position",
        [execution.id],
    )
    return [(row["target_name"], row["status"], row["cancel_proof"]) for row in rows]


async def test_waiting_runs_end_and_the_others_continue(database: Database) -> None:
    execution = await launch(database, machines(5), window=2)
    owner = Owner(database)
    asked = await cancel(database, execution, "web-1", "4", "web-4")
    assert asked.data() == {"cancelled": 2, "stopping": 0, "ended_before": 0}
    shown = await read(database, execution)
    assert (shown.status, shown.counts) == (
        ExecutionStatus.QUEUED,
        {"waiting": 3, "cancelled": 2},
    )
    while claimed := (await owner.claim()).runs:
        assert len(claimed) <= 2
        await owner.finish(claimed)
        assert await faults(database) == []
    assert await runs(database, execution) == [
        ("web-1", "cancelled", "never_started"),
        ("web-2", "succeeded", None),
        ("web-3", "succeeded", None),
        ("web-4", "cancelled", "never_started"),
        ("web-5", "succeeded", None),
    ]
    assert (await read(database, execution)).status is ExecutionStatus.PARTIAL
    with pytest.raises(Conflict, match="already ended"):
        await cancel(database, execution, "web-1")


async def test_it_says_who_asked_and_is_audited_once_for_each_request(database: Database) -> None:
    execution = await launch(database, machines(2))
    await cancel(database, execution, "web-2")
    assert (await cancel(database, execution, "web-2")).data() == {
        "cancelled": 0,
        "stopping": 0,
        "ended_before": 1,
    }
    (row,) = await database.fetch("select * from audit_log where action <> 'execution.launched'")
    assert (row["action"], row["thing_id"], row["after"], row["reason"]) == (
        "execution.targets_cancelled",
        str(execution.id),
        {"targets": ["web-2"]},
        "wrong",
    )
    (asked,) = await database.fetch("select cancelled_by, reason from cancelled_runs")
    assert asked == {"cancelled_by": "ada", "reason": "wrong"}
    shown = (await Executions(database).runs(execution.id, PageRequest())).items
    assert [run.cancel for run in shown] == [None, {"by": "ada", "reason": "wrong"}]
    (told,) = await database.fetch(
        "select l.body from events v join execution_log l on l.execution_id = v.execution_id "
        "and l.seq between v.from_seq and v.to_seq and l.event = 'status' "
        "where v.type = 'target_run'"
    )
    assert (told["body"]["status"], told["body"]["cancel_proof"]) == ("cancelled", "never_started")


async def test_a_repeated_request_is_audited_for_what_it_adds(database: Database) -> None:
    execution = await launch(database, machines(3))
    await Owner(database).claim()
    for targets in (["web-1"], ["web-1"], ["web-1", "web-2"]):
        assert len((await cancel(database, execution, *targets)).stopping) == len(targets)
    audited = await database.fetch(
        "select after from audit_log where action = 'execution.targets_cancelled' order by id"
    )
    assert [row["after"]["targets"] for row in audited] == [["web-1"], ["web-2"]]


async def test_a_run_that_ends_meanwhile_is_not_counted_as_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = await launch(database, machines(3), window=2)
    owner = Owner(database)
    claimed = (await owner.claim()).runs
    end = cancelled_runs.end_cancelled_runs

    async def end_after_the_worker(database: Database, execution_id: int) -> int:
        ended = await end(database, execution_id)
        if any(state == "running" for _, state, _ in await runs(database, execution)):
            await owner.finish(claimed)
            raise DeadlockDetected
        return ended

    monkeypatch.setattr(cancelled_runs, "end_cancelled_runs", end_after_the_worker)
    asked = await cancel(database, execution, "web-1", "web-2", "web-3")
    assert asked.data() == {"cancelled": 1, "stopping": 0, "ended_before": 2}
    states = [state for _, state, _ in await runs(database, execution)]
    assert states == ["succeeded", "succeeded", "cancelled"]


async def test_unknown_targets_are_refused_by_name_and_nothing_is_cancelled(
    database: Database,
) -> None:
    execution = await launch(database, machines(2))
    with pytest.raises(Invalid, match="has no target 'web-7'") as refused:
        await cancel(database, execution, "web-1", "web-7", "web-8")
    assert [error.pointer for error in refused.value.errors] == ["/targets/1", "/targets/2"]
    assert (await read(database, execution)).counts == {"waiting": 2}
    assert await database.fetch("select 1 from cancelled_runs") == []


async def test_all_cancelled_one_by_one_is_cancelled(database: Database) -> None:
    execution = await launch(database, machines(2))
    await cancel(database, execution, "web-1")
    await cancel(database, execution, "web-2")
    assert (await read(database, execution)).status is ExecutionStatus.CANCELLED

    execution = await launch(database, machines(2))
    owner = Owner(database)
    claimed = (await owner.claim(1)).runs
    await cancel(database, execution, "web-1", "web-2")
    await owner.finish(claimed, RunStatus.CANCELLED)
    assert (await read(database, execution)).status is ExecutionStatus.CANCELLED

    execution = await launch(database, machines(2))
    claimed = (await owner.claim(1)).runs
    await cancel(database, execution, "web-2")
    await owner.finish(claimed, RunStatus.FAILED)
    assert (await read(database, execution)).status is ExecutionStatus.FAILED
    assert await faults(database) == []


async def test_its_worker_is_told_of_a_running_run_and_of_no_other(database: Database) -> None:
    execution = await launch(database, machines(3))
    owner = await Owner(database).register()
    one, two, three = (await owner.claim()).runs
    asked = await cancel(database, execution, "web-2", "web-3")
    assert asked.stopping == [two.id, three.id]
    life = Incarnation(owner.id, owner.name, "default", 1, 1)
    lease = Lease(database.options.url, life, lease_seconds=15)
    try:
        renewal = await lease.renew()
    finally:
        await lease.close()
    assert (renewal.stopping, renewal.stopping_runs) == (frozenset(), {two.id, three.id})
    settled = await owner.settle(owner.flush([one, two], None))
    assert (settled.stopping, settled.stopping_runs) == (frozenset(), {two.id})
    await owner.settle(owner.flush([three], RunStatus.SUCCEEDED))
    assert (await runs(database, execution))[2] == ("web-3", "succeeded", "already_finished")


async def test_a_run_that_waits_again_before_its_worker_heard_is_ended(database: Database) -> None:
    execution = await launch(database, machines(2), window=1)
    owner = Owner(database)
    claimed = (await owner.claim()).runs
    await cancel(database, execution, "web-1")
    await owner.give_back(claimed)
    assert [r.target_name for r in (await owner.claim()).runs] == ["web-2"]
    assert (await Reconciler(database).run_once())["runs_cancelled"] == 1
    assert (await runs(database, execution))[0] == ("web-1", "cancelled", "never_started")
    assert (await Reconciler(database).run_once())["runs_cancelled"] == 0
    assert await faults(database) == []


async def test_cancelled_runs_of_a_later_wave_do_not_open_it(database: Database) -> None:
    """They have ended before their wave:

    the number of waiting runs is not that of the open wave.
    """
    execution = await launch(database, machines(6), strategy=strategy([2, 2, 2]))
    owner = Owner(database)
    claimed = (await owner.claim()).runs
    await cancel(database, execution, "web-3", "web-5")
    await owner.defer(claimed, WaitingFor.TIMER, seconds=3_600)
    assert await faults(database) == []
    row = await database.fetch_one("select open_wave from job_executions")
    assert row == {"open_wave": 0}
    assert not (await owner.claim()).runs


async def test_a_wave_whose_runs_are_all_cancelled_is_passed_over(database: Database) -> None:
    for gate in ({}, {"gate": {"confirm": True}}):
        execution = await launch(database, machines(6), strategy=strategy([2, 2, 2], **gate))
        owner, ledger = Owner(database), Ledger(database)
        claimed = (await owner.claim()).runs
        await cancel(database, execution, "web-3", "web-4")
        await owner.finish(claimed)
        if gate:
            assert (await read(database, execution)).status is ExecutionStatus.PAUSED
            await ledger.resume(execution.id, by="ada")
        assert (await read(database, execution)).waves == {"open": 3, "total": 3}
        last = (await owner.claim()).runs
        assert [run.target_name for run in last] == ["web-5", "web-6"]
        assert await faults(database) == []
        await owner.finish(last)


async def test_the_next_wave_opens_once_the_rest_of_the_open_one_is_cancelled(
    database: Database,
) -> None:
    execution = await launch(database, machines(4), strategy=strategy([2, 2]))
    await cancel(database, execution, "web-1", "web-2")
    assert [r.target_name for r in (await Owner(database).claim()).runs] == ["web-3", "web-4"]
    assert await faults(database) == []


async def test_those_at_a_barrier_do_not_wait_for_the_cancelled(database: Database) -> None:
    execution = await launch(database, machines(3), actions=2, barrier=True)
    owner = Owner(database)
    claimed = (await owner.claim()).runs
    await owner.defer(claimed[:2], WaitingFor.BARRIER, awaits="step-2")
    await owner.defer(claimed[2:], WaitingFor.TIMER, seconds=3_600)
    assert not (await owner.claim()).runs
    await cancel(database, execution, "web-3")
    assert [r.target_name for r in (await owner.claim()).runs] == ["web-1", "web-2"]
    assert await faults(database) == []


async def test_cancelled_runs_are_no_failures(database: Database) -> None:
    execution = await launch(database, machines(4), window=2, strategy=strategy([4], max_fail=0))
    owner = Owner(database)
    claimed = (await owner.claim()).runs
    await cancel(database, execution, "web-1", "web-4")
    await owner.finish(claimed[:1], RunStatus.CANCELLED)
    await owner.finish(claimed[1:])
    await owner.finish((await owner.claim()).runs)
    ended = await read(database, execution)
    assert (ended.status, ended.counts) == (
        ExecutionStatus.PARTIAL,
        {"succeeded": 2, "cancelled": 2},
    )


async def test_an_exclusive_name_is_passed_on_when_the_last_run_is_cancelled(
    database: Database,
) -> None:
    first = await launch(database, machines(2), names=["lb"])
    second = await launch(database, machines(2), names=["lb"])
    owner = Owner(database)
    await cancel(database, second, "web-2")
    await cancel(database, first, "web-1")
    assert {run.execution_id for run in (await owner.claim()).runs} == {first.id}
    first = await launch(database, machines(2, first=3), names=["db"])
    await cancel(database, first, "web-3", "web-4")
    third = await launch(database, machines(1, first=3), names=["db"])
    assert {run.execution_id for run in (await owner.claim()).runs} == {third.id}
    assert await faults(database) == []


async def test_what_waits_for_approval_keeps_waiting_for_the_rest(database: Database) -> None:
    approval = PendingApproval(ApprovalTerms("the job asks for it", 1, 60), "ab" * 32, b"salt")
    more = {"approval": approval, "requester": Requester("ada", "user", "ada")}
    first = await launch(database, machines(2), **more)
    second = await launch(database, machines(2), **more)
    ledger = Ledger(database)
    await cancel(database, first, "web-1", "web-2")
    assert (await read(database, first)).status is ExecutionStatus.CANCELLED
    await cancel(database, second, "web-1")
    assert (await read(database, second)).status is ExecutionStatus.PENDING_APPROVAL
    (asked,) = await database.fetch("select id from approvals where execution_id = %s", [second.id])
    await ledger.decide(asked["id"], says("ben"))
    assert [r.target_name for r in (await Owner(database).claim()).runs] == ["web-2"]
    assert await faults(database) == []


async def test_beside_four_claiming_workers_no_cancelled_run_is_left_waiting(
    database: Database,
) -> None:
    execution = await launch(database, machines(400), window=400)
    owners = [Owner(database, f"worker-{n}") for n in range(4)]
    chosen = [f"web-{n}" for n in range(1, 401, 2)]

    async def work(owner: Owner) -> None:
        while claimed := (await owner.claim(10)).runs:
            await asyncio.sleep(0)
            await owner.finish(claimed)

    await asyncio.gather(*(work(o) for o in owners), cancel(database, execution, *chosen))
    await work(owners[0])
    ended = await read(database, execution)
    assert ended.finished_at is not None
    states = await runs(database, execution)
    assert all(status == "succeeded" for name, status, _ in states if name not in chosen)
    assert all(proof is not None for name, status, proof in states if status == "cancelled")
    assert await faults(database) == []
