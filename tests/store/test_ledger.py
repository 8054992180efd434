"""The operations of the ledger. Transactions that must not interfere are run concurrently."""

from __future__ import annotations

import asyncio
import random
from uuid import uuid4

import pytest
from psycopg import errors

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from opsjobs.model.errors import Conflict, NotFound, Unavailable
from opsjobs.model.execution import (
    ErrorCode,
    ExecutionStatus,
    RunError,
    RunStatus,
    WaitingFor,
    verdict,
)
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.ledger import Ledger, reconcile
from opsjobs.store.ledger import settle as settling
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Lease, Workers


async def test_a_launch_makes_as_many_runs_ready_as_the_window_allows(database: Database) -> None:
    execution = await launch(database, machines(5), window=3)
    row = await database.fetch_one(
        "select waiting, ready, running from job_executions where id = %s", [execution.id]
    )
    assert row == {"waiting": 2, "ready": 3, "running": 0}
    assert execution.counts == (await read(database, execution)).counts == {"waiting": 5}


async def test_two_claims_at_once_never_give_the_same_run(database: Database) -> None:
    await launch(database, machines(100), window=100)
    owners = [Owner(database, f"worker-{n}") for n in range(4)]
    claims = await asyncio.gather(*(o.claim(20) for o in owners for _ in range(3)))
    runs = [run.id for claim in claims for run in claim.runs]
    assert len(runs) == len(set(runs))
    assert await faults(database) == []


async def test_the_last_two_runs_that_settle_at_once_end_the_execution(database: Database) -> None:
    for _ in range(10):
        execution = await launch(database, machines(2))
        one, two = Owner(database), Owner(database, "worker-2")
        first, second = (await one.claim(1)).runs, (await two.claim(1)).runs
        await asyncio.gather(one.finish(first), two.finish(second))
        ended = await read(database, execution)
        assert ended.status is ExecutionStatus.COMPLETED
        assert ended.finished_at is not None
    assert await faults(database) == []


async def test_a_target_never_has_more_running_than_its_slots(database: Database) -> None:
    only = machines(1, slots=2)
    executions = [await launch(database, only) for _ in range(8)]
    owners = [Owner(database, f"worker-{n}") for n in range(4)]
    ended = 0
    while ended < len(executions):
        claims = await asyncio.gather(*(o.claim() for o in owners))
        running = await database.fetch("select 1 from target_runs where status = 'running'")
        assert 0 < len(running) <= 2
        assert await faults(database) == []
        for owner, claim in zip(owners, claims, strict=True):
            if claim.runs:
                await owner.finish(claim.runs)
                ended += len(claim.runs)
    assert [(await read(database, e)).status for e in executions] == [ExecutionStatus.COMPLETED] * 8


async def test_a_slot_that_is_freed_while_a_claim_decides_is_no_slot_too_many(
    database: Database,
) -> None:
    only, one, two = machines(1, slots=1), Owner(database), Owner(database, "worker-2")
    await launch(database, only)
    assert len((await one.claim()).runs) == 1
    waiting = await launch(database, only)
    waits = "select 1 from pg_locks where locktype = 'advisory' and not granted"
    async with database.connection() as holder:
        await holder.execute(_TIME_WAITS)
        await holder.execute("select pg_advisory_lock(17)")
        async with database.transaction() as settling:
            await settling.execute("update target_slots set used = 0")
            claiming = asyncio.create_task(two.claim())
            async with asyncio.timeout(60):
                while not await database.fetch(waits):
                    await asyncio.sleep(0.01)
        await holder.execute("select pg_advisory_unlock(17)")
        assert [run.execution_id for run in (await claiming).runs] == [waiting.id]
    assert await database.fetch("select used from target_slots") == [{"used": 1}]


# A claim reads the time after it has read the slots and before it has locked them.
_TIME_WAITS = """
create or replace function opsjobs_now() returns timestamptz language plpgsql volatile as $$
begin perform pg_advisory_xact_lock_shared(17); return clock_timestamp(); end $$"""


async def test_a_stale_owner_writes_nothing(database: Database) -> None:
    execution = await launch(database, machines(1))
    first, second = Owner(database), Owner(database, "worker-2")
    await first.register()
    (run,) = (await first.claim()).runs
    await Workers(database).reap("worker-1")
    (taken,) = await second.take_over()
    assert (taken.id, taken.fence, taken.taken_over) == (run.id, run.fence + 1, True)
    late = await first.finish([run])
    assert late.stale == {run.id}
    assert (await read(database, execution)).status is ExecutionStatus.RUNNING
    assert [e.event for e in await ExecutionLog(database).read(execution.id)] == [
        "status",
        "status",
        "status",
    ]
    assert not (await second.finish([taken])).stale
    assert await faults(database) == []


async def test_a_takeover_skips_runs_of_living_workers(database: Database) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    await owner.claim()
    assert await Owner(database, "worker-2").take_over() == []


async def test_output_with_a_wrong_log_offset_is_refused(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    (run,) = (await owner.claim()).runs
    await owner.settle(owner.flush([run], None, data=b"0123"))
    again = owner.flush([run], RunStatus.SUCCEEDED, data=b"0123")
    assert (await owner.settle(again)).stale == {run.id}
    forward = owner.flush([run], RunStatus.SUCCEEDED)
    result = forward.results[0]
    result.begins, result.stored_before, result.stored, result.written = (
        False,
        (4, 0),
        (7, 0),
        (7, 0),
    )
    forward.lines[0].start_offset = 4
    assert not (await owner.settle(forward)).stale
    assert await faults(database) == []


async def test_a_flush_whose_answer_was_lost_is_neither_repeated_nor_dropped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = await launch(database, machines(3))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    commit = settling._settle

    async def and_then_the_line_breaks(*given: object) -> None:
        await commit(*given)  # type: ignore[arg-type]
        raise Unavailable("the answer to COMMIT was lost")

    monkeypatch.setattr(settling, "_settle", and_then_the_line_breaks)
    assert not (await owner.finish(runs)).stale
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_flush_that_was_not_committed_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs

    async def breaks(*_: object) -> None:
        raise Unavailable("the line broke before COMMIT")

    with monkeypatch.context() as broken:
        broken.setattr(settling, "_settle", breaks)
        with pytest.raises(Unavailable, match="was not committed"):
            await owner.finish(runs)
    owner.flushes -= 1
    assert not (await owner.finish(runs)).stale


async def test_a_given_back_run_waits_again_and_frees_its_slot(database: Database) -> None:
    execution = await launch(database, machines(1, slots=1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    flush = owner.flush(runs, RunStatus.WAITING)
    settled = await owner.settle(
        type(flush)(flush.owner, flush.worker, flush.number, flush.runs, (), flush.lines[1:])
    )
    assert settled.admitted == {"default": 1}
    (again,) = (await Owner(database, "worker-2").claim()).runs
    assert again.fence == 2
    assert not again.taken_over
    assert (await read(database, execution)).counts == {"running": 1}
    assert await faults(database) == []


async def test_a_cancel_beside_four_claiming_workers_leaves_nothing_waiting(
    database: Database,
) -> None:
    execution = await launch(database, machines(600), window=600)
    owners = [Owner(database, f"worker-{n}") for n in range(4)]

    async def claiming(owner: Owner) -> list[object]:
        seen: list[object] = []
        while claim := (await owner.claim(10)).runs:
            seen += claim
        return seen

    work = [asyncio.create_task(claiming(o)) for o in owners]
    await Ledger(database).cancel(execution.id, by="ada", reason="enough")
    held = await asyncio.gather(*work)
    stands = await read(database, execution)
    assert stands.counts.get("waiting", 0) == 0
    assert stands.counts.get("running", 0) == sum(map(len, held))
    for owner, runs in zip(owners, held, strict=True):
        if runs:
            await owner.finish(runs, RunStatus.CANCELLED)  # type: ignore[arg-type]
    assert (await read(database, execution)).status is ExecutionStatus.CANCELLED
    assert await faults(database) == []


async def test_a_cancelled_execution_with_nothing_running_ends_at_once_and_cannot_be_cancelled_again(
    database: Database,
) -> None:
    execution = await launch(database, machines(3))
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    assert (await read(database, execution)).status is ExecutionStatus.CANCELLED
    results = await database.fetch(
        "select status, cancel_proof from job_execution_results where execution_id = %s",
        [execution.id],
    )
    assert results == [{"status": "cancelled", "cancel_proof": "never_started"}] * 3
    with pytest.raises(Conflict, match="already ended"):
        await Ledger(database).cancel(execution.id, by="ada", reason=None)
    with pytest.raises(NotFound):
        await Ledger(database).cancel(10**9, by="ada", reason=None)
    assert [e.event for e in await ExecutionLog(database).read(execution.id)][-2:] == [
        "status",
        "end",
    ]


async def test_a_small_execution_is_served_beside_a_large_one(database: Database) -> None:
    await launch(database, machines(500), window=500)
    owner = Owner(database)
    await owner.claim(50)
    small = await launch(database, machines(1))
    claim = await owner.claim(3)
    assert small.id in {run.execution_id for run in claim.runs}


async def test_priority_is_a_share_not_a_privilege(database: Database) -> None:
    low = await launch(database, machines(200), window=200, priority=1)
    high = await launch(database, machines(200), window=200, priority=10)
    runs = (await Owner(database).claim(110)).runs
    of = {e.id: sum(r.execution_id == e.id for r in runs) for e in (low, high)}
    assert 8 <= of[high.id] / of[low.id] <= 12


async def test_waiting_runs_time_out_at_the_deadline(database: Database) -> None:
    execution = await launch(database, machines(3), timeout_seconds=60)
    assert (await Reconciler(database).run_once())["expired"] == 0
    await turn(database, 61)
    assert (await Owner(database).claim()).runs == []
    assert (await Reconciler(database).run_once())["expired"] == 3
    assert (await read(database, execution)).status is ExecutionStatus.TIMEOUT
    assert await faults(database) == []


async def test_a_worker_with_an_expired_lease_is_dead_and_stays_dead(database: Database) -> None:
    owner = await Owner(database).register(lease_seconds=15)
    workers = Workers(database)
    assert await workers.expire_leases() == []
    await turn(database, 16)
    assert await workers.expire_leases() == ["default"]
    lease = Lease(
        database.options.url, Incarnation(owner.id, owner.name, "default", 1, 1), lease_seconds=15
    )
    assert not (await lease.renew()).alive
    await lease.close()


async def test_only_a_worker_that_is_known_and_declared_dead_is_dead(database: Database) -> None:
    dead = await Owner(database).register(lease_seconds=15)
    workers = Workers(database)
    assert await workers.find_dead([dead.id]) == []
    await turn(database, 16)
    # its lease has expired, and it may still renew it
    assert await workers.find_dead([dead.id]) == []
    await workers.expire_leases()
    alive = await Owner(database).register(lease_seconds=15)
    assert await workers.find_dead([dead.id, alive.id, uuid4()]) == [dead.id]
    assert await workers.find_dead([]) == []


async def test_a_late_renewal_counts_until_the_lease_is_expired(database: Database) -> None:
    owner = await Owner(database).register(lease_seconds=15)
    lease = Lease(
        database.options.url, Incarnation(owner.id, owner.name, "default", 1, 1), lease_seconds=15
    )
    await turn(database, 3600)
    assert (await lease.renew()).alive
    assert await Workers(database).expire_leases() == []
    await lease.close()


async def test_runs_whose_claim_answer_was_lost_are_found(database: Database) -> None:
    await launch(database, machines(3))
    owner = Owner(database)
    known, *hidden = (await owner.claim()).runs
    found = await Ledger(database).find_unknown_runs(owner=owner.id, known=[known.id])
    assert [(r.id, r.fence, r.taken_over) for r in found] == [
        (r.id, r.fence, False) for r in hidden
    ]


async def test_slots_in_use_without_a_run_are_repaired(database: Database) -> None:
    await launch(database, machines(1, slots=1))
    async with database.connection() as connection:
        await connection.execute("update target_slots set used = 1")
    assert (await Owner(database).claim()).runs == []
    assert (await Reconciler(database).recount())["slots_mended"] == 1
    assert (await Reconciler(database).run_once())["unparked"] == 1
    assert len((await Owner(database).claim()).runs) == 1


async def test_a_step_of_a_round_that_fails_ends_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await launch(database, machines(2))
    async with database.connection() as connection:
        await connection.execute("update job_executions set cancelling = true")
        await connection.execute("update target_slots set used = 1")

    async def broken(*_: object, **__: object) -> int:
        raise ZeroDivisionError

    async def slow(*_: object, **__: object) -> int:
        raise Unavailable("canceling statement due to lock timeout")

    monkeypatch.setattr(reconcile, "expire", slow)
    monkeypatch.setattr(reconcile, "wake", broken)
    monkeypatch.setattr(reconcile, "wake_held", broken)
    with pytest.raises(ZeroDivisionError) as failed:
        await Reconciler(database).run_once()
    assert failed.value.__notes__ == ["in the step 'woken'"]
    assert await database.fetch("select 1 from job_executions where finished_at is null") == []
    with pytest.raises(ZeroDivisionError):
        await Reconciler(database).recount()
    assert await faults(database) == []


@pytest.mark.parametrize(
    "due", ["cancelling = true", "deadline_at = opsjobs_now() - interval '1 minute'"]
)
async def test_an_execution_that_cannot_be_ended_stops_no_other_end(
    database: Database, due: str
) -> None:
    bad, good = await launch(database, machines(2)), await launch(database, machines(2))
    async with database.connection() as connection:
        await connection.execute(f"update job_executions set {due}")
        # As a bug would leave it: one more run is ready than is counted.
        await connection.execute(
            "update job_executions set ready = ready - 1, succeeded = 1 where id = %s", [bad.id]
        )
    with pytest.raises(errors.CheckViolation) as failed:
        await Reconciler(database).run_once()
    assert f"for {bad.id}" in failed.value.__notes__
    assert (await read(database, good)).finished_at is not None
    assert (await read(database, bad)).finished_at is None


async def test_an_execution_that_cannot_be_claimed_stops_no_other_claim(
    database: Database,
) -> None:
    worker = await Owner(database).register()
    bad, good = await launch(database, machines(2)), await launch(database, machines(2))
    async with database.connection() as connection:
        # As a bug would leave it: one more run is ready than is counted.
        await connection.execute(
            "update job_executions set ready = ready - 1, succeeded = 1 where id = %s", [bad.id]
        )
    ledger = Ledger(database)
    given = {"owner": worker.id, "worker": worker.name, "zone": "default", "floor": 0}
    first = await ledger.claim(**given, limit=4)
    assert first.miscounted == [bad.id]
    assert {run.execution_id for run in first.runs} == {good.id}
    assert len(first.runs) == 2
    # It is skipped, even if no other candidates are left, and none of its data has changed.
    again = await ledger.claim(**given, limit=4)
    assert (again.runs, again.miscounted, again.more) == ((), [], False)
    rows = await database.fetch(
        "select distinct status, waiting_for from target_runs where execution_id = %s", [bad.id]
    )
    assert rows == [{"status": "waiting", "waiting_for": None}]


async def test_a_claim_that_fails_otherwise_sets_nothing_aside(database: Database) -> None:
    worker = await Owner(database).register()
    await launch(database, machines(1))
    async with database.connection() as connection:
        await connection.execute(
            "alter table target_slots add constraint never check (used = 0) not valid"
        )
    with pytest.raises(errors.CheckViolation, match="never"):
        await worker.claim()


async def test_an_execution_that_cannot_be_admitted_stops_no_other_admission(
    database: Database,
) -> None:
    owner = await Owner(database).register()
    bad, good = await launch(database, machines(2)), await launch(database, machines(2))
    await owner.defer((await owner.claim()).runs, WaitingFor.TIMER, seconds=60)
    async with database.connection() as connection:
        await connection.execute("update opsjobs_clock set shift = shift + interval '61 seconds'")
        await connection.execute(
            f"""create function refuse() returns trigger language plpgsql as $$ begin raise
              'no such thing'; end $$;
                create trigger refuse before update on job_executions for each row
                  when (old.id = {bad.id}) execute function refuse()"""
        )
    with pytest.raises(errors.RaiseException):
        await Reconciler(database).run_once()
    rows = await database.fetch(
        "select waiting_for from target_runs where execution_id = %s", [good.id]
    )
    assert [row["waiting_for"] for row in rows] == [None, None]


async def test_slots_are_checked_range_by_range(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "RECOUNT_ROWS", 2)
    await launch(database, machines(5, slots=1))
    async with database.connection() as connection:
        await connection.execute("update target_slots set used = 1")
    reconciler = Reconciler(database)
    assert [(await reconciler.recount())["slots_mended"] for _ in range(4)] == [2, 2, 1, 0]


async def test_every_change_has_one_event_in_order(database: Database) -> None:
    execution = await launch(database, machines(2))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.finish(runs[:1])
    await owner.settle(
        owner.flush(
            runs[1:], RunStatus.FAILED, error=RunError(ErrorCode.NONZERO_EXIT, "exit status 1")
        )
    )
    told = await database.fetch(
        "select type, from_seq, to_seq from events where execution_id = %s order by id",
        [execution.id],
    )
    assert [t["type"] for t in told] == [
        "execution.queued", "execution.started", "target_run", "target_run", "target_run", "execution.partial",
    ]  # fmt: skip
    entries = {e.seq: e for e in await ExecutionLog(database).read(execution.id)}
    of_runs = [s for s, e in entries.items() if e.event == "status" and e.target_run is not None]
    ranges = [range(t["from_seq"], t["to_seq"] + 1) for t in told if t["type"] == "target_run"]
    assert all(sum(seq in r for r in ranges) == 1 for seq in of_runs)


async def test_four_workers_on_four_executions_break_no_limit(database: Database) -> None:
    """Run a simulation of the ledger: slots, windows, a cancel."""
    dice = random.Random(7)
    executions = [
        await launch(database, machines(400, slots=2), window=60),
        await launch(database, machines(20, slots=2), window=20),
        await launch(database, machines(300, slots=2, first=100), window=50),
        await launch(database, machines(1, slots=2), window=1),
    ]

    begun = asyncio.Event()  # the cancel arrives while most runs of the third execution still wait

    async def work(owner: Owner) -> None:
        while True:
            runs = list((await owner.claim(40)).runs)
            if any(run.execution_id == executions[2].id for run in runs):
                begun.set()
            dice.shuffle(runs)
            if not runs and all([(await read(database, e)).finished_at for e in executions]):
                return
            for at in range(0, len(runs), 7):
                await owner.finish(runs[at : at + 7])
            await asyncio.sleep(0)

    async def cancel() -> None:
        await begun.wait()
        await Ledger(database).cancel(executions[2].id, by="ada", reason=None)

    owners = [Owner(database, f"worker-{n}") for n in range(4)]
    await asyncio.gather(*(work(o) for o in owners), cancel())
    assert await faults(database) == []
    statuses = [(await read(database, e)).status for e in executions]
    assert statuses[0] is statuses[1] is statuses[3] is ExecutionStatus.COMPLETED
    assert statuses[2] is ExecutionStatus.CANCELLED


async def test_the_verdict_is_the_same_in_sql_and_in_python(database: Database) -> None:
    dice = random.Random(1)
    ends = [s for s in RunStatus if s.final]
    cases = [{s: dice.choice((0, 0, 1, 3)) for s in ends} for _ in range(300)]
    for counts in cases:
        total = sum(counts.values())
        for asked in (True, False):
            given = [
                asked,
                total,
                *(counts[s] for s in (RunStatus.SUCCEEDED, RunStatus.TIMEOUT, RunStatus.CANCELLED)),
            ]
            row = await database.fetch_one(
                "select opsjobs_verdict(%s, %s, %s, %s, %s) as status", given
            )
            assert row == {"status": verdict(counts, cancel_asked=asked).value}


async def test_the_database_refuses_a_run_that_runs_without_an_owner(database: Database) -> None:
    await launch(database, machines(1))
    with pytest.raises(Exception, match="the_running_have_an_owner"):
        async with database.transaction() as connection:
            await connection.execute(
                "update target_runs set status = 'running', waiting_for = null, owner = null"
            )


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )


async def test_error_messages_of_any_kind_are_stored_as_they_are(database: Database) -> None:
    nasty = 'a "quoted" \\ {brace}, NULL, new\nline, tab\t, ümlaut, 日本, \U0001f600'
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.settle(
        owner.flush(runs, RunStatus.FAILED, error=RunError(ErrorCode.INTERNAL, nasty))
    )
    row = await database.fetch_one("select error_message from target_runs")
    assert row == {"error_message": nasty}


async def test_a_run_that_ends_by_itself_during_a_cancel_has_a_proof(database: Database) -> None:
    execution = await launch(database, machines(3))
    owner, ledger = Owner(database), Ledger(database)
    runs = (await owner.claim()).runs
    await owner.finish(runs[:1])
    await ledger.cancel(execution.id, by="ada", reason=None)
    await owner.finish(runs[1:2])
    await owner.settle(
        owner.flush(
            runs[2:], RunStatus.FAILED, error=RunError(ErrorCode.NONZERO_EXIT, "exit status 1")
        )
    )
    rows = await database.fetch(
        "select status, cancel_proof from target_runs where execution_id = %s order by id",
        [execution.id],
    )
    assert [(row["status"], row["cancel_proof"]) for row in rows] == [
        ("succeeded", None), ("succeeded", "already_finished"), ("failed", "already_finished"),
    ]  # fmt: skip
