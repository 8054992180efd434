"""Waits and wake-ups: timers, approvals, child executions, cancels and deadlines."""

from __future__ import annotations

import asyncio

import pytest

from kit.ledger_fixtures import Owner, faults, launch, machines, read, says
from opsjobs.model.approval import ApprovalStatus, ApprovalTerms
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import ExecutionStatus, RunStatus, TriggeredBy, WaitingFor
from opsjobs.model.run_views import Execution
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database

TIMED = (WaitingFor.TIMER, WaitingFor.BACKOFF, WaitingFor.HOLD)


@pytest.mark.parametrize("waiting_for", TIMED)
async def test_a_timer_holds_no_slot_and_ends_in_time(
    database: Database, waiting_for: WaitingFor
) -> None:
    execution = await launch(database, machines(2, slots=1), window=1)
    owner = Owner(database)
    first = (await owner.claim()).runs
    settled = await owner.defer(first, waiting_for, seconds=60)
    assert settled.admitted == {"default": 1}
    await owner.finish((await owner.claim()).runs)
    assert (await Reconciler(database).run_once())["woken"] == 0
    assert (await read(database, execution)).counts == {"succeeded": 1, "waiting": 1}
    await turn(database, 61)
    assert (await Reconciler(database).run_once())["woken"] == 1
    (again,) = (await owner.claim()).runs
    assert (again.id, again.fence, again.attempt) == (first[0].id, 2, 1)
    await owner.finish([again])
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_backoff_waits_for_its_next_attempt(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    await owner.defer((await owner.claim()).runs, WaitingFor.BACKOFF, seconds=30, attempt=2)
    await turn(database, 31)
    await Reconciler(database).run_once()
    assert [run.attempt for run in (await owner.claim()).runs] == [2]


async def test_two_reconcilers_and_a_cancel_wake_or_end_each_waiting_run_once(
    database: Database,
) -> None:
    execution = await launch(database, machines(50))
    owner, ledger = Owner(database), Ledger(database)
    await owner.defer(
        (await owner.claim()).runs, WaitingFor.TIMER, seconds=60, open_action="step-1"
    )
    await turn(database, 61)
    await asyncio.gather(
        Reconciler(database).run_once(),
        Reconciler(database).run_once(),
        ledger.cancel(execution.id, by="ada", reason=None),
        owner.claim(),
    )
    await owner.settle(
        owner.flush((await ledger.find_unknown_runs(owner=owner.id, known=[])), None)
    )
    assert (await read(database, execution)).counts.get("waiting", 0) == 0
    assert await faults(database) == []


@pytest.mark.parametrize(
    "waiting_for", [w for w in WaitingFor if w not in (WaitingFor.ADMISSION, WaitingFor.SLOT)]
)
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_cancel_and_a_deadline_end_every_kind_of_wait(
    database: Database, waiting_for: WaitingFor, how: str
) -> None:
    execution = await launch(database, machines(1), timeout_seconds=60)
    owner, ledger = Owner(database), Ledger(database)
    awaits = "7b0e6f5e-9c5e-4d55-a8d5-1f0c3f6a0b1c" if waiting_for is WaitingFor.CHILD else "step-1"
    if waiting_for is WaitingFor.CHILD:
        awaits = (await launch(database, machines(1))).uuid
    if waiting_for is WaitingFor.APPROVAL:
        await ledger.request_approval(execution.id, "step-1", ApprovalTerms("go?"))
    seconds = 3600 if waiting_for in TIMED else None
    await owner.defer(
        [r for r in (await owner.claim()).runs if r.execution_id == execution.id], waiting_for, seconds=seconds, awaits=awaits,
        open_action="step-1",
    )  # fmt: skip
    if how == "cancel":
        await ledger.cancel(execution.id, by="ada", reason=None)
    else:
        await turn(database, 61)
        await Reconciler(database).run_once()
    status = {"cancel": RunStatus.CANCELLED, "deadline": RunStatus.TIMEOUT}[how]
    ended = await read(database, execution)
    assert ended.counts == {status.value: 1}
    results = await database.fetch(
        "select action, status, finished_at is not null as ended from job_execution_results where "
        "execution_id = %s",
        [execution.id],
    )
    assert results == [{"action": "step-1", "status": status.value, "ended": True}]
    told = [e for e in await ExecutionLog(database).read(execution.id) if e.event == "result"]
    assert [(e.action, (e.body or {})["status"]) for e in told] == [("step-1", status.value)]
    run = await database.fetch_one(
        "select not_before, awaits, waiting_for from target_runs where execution_id = %s",
        [execution.id],
    )
    assert run == {"not_before": None, "awaits": None, "waiting_for": None}
    await Reconciler(database).run_once()
    assert [row["status"] for row in await database.fetch("select status from approvals")] in (
        [],
        ["cancelled"],
    )
    assert await faults(database) == []


@pytest.mark.parametrize(
    ("waiting_for", "opened", "performed", "proof", "words"),
    [
        (WaitingFor.CHILD, "step-1", False, None, "cancelled while it waited for another job"),
        (WaitingFor.APPROVAL, "step-1", False, "never_started", "cancelled before it was started"),
        (WaitingFor.APPROVAL, "step-2", True, None, "cancelled while it waited for an approval"),
        (WaitingFor.BACKOFF, None, True, None, "cancelled while it waited for its next attempt"),
        (WaitingFor.BARRIER, None, False, "never_started", "cancelled before it was started"),
    ],
)
async def test_never_started_is_the_proof_only_of_runs_that_performed_nothing(
    database: Database,
    waiting_for: WaitingFor,
    opened: str | None,
    performed: bool,
    proof: str | None,
    words: str,
) -> None:
    execution = await launch(database, machines(1), actions=3)
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    if performed:
        (done,) = owner.flush(runs).results
        await owner.settle(owner.say(owner.flush(runs, None).runs, [done]))
    awaits = (
        (await launch(database, machines(1))).uuid if waiting_for is WaitingFor.CHILD else opened
    )
    if waiting_for is WaitingFor.APPROVAL:
        await ledger.request_approval(execution.id, opened or "", ApprovalTerms("go?"))
    seconds = 60 if waiting_for is WaitingFor.BACKOFF else None
    await owner.defer(runs, waiting_for, seconds=seconds, awaits=awaits, open_action=opened)
    await ledger.cancel(execution.id, by="ada", reason=None)
    run = await database.fetch_one(
        "select cancel_proof, error_message from target_runs where execution_id = %s",
        [execution.id],
    )
    assert run == {"cancel_proof": proof, "error_message": words}
    told = [
        e.body
        for e in await ExecutionLog(database).read(execution.id)
        if e.event == "status" and e.body is not None
    ]
    assert [
        body["error"]["message"]
        for body in told
        if body["status"] == "cancelled" and "target_run" in body
    ] == [words]


# --- approvals


async def waiting_for_a_word(database: Database, count: int = 2) -> tuple[Owner, Execution, int]:
    execution = await launch(database, machines(count))
    owner = Owner(database)
    asked = await asyncio.gather(
        *(
            Ledger(database).request_approval(
                execution.id, "step-1", ApprovalTerms("go?", expires_seconds=60)
            )
            for _ in range(3)
        )
    )
    assert len({approval.id for approval in asked}) == 1
    runs = (await owner.claim()).runs
    await owner.defer(runs, WaitingFor.APPROVAL, awaits="step-1", open_action="step-1")
    return owner, execution, asked[0].id


async def test_an_approval_wakes_all_its_runs(database: Database) -> None:
    owner, execution, approval = await waiting_for_a_word(database)
    ledger = Ledger(database)
    assert not (await owner.claim()).runs
    decided = await ledger.decide(approval, says("ben", True, "looks good"))
    assert (decided.status, decided.decided_by) == (ApprovalStatus.APPROVED, "ben")
    assert len((await owner.claim()).runs) == 2
    assert (
        await ledger.request_approval(execution.id, "step-1", ApprovalTerms("go?"))
    ).status is ApprovalStatus.APPROVED
    with pytest.raises(Conflict, match="decided already"):
        await ledger.decide(approval, says("eve", False, None))
    with pytest.raises(NotFound):
        await ledger.decide(10**9, says("eve", True, None))
    told = await database.fetch(
        "select type, data from events where type like 'approval.%%' order by id"
    )
    assert [(t["type"], t["data"]["status"]) for t in told] == [
        ("approval.requested", "pending"), ("approval.decided", "approved"),
    ]  # fmt: skip
    assert await faults(database) == []


async def test_a_rejected_approval_ends_its_waiting_runs(database: Database) -> None:
    _, execution, approval = await waiting_for_a_word(database)
    await Ledger(database).decide(approval, says("ben", False, "not on a Friday"))
    ended = await read(database, execution)
    assert (ended.status, ended.counts) == (ExecutionStatus.FAILED, {"cancelled": 2})
    row = await database.fetch_one("select error_code, error_message from target_runs limit 1")
    assert row == {
        "error_code": "cancelled",
        "error_message": "the approval 'step-1' was rejected by ben: not on a Friday",
    }
    assert await faults(database) == []


async def test_an_approval_without_a_decision_expires(database: Database) -> None:
    _, execution, _ = await waiting_for_a_word(database)
    await turn(database, 61)
    assert (await Reconciler(database).run_once())["approvals_expired"] == 1
    assert (await read(database, execution)).counts == {"cancelled": 2}
    assert await faults(database) == []


async def test_a_decision_before_an_outage_wakes_its_runs_hours_later(database: Database) -> None:
    owner, _, approval = await waiting_for_a_word(database)
    async with database.connection() as connection:  # what `decide` commits first
        await connection.execute(
            "update approvals set status = 'approved', decided_at = opsjobs_now(), decided_by = "
            "'ben' where id = %s",
            [approval],
        )
    await turn(database, 7200)
    assert (await Reconciler(database).run_once())["woken"] == 2
    assert len((await owner.claim()).runs) == 2
    assert await faults(database) == []


@pytest.mark.parametrize("approve", [True, False])
async def test_a_run_that_reaches_a_decided_approval_sees_the_decision(
    database: Database, approve: bool
) -> None:
    execution = await launch(database, machines(1))
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    approval = await ledger.request_approval(execution.id, "step-1", ApprovalTerms("go?"))
    await ledger.decide(approval.id, says("ben", approve, None))
    settled = await owner.defer(runs, WaitingFor.APPROVAL, awaits="step-1", open_action="step-1")
    assert settled.admitted == {"default": 1}
    assert len((await owner.claim()).runs) == 1
    assert await faults(database) == []


@pytest.mark.parametrize("approve", [True, False])
async def test_a_decision_beside_a_run_that_starts_to_wait_is_not_missed(
    database: Database, approve: bool
) -> None:
    for _ in range(10):
        execution = await launch(database, machines(1))
        owner, ledger = Owner(database), Ledger(database)
        runs = (await owner.claim()).runs
        approval = await ledger.request_approval(execution.id, "step-1", ApprovalTerms("go?"))
        await asyncio.gather(
            owner.defer(runs, WaitingFor.APPROVAL, awaits="step-1", open_action="step-1"),
            ledger.decide(approval.id, says("ben", approve, None)),
        )
        rows = await database.fetch(
            "select 1 from target_runs where execution_id = %s and waiting_for = 'approval'",
            [execution.id],
        )
        assert rows == []
    assert await faults(database) == []


# --- children


async def test_the_end_of_a_child_wakes_its_parents_run(database: Database) -> None:
    parent = await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    child = await launch(database, machines(1), parent=parent.id, triggered_by=TriggeredBy.WORKFLOW)
    await owner.defer(runs, WaitingFor.CHILD, awaits=child.uuid, open_action="step-1")
    (of_child,) = (await owner.claim()).runs
    settled = await owner.finish([of_child])
    assert settled.admitted == {"default": 1}
    assert [run.id for run in (await owner.claim()).runs] == [runs[0].id]
    assert await faults(database) == []


async def test_a_child_that_ends_as_its_parent_starts_to_wait_is_not_missed(
    database: Database,
) -> None:
    for _ in range(10):
        parent = await launch(database, machines(1, slots=100))
        owner = Owner(database)
        runs = (await owner.claim()).runs
        child = await launch(
            database, machines(1, slots=100), parent=parent.id, triggered_by=TriggeredBy.WORKFLOW
        )
        of_child = (await owner.claim()).runs
        other = Owner(database, "worker-2", id=owner.id, flushes=1_000)
        await asyncio.gather(
            owner.defer(runs, WaitingFor.CHILD, awaits=child.uuid, open_action="step-1"),
            other.finish(of_child),
        )
        await Reconciler(database).run_once()
        again = (await owner.claim()).runs
        assert [run.id for run in again] == [runs[0].id]
        await owner.settle(owner.flush(again, None, data=b""))
    assert await faults(database) == []


async def test_a_cancel_extends_to_children(database: Database) -> None:
    parent = await launch(database, machines(1))
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    child = await launch(database, machines(1), parent=parent.id, triggered_by=TriggeredBy.WORKFLOW)
    await owner.defer(runs, WaitingFor.CHILD, awaits=child.uuid, open_action="step-1")
    await ledger.cancel(parent.id, by="ada", reason=None)
    assert (await read(database, parent)).status is ExecutionStatus.CANCELLED
    assert (await read(database, child)).status is ExecutionStatus.CANCELLED
    assert await faults(database) == []


async def test_a_parents_deadline_ends_its_children(database: Database) -> None:
    parent = await launch(database, machines(1), timeout_seconds=60)
    owner = Owner(database)
    runs = (await owner.claim()).runs
    child = await launch(database, machines(1), parent=parent.id, triggered_by=TriggeredBy.WORKFLOW)
    await owner.defer(runs, WaitingFor.CHILD, awaits=child.uuid, open_action="step-1")
    await turn(database, 61)
    await Reconciler(database).run_once()
    assert (await read(database, parent)).status is ExecutionStatus.TIMEOUT
    assert (await read(database, child)).status is ExecutionStatus.CANCELLED
    assert await faults(database) == []


async def test_a_claim_says_how_long_an_unreachable_target_may_be_waited_for(
    database: Database,
) -> None:
    await launch(database, machines(1), hold_seconds=100)
    await turn(database, 40)
    owner = Owner(database)
    (run,) = (await owner.claim()).runs
    assert run.hold_seconds is not None
    assert 0 < run.hold_seconds < 60
    await owner.defer([run], WaitingFor.HOLD, seconds=30, awaits="offline")
    await turn(database, 100)
    await Reconciler(database).run_once()
    assert [run.hold_seconds for run in (await owner.claim()).runs] == [0.0]
    await launch(database, machines(1))
    assert [run.hold_seconds for run in (await owner.claim()).runs] == [None]


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )


async def asked(database: Database, execution: Execution) -> int:
    """Return the id of an approval of this execution."""
    return (await Ledger(database).request_approval(execution.id, "ask", ApprovalTerms(""))).id


async def test_an_answer_that_comes_as_a_run_starts_to_wait_for_several_things_is_not_missed(
    database: Database,
) -> None:
    execution = await launch(database, machines(1))
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    await ledger.decide(await asked(database, execution), says("ben", True, None))
    settled = await owner.defer(
        runs, WaitingFor.TIMER, seconds=3600, awaits="other ask", open_action="step-1"
    )
    assert settled.admitted == {"default": 1}
    await owner.finish((await owner.claim()).runs)
    assert await faults(database) == []


async def test_an_answer_whose_wake_up_was_lost_is_found_by_the_reconciler_beside_a_timer(
    database: Database,
) -> None:
    execution = await launch(database, machines(1))
    owner, ledger = Owner(database), Ledger(database)
    child = await launch(
        database, machines(1), parent=execution.id, triggered_by=TriggeredBy.WORKFLOW
    )
    run, of_child = (await owner.claim()).runs
    await owner.finish([of_child])
    await ledger.decide(await asked(database, execution), says("ben", True, None))
    for name in ("ask", child.uuid):
        await owner.defer([run], WaitingFor.BACKOFF, seconds=3600)
        assert (await Reconciler(database).run_once())["woken"] == 0
        await database.fetch(
            "update target_runs set awaits = %s where id = %s returning id",
            [f"other {name}", run.id],
        )
        assert (await Reconciler(database).run_once())["woken"] == 1
        (run,) = (await owner.claim()).runs
    await owner.finish([run])
    assert await faults(database) == []
