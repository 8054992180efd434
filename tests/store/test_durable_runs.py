"""Runs that outlive their worker: spools, retries, takeovers, poison."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from kit.ledger_fixtures import NOW, STORE, Owner, faults, launch, machines, read
from opsjobs.model.events import EventType, run_event
from opsjobs.model.execution import CancelProof, ErrorCode, ExecutionStatus, RunError, RunStatus
from opsjobs.model.program import SpoolIdentity
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import ResultState, RunMove
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.ledger.takeover import CLAIMS_MAX
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Workers

REBOOTED = SpoolIdentity("store-1", "boot-2")


async def run_row(database: Database) -> dict[str, Any]:
    (row,) = await database.fetch("select * from target_runs")
    return row


async def passed_on(database: Database, deaths: int, *, first: int = 1) -> list[Claimed]:
    """Take over the runs and die, one owner after another; return the claims of the last one."""
    taken: list[Claimed] = []
    for number in range(first, first + deaths):
        heir = await Owner(database, f"heir-{number}").register()
        taken = await heir.take_over()
        while more := await heir.take_over(waited=True):
            taken += more
        if number < first + deaths - 1:
            await heir.die()
    return taken


# --- identity


async def test_a_claim_returns_the_last_known_spool_of_the_target(database: Database) -> None:
    await launch(database, machines(2))
    owner = await Owner(database).register()
    first, second = (await owner.claim()).runs
    assert (first.identity, first.direct, second.identity) == (None, False, None)
    await owner.identify([first], STORE)
    await owner.finish([first])
    await launch(database, machines(2))
    assert {r.target_name: r.identity for r in (await owner.claim()).runs} == {
        "web-1": STORE,
        "web-2": None,
    }
    await owner.identify([second], STORE)
    await owner.die()
    heirs = await Owner(database, "worker-2").take_over()
    assert [(r.target_name, r.identity, r.direct) for r in heirs] == [
        ("web-2", STORE, False), ("web-1", STORE, False), ("web-2", None, False),
    ]  # fmt: skip
    assert await faults(database) == []


async def test_a_new_boot_id_is_known_from_its_commit_on(database: Database) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    for identity in (STORE, STORE, REBOOTED):
        assert not (await owner.identify(runs, identity)).stale
    assert await database.fetch("select target_id, store_id, boot_id from target_state") == [
        {"target_id": "1", "store_id": "store-1", "boot_id": "boot-2"}
    ]
    await owner.die()
    assert [r.identity for r in await Owner(database, "worker-2").take_over()] == [REBOOTED]


async def test_a_stale_owner_records_no_spool_of_a_target(database: Database) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    (run,) = (await owner.claim()).runs
    await owner.die()
    await Owner(database, "worker-2").take_over()
    assert (await owner.identify([run], STORE)).stale == {run.id}
    assert await database.fetch("select 1 from target_state") == []
    assert (await run_row(database))["boot_id"] is None


async def test_a_direct_start_is_recorded_for_a_takeover_and_not_for_the_target(
    database: Database,
) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    await owner.identify((await owner.claim()).runs, None)
    found = await Ledger(database).find_unknown_runs(owner=owner.id, known=[])
    assert [(r.direct, r.identity, r.taken_over) for r in found] == [(True, None, False)]
    await owner.die()
    (taken,) = await Owner(database, "worker-2").take_over()
    assert (taken.direct, taken.identity) == (True, None)
    assert await database.fetch("select 1 from target_state") == []


async def test_a_waiting_run_has_no_spool(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.identify(runs, None)
    await owner.give_back(runs)
    (again,) = (await owner.claim()).runs
    assert (again.direct, again.identity) == (False, None)
    await owner.identify([again], STORE)
    await owner.give_back([again])
    row = await run_row(database)
    assert (row["store_id"], row["boot_id"], row["spool_due"] is not None) == (None, None, True)


async def test_two_workers_that_reach_targets_in_another_order_do_not_deadlock(
    database: Database,
) -> None:
    fleet = machines(30)
    for _ in range(5):
        for targets in (fleet, fleet[::-1]):
            await launch(database, targets)
    owners = [Owner(database), Owner(database, "worker-2")]
    claims = [(await o.claim(30)).runs for o in owners]
    for boot in map(str, range(20)):
        flushes = [
            o.identify(r[:: 1 if o is owners[0] else -1], SpoolIdentity("store-1", boot))
            for o, r in zip(owners, claims, strict=True)
        ]
        assert [s.stale for s in await asyncio.gather(*flushes)] == [frozenset(), frozenset()]
    assert await database.fetch("select distinct boot_id from target_state") == [{"boot_id": "19"}]


# --- retry


async def test_a_retry_waits_as_the_next_attempt_and_is_logged(database: Database) -> None:
    execution = await launch(database, machines(1, slots=1))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    await owner.identify(runs, STORE)
    settled = await owner.retry(runs)
    assert (settled.stale, settled.admitted) == (frozenset(), {"default": 1})
    (again,) = (await owner.claim()).runs
    assert (again.attempt, again.fence, again.identity, again.direct) == (2, 2, STORE, False)
    states = [
        (e.body or {}).get("status")
        for e in await ExecutionLog(database).read_states(execution.id, after=0, upto=99, limit=9)
    ]
    attempts = [
        e.attempt
        for e in await ExecutionLog(database).read_states(execution.id, after=0, upto=99, limit=9)
    ]
    assert (states, attempts) == (["running", "waiting", "running"], [None, 2, None])
    await owner.finish([again])
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    results = await database.fetch("select attempt, status from job_execution_results order by id")
    assert results == [{"attempt": 1, "status": "lost"}, {"attempt": 2, "status": "succeeded"}]
    assert await faults(database) == []


async def test_a_retry_whose_answer_was_lost_is_recalled(database: Database) -> None:
    await launch(database, machines(1, slots=1))
    owner = await Owner(database).register()
    runs = (await owner.claim()).runs
    await owner.retry(runs)
    owner.flushes -= 1
    assert not (await owner.retry(runs)).stale
    assert (await run_row(database))["attempt"] == 2
    assert await faults(database) == []


async def test_a_retry_and_a_cancel_at_once_leave_nothing_waiting(database: Database) -> None:
    for _ in range(10):
        execution = await launch(database, machines(4))
        owner = Owner(database)
        runs = (await owner.claim()).runs
        ledger = Ledger(database)
        settled, _ = await asyncio.gather(
            owner.retry(runs), ledger.cancel(execution.id, by="ada", reason=None)
        )
        assert not settled.stale
        await Reconciler(database).run_once()
        ended = await read(database, execution)
        assert (ended.status, ended.counts) == (ExecutionStatus.CANCELLED, {"cancelled": 4})
    assert await faults(database) == []


async def test_a_cancelled_retry_has_a_cancelled_result_and_its_folders_stay_due(
    database: Database,
) -> None:
    execution = await launch(database, machines(1), actions=2)
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.identify(runs, STORE)
    await owner.retry(runs)
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    results = await database.fetch(
        "select action, attempt, status, cancel_proof from job_execution_results order by id"
    )
    assert results == [
        {"action": "step-1", "attempt": 1, "status": "lost", "cancel_proof": None},
        {"action": "step-1", "attempt": 2, "status": "cancelled", "cancel_proof": "never_started"},
    ]
    assert (await run_row(database))["spool_due"] is not None
    assert await faults(database) == []


async def test_a_cancel_between_two_actions_ends_at_the_second(database: Database) -> None:
    execution = await launch(database, machines(1), actions=2)
    owner = Owner(database)
    (run,) = (await owner.claim()).runs
    done = owner.flush([run], RunStatus.WAITING)
    done.results[0].status, done.results[0].finished_at = RunStatus.SUCCEEDED, NOW
    await owner.settle(done)
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    results = await database.fetch("select action, status from job_execution_results order by id")
    assert results == [
        {"action": "step-1", "status": "succeeded"},
        {"action": "step-2", "status": "cancelled"},
    ]


def test_each_state_of_a_run_has_its_event() -> None:
    assert run_event(RunStatus.WAITING, retry=False) is None
    assert run_event(RunStatus.WAITING, retry=True) is EventType.TARGET_RUN_RETRIED
    told = {
        status: run_event(status, retry=False)
        for status in RunStatus
        if status is not RunStatus.WAITING
    }
    assert {s for s, e in told.items() if e is not EventType.TARGET_RUN_FINISHED} == {
        RunStatus.RUNNING,
        RunStatus.LOST,
        RunStatus.DEAD,
    }
    assert told[RunStatus.DEAD] is EventType.TARGET_RUN_DEAD


# --- take-over and poison


async def test_a_takeover_counts_as_a_death_unless_the_owner_stopped_in_order(
    database: Database,
) -> None:
    await launch(database, machines(1))
    first, second = await Owner(database).register(), await Owner(database, "worker-2").register()
    await first.claim()
    await first.stop()
    (taken,) = await second.take_over()
    assert (taken.taken_over, (await run_row(database))["claims"]) == (True, 0)
    await second.die()
    await Owner(database, "worker-3").take_over()
    assert (await run_row(database))["claims"] == 1


async def test_a_takeover_whose_answer_was_lost_is_still_a_takeover(database: Database) -> None:
    await launch(database, machines(1))
    first, second = await Owner(database).register(), Owner(database, "worker-2")
    await first.claim()
    await first.stop()
    (taken,) = await second.take_over()
    await second.settle(second.flush([taken], None))
    assert [
        r.taken_over for r in await Ledger(database).find_unknown_runs(owner=second.id, known=[])
    ] == [True]
    await second.settle(
        second.say(
            [RunMove(taken.id, taken.execution_id, taken.target_id, taken.fence, RunStatus.WAITING)]
        )
    )
    await second.claim()
    assert [
        r.taken_over for r in await Ledger(database).find_unknown_runs(owner=second.id, known=[])
    ] == [False]


@pytest.mark.parametrize("sign", ["output", "identity", "given back"])
async def test_a_sign_of_life_resets_the_poison_counter(database: Database, sign: str) -> None:
    await launch(database, machines(1))
    owner, heir = await Owner(database).register(), Owner(database, "heir")
    await owner.claim()
    await owner.die()
    taken = await heir.take_over()
    assert (await run_row(database))["claims"] == 1
    await heir.settle(
        heir.say([RunMove(taken[0].id, taken[0].execution_id, taken[0].target_id, taken[0].fence)])
    )
    assert (await run_row(database))["claims"] == 1, "to say nothing is no sign"
    match sign:
        case "output":
            await heir.settle(heir.flush(taken, None))
        case "identity":
            await heir.identify(taken, STORE)
        case _:
            await heir.give_back(taken)
    assert (await run_row(database))["claims"] == 0


async def test_output_of_a_run_that_never_changed_hands_touches_no_row_of_it(
    database: Database,
) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    where = "select ctid::text from target_runs"
    before = await database.fetch(where)
    await owner.settle(owner.flush(runs, None))
    assert await database.fetch(where) == before


async def test_a_poisonous_run_is_dead_after_the_sixth_death(database: Database) -> None:
    execution = await launch(database, machines(2, slots=1))
    waiting = await launch(database, machines(1, slots=1))
    owner = await Owner(database).register()
    poison, _other = (await owner.claim(2)).runs
    assert (await owner.claim()).runs == []
    await owner.identify([poison], STORE)
    await owner.settle(owner.flush([poison], None))
    await owner.die()
    assert len(await passed_on(database, CLAIMS_MAX)) == 2
    await Workers(database).reap(f"heir-{CLAIMS_MAX}")
    last = Owner(database, "last")
    assert await last.take_over() == []
    ended = await read(database, execution)
    assert (ended.status, ended.counts) == (ExecutionStatus.FAILED, {"dead": 2})
    rows = await database.fetch(
        "select error_code, spool_due is not null as folder, sweep_due is not null as sweep from "
        "target_runs where execution_id = %s"
        " order by id",
        [execution.id],
    )
    assert rows == [
        {"error_code": "poison", "folder": True, "sweep": True},
        {"error_code": "poison", "folder": False, "sweep": False},
    ]
    results = await database.fetch(
        "select action, status, stdout_stored, error_code from job_execution_results order by id"
    )
    assert results == [
        {"action": "step-1", "status": "dead", "stdout_stored": 3, "error_code": "poison"},
        {"action": "step-1", "status": "dead", "stdout_stored": 0, "error_code": "poison"},
    ]
    entries = await ExecutionLog(database).read(execution.id)
    assert [e.event for e in entries[-5:]] == ["result", "status", "status", "status", "end"]
    assert (entries[-5].body or {})["status"] == (entries[-4].body or {})["status"] == "dead"
    told = await database.fetch(
        "select type from events where execution_id = %s order by id desc limit 2", [execution.id]
    )
    assert [t["type"] for t in told] == ["execution.failed", "target_run"]
    # Its slot is free: a run that was parked for it is ready.
    assert [r.execution_id for r in (await last.claim()).runs] == [waiting.id]
    assert await faults(database) == []


async def test_a_takeover_beside_poison_takes_the_other_runs(database: Database) -> None:
    await launch(database, machines(1))
    owner = await Owner(database).register()
    (poison,) = (await owner.claim()).runs
    await owner.die()
    await passed_on(database, CLAIMS_MAX)
    await launch(database, machines(3))
    last = Owner(database, f"heir-{CLAIMS_MAX}")
    (last.id,) = [
        row["owner"]
        for row in await database.fetch("select owner from target_runs where id = %s", [poison.id])
    ]
    good = (await last.claim()).runs
    await Workers(database).reap(last.name)
    taken = await Owner(database, "last").take_over()
    assert {r.id for r in taken} == {r.id for r in good}
    assert (await database.fetch("select status from target_runs where id = %s", [poison.id])) == [
        {"status": "dead"}
    ]
    assert await faults(database) == []


async def owner_after_two_deaths(database: Database, count: int) -> Owner:
    """Return the next owner of this many runs whose last two workers died with them."""
    await launch(database, machines(count))
    first, second = await Owner(database).register(), await Owner(database, "second").register()
    assert len((await first.claim()).runs) == count
    await first.die()
    assert len(await second.take_over()) == count
    await second.die()
    return await Owner(database, "third").register()


async def test_after_two_deaths_a_takeover_hands_out_runs_one_by_one(database: Database) -> None:
    third = await owner_after_two_deaths(database, 4)
    (one,) = await third.take_over()
    assert await third.take_over() == []
    await third.identify([one], STORE)
    (two,) = await third.take_over()
    assert await third.take_over() == []
    (three,) = await third.take_over(waited=True)
    await third.settle(third.flush([two, three]))
    (four,) = await third.take_over()
    assert len({one.id, two.id, three.id, four.id}) == 4


async def test_poison_does_not_count_against_other_runs_of_its_worker(database: Database) -> None:
    heir = await owner_after_two_deaths(database, 3)
    for number in range(CLAIMS_MAX - 1):
        (suspect,) = await heir.take_over()
        await heir.die()
        heir = await Owner(database, f"heir-{number}").register()
    (other,) = await heir.take_over()
    dead = await database.fetch("select id from target_runs where status = 'dead'")
    assert [row["id"] for row in dead] == [suspect.id]
    living = await database.fetch(
        "select id, claims from target_runs where status = 'running' order by id"
    )
    assert [row["claims"] for row in living] == [2, 1], (
        "a run that waits for its turn counts no deaths"
    )
    assert living[0]["id"] == other.id
    assert await faults(database) == []


async def test_a_takeover_of_other_runs_does_not_wait_behind_a_suspect(database: Database) -> None:
    third = await owner_after_two_deaths(database, 2)
    await launch(database, machines(3, first=10))
    other = await Owner(database, "other").register()
    fresh = (await other.claim()).runs
    await other.die()
    taken = await third.take_over()
    assert {run.id for run in fresh} < {run.id for run in taken}
    assert len(taken) == len(fresh) + 1


async def test_two_concurrent_takeovers_end_a_poisonous_run_once(database: Database) -> None:
    for round_ in range(5):
        execution = await launch(database, machines(6))
        owner = await Owner(database, f"first-{round_}").register()
        await owner.claim()
        await owner.die()
        await passed_on(database, CLAIMS_MAX, first=round_ * 10)
        await Workers(database).reap(f"heir-{round_ * 10 + CLAIMS_MAX - 1}")
        heirs = [Owner(database, f"last-{n}") for n in range(3)]
        taken = await asyncio.gather(*(heir.take_over(4) for heir in heirs for _ in range(2)))
        assert [runs for runs in taken if runs] == []
        assert (await read(database, execution)).counts == {"dead": 6}
        assert await faults(database) == []


async def test_poison_and_the_other_run_of_an_execution_at_once_end_it(database: Database) -> None:
    for round_ in range(8):
        execution = await launch(database, machines(2))
        owner, other = await Owner(database, f"first-{round_}").register(), Owner(database, "good")
        await owner.claim(1)
        good = (await other.claim(1)).runs
        await owner.die()
        await passed_on(database, CLAIMS_MAX, first=round_ * 10)
        await Workers(database).reap(f"heir-{round_ * 10 + CLAIMS_MAX - 1}")
        await asyncio.gather(Owner(database, "last").take_over(), other.finish(good))
        ended = await read(database, execution)
        assert (ended.status, ended.counts) == (
            ExecutionStatus.PARTIAL,
            {"succeeded": 1, "dead": 1},
        )
    assert await faults(database) == []


async def test_a_late_settle_beside_a_takeover_is_committed_whole_or_not_at_all(
    database: Database,
) -> None:
    for round_ in range(2):  # each may cost a deadlock, which PostgreSQL detects after a second
        execution = await launch(database, machines(5))
        owner, heir = await Owner(database, f"first-{round_}").register(), Owner(database, "heir")
        runs = (await owner.claim()).runs
        await owner.die()
        late, taken = await asyncio.gather(owner.finish(runs), heir.take_over())
        assert {r.id for r in taken} == set(late.stale)
        if taken:
            await heir.finish(taken)
        assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_poison_names_the_action_that_would_have_come_next(database: Database) -> None:
    await launch(database, machines(1), actions=3)
    owner = await Owner(database).register()
    (run,) = (await owner.claim()).runs
    done = ResultState(
        run.id, "step-1", 1, True, RunStatus.SUCCEEDED, (0, 0), (0, 0), (0, 0), NOW, NOW, 0
    )
    void = ResultState(
        run.id,
        "step-2",
        1,
        True,
        RunStatus.SKIPPED,
        (0, 0),
        (0, 0),
        (0, 0),
        NOW,
        NOW,
        cancel_proof=CancelProof.NEVER_STARTED,
    )
    await owner.settle(
        owner.say([RunMove(run.id, run.execution_id, run.target_id, run.fence)], [done, void])
    )
    await owner.die()
    await passed_on(database, CLAIMS_MAX)
    await Workers(database).reap(f"heir-{CLAIMS_MAX}")
    assert await Owner(database, "last").take_over() == []
    results = await database.fetch(
        "select action, attempt, status from job_execution_results order by id"
    )
    assert results[2:] == [{"action": "step-2", "attempt": 2, "status": "dead"}]


async def test_a_run_without_an_open_action_is_taken_over_after_any_number_of_deaths(
    database: Database,
) -> None:
    execution = await launch(database, machines(1))
    owner = await Owner(database).register()
    (run,) = (await owner.claim()).runs
    done = ResultState(
        run.id, "step-1", 1, True, RunStatus.SUCCEEDED, (0, 0), (0, 0), (0, 0), NOW, NOW, 0
    )
    await owner.settle(
        owner.say([RunMove(run.id, run.execution_id, run.target_id, run.fence)], [done])
    )
    await owner.die()
    (taken,) = await passed_on(database, CLAIMS_MAX + 3)
    last = Owner(database, id=(await run_row(database))["owner"])
    end = last.flush([taken])
    await last.settle(replace(end, results=(), lines=end.lines[1:]))
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED


# --- the final move


@pytest.mark.parametrize(
    ("code", "proof", "sweep"),
    [
        (ErrorCode.LOST, None, True),
        (ErrorCode.LOST, CancelProof.UNREACHABLE, True),
        (ErrorCode.CANCELLED, CancelProof.KILLED, False),
        (ErrorCode.NONZERO_EXIT, None, False),
    ],
)
@pytest.mark.parametrize("where", [STORE, None])
async def test_a_run_lost_in_a_spool_is_looked_up_and_cleaned_up(
    database: Database,
    where: SpoolIdentity | None,
    code: ErrorCode,
    proof: CancelProof | None,
    sweep: bool,
) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.identify(runs, where)
    await owner.settle(
        owner.flush(runs, code.run_status, error=RunError(code, "so it was"), proof=proof)
    )
    due = (
        "select spool_due - opsjobs_now() as spool, sweep_due - opsjobs_now() as sweep from "
        "target_runs"
    )
    row = await database.fetch_one(due)
    assert row is not None
    if where is None:
        assert row == {"spool": None, "sweep": None}
    else:
        assert 86_370 < row["spool"].total_seconds() <= 86_400
        assert (row["sweep"] is not None) == sweep
        assert row["sweep"] is None or 30 < row["sweep"].total_seconds() <= 60


async def test_a_spool_recorded_in_the_last_flush_counts(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    flush = owner.flush((await owner.claim()).runs)
    await owner.settle(replace(flush, runs=[replace(move, identity=STORE) for move in flush.runs]))
    row = await run_row(database)
    assert (row["boot_id"], row["spool_due"] is not None) == ("boot-1", True)
    assert len(await database.fetch("select 1 from target_state")) == 1


async def test_a_direct_action_after_a_durable_one_keeps_the_folder_due(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    await owner.identify(runs, STORE)
    await owner.identify(runs, None)
    await owner.lose(runs)
    row = await run_row(database)
    assert (row["spool_due"] is not None, row["sweep_due"]) == (True, None)


async def test_a_claim_reads_the_spool_without_waiting_for_its_writer(database: Database) -> None:
    await launch(database, machines(1))
    owner = Owner(database)
    await owner.identify((await owner.claim()).runs, STORE)
    with psycopg.connect(database.options.url) as other:
        other.execute("update target_state set boot_id = 'boot-9'")
        await launch(database, machines(1))
        assert [r.identity for r in (await owner.claim()).runs] == [STORE]
