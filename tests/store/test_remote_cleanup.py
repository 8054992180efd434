"""After the end of a run: folders due for removal, late lookups, late results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kit.ledger_fixtures import NOW, STORE, Owner, faults, launch, machines
from opsjobs.model.execution import CancelProof, ExecutionStatus, RunStatus
from opsjobs.model.program import RunKey, SpoolIdentity
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import ResultState, RunMove
from opsjobs.store.ledger.remote_cleanup import LateLookup
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
LATE = {"status": "succeeded", "exit_code": 0, "at": "2026-01-01T00:00:00.000Z"}


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )


async def in_a_store(
    database: Database, count: int = 1, *, zone: str = "default"
) -> tuple[Owner, Sequence[Claimed]]:
    """Return runs that were started in the spool of their target."""
    await launch(database, machines(count, zone=zone))
    owner = Owner(database, zone=zone)
    runs = (await owner.claim()).runs
    await owner.identify(runs, STORE)
    return owner, runs


async def cleaning(database: Database, limit: int = 100, zone: str = "default") -> list[int]:
    return [folder.run_id for folder in await Ledger(database).lease_cleanups(zone, limit)]


async def sweeps(database: Database, limit: int = 100, zone: str = "default") -> list[int]:
    return [sweep.run_id for sweep in await Ledger(database).lease_late_lookups(zone, limit)]


def sweep_of(run: Claimed) -> LateLookup:
    return LateLookup(
        run.id,
        run.execution_id,
        run.target_id,
        RunKey(run.uuid, "step-1", 1),
        kill=False,
        identity=STORE,
    )


# --- folders


async def test_folders_are_due_a_day_after_the_end_with_every_attempt_of_every_action(
    database: Database,
) -> None:
    owner, runs = await in_a_store(database)
    await owner.retry(runs)
    (run,) = (await owner.claim()).runs
    end = owner.flush([run])
    also = ResultState(
        run.id, "step-2", 2, True, RunStatus.SUCCEEDED, (0, 0), (0, 0), (0, 0), NOW, NOW, 0
    )
    await owner.settle(owner.say(end.runs, [*end.results, also], end.lines))
    assert await cleaning(database) == []
    await turn(database, DAY + 1)
    (folder,) = await Ledger(database).lease_cleanups("default", 10)
    assert (folder.run_id, folder.target_id) == (run.id, run.target_id)
    assert [str(key) for key in folder.keys] == [
        f"{run.uuid}.step-{step}.{attempt}" for step in (1, 2) for attempt in (1, 2)
    ]


async def test_an_attempt_that_was_voided_within_the_run_has_its_key(database: Database) -> None:
    owner, (run,) = await in_a_store(database)
    end = owner.flush([run])
    end.results[0].attempt = end.lines[0].attempt = 3
    await owner.settle(end)
    await turn(database, DAY + 1)
    (folder,) = await Ledger(database).lease_cleanups("default", 10)
    assert [key.attempt for key in folder.keys] == [1, 2, 3]


async def test_a_leased_cleanup_belongs_to_one_worker_until_it_answers_or_the_lease_ends(
    database: Database,
) -> None:
    owner, runs = await in_a_store(database, 30)
    await owner.finish(runs)
    await turn(database, DAY + 1)
    handed = await asyncio.gather(*(cleaning(database, 10) for _ in range(5)))
    assert sorted(i for ids in handed for i in ids) == sorted(run.id for run in runs)
    assert await cleaning(database) == []
    await Ledger(database).mark_cleaned([run.id for run in runs[:10]])
    await turn(database, HOUR / 2)
    await Ledger(database).postpone_cleanup([run.id for run in runs[10:20]])
    await turn(database, HOUR / 2 + 1)
    assert sorted(await cleaning(database)) == sorted(run.id for run in runs[20:])
    await Ledger(database).mark_cleaned([run.id for run in runs[20:]])
    await turn(database, HOUR / 2)
    assert sorted(await cleaning(database)) == sorted(run.id for run in runs[10:20])


async def test_locked_runs_are_skipped_without_waiting(database: Database) -> None:
    owner, runs = await in_a_store(database, 3)
    await owner.lose(runs)
    other, more = await in_a_store(database, 3)
    await other.finish(more)
    lost, ended = runs[0].id, more[0].id
    await turn(database, DAY + 1)
    async with database.transaction() as connection:
        await connection.execute(
            "select 1 from target_runs where id = any(%s) for update", [[lost, ended]]
        )
        assert sorted(await sweeps(database)) == [lost + 1, lost + 2]
        assert sorted(await cleaning(database)) == [ended + 1, ended + 2]
    assert (await sweeps(database), await cleaning(database)) == ([lost], [ended])


async def test_only_folders_of_its_own_zone_are_due_for_a_worker(database: Database) -> None:
    owner, runs = await in_a_store(database, zone="dmz")
    await owner.finish(runs)
    await turn(database, DAY + 1)
    assert await cleaning(database) == []
    assert await cleaning(database, zone="dmz") == [runs[0].id]


async def test_contradicting_answers_leave_no_folder_to_clean_twice(database: Database) -> None:
    owner, runs = await in_a_store(database, 40)
    await owner.finish(runs)
    await turn(database, DAY + 1)
    ids = await cleaning(database)
    ledger = Ledger(database)
    await asyncio.gather(
        ledger.mark_cleaned(ids), ledger.postpone_cleanup(ids[::-1]), ledger.mark_cleaned(ids[::-1])
    )
    await turn(database, HOUR + 1)
    assert await cleaning(database) == []


async def test_cleanup_of_an_unreachable_target_is_given_up_after_a_week(
    database: Database,
) -> None:
    owner, runs = await in_a_store(database)
    await owner.finish(runs)
    await turn(database, DAY + 1)
    tries = 0
    while ids := await cleaning(database):
        tries += 1
        await Ledger(database).postpone_cleanup(ids)
        await turn(database, 12 * HOUR)
    assert tries == 15
    assert await database.fetch("select spool_due from target_runs") == [{"spool_due": None}]


async def test_cleanup_after_a_refused_password_is_retried_after_a_day(database: Database) -> None:
    owner, runs = await in_a_store(database)
    await owner.finish(runs)
    await turn(database, DAY + 1)
    ids = await cleaning(database)
    await Ledger(database).postpone_cleanup(ids, refused=True)
    await turn(database, 20 * HOUR)
    assert await cleaning(database) == []
    await turn(database, 5 * HOUR)
    assert await cleaning(database) == ids


async def test_a_cleanup_whose_workers_die_is_given_up_in_the_end(database: Database) -> None:
    owner, runs = await in_a_store(database)
    await owner.finish(runs)
    await turn(database, 9 * DAY)
    assert await cleaning(database) == [runs[0].id]
    await turn(database, 2 * HOUR)
    assert await cleaning(database) == []


async def test_folders_of_an_open_run_are_not_cleaned_up(database: Database) -> None:
    owner, runs = await in_a_store(database)
    await owner.give_back(runs)
    await turn(database, 2 * DAY)
    (run,) = (await owner.claim()).runs
    assert await cleaning(database) == []
    await owner.finish([run])
    assert await cleaning(database) == []
    await turn(database, DAY + 1)
    assert await cleaning(database) == [run.id]


# --- unknown ends


@pytest.mark.parametrize(("proof", "kill"), [(CancelProof.UNREACHABLE, True), (None, False)])
async def test_a_late_lookup_finds_lost_commands_and_kills_those_to_be_stopped(
    database: Database, proof: CancelProof | None, kill: bool
) -> None:
    owner, (run,) = await in_a_store(database)
    await owner.lose([run], proof)
    assert await sweeps(database) == []
    await turn(database, MINUTE + 1)
    (sweep,) = await Ledger(database).lease_late_lookups("default", 10)
    assert (sweep.run_id, sweep.execution_id, sweep.target_id) == (
        run.id,
        run.execution_id,
        run.target_id,
    )
    assert (str(sweep.key), sweep.kill, sweep.identity) == (f"{run.uuid}.step-1.1", kill, STORE)


async def test_a_late_lookup_names_the_unknown_action_not_the_next_one(database: Database) -> None:
    owner, (run,) = await in_a_store(database)
    end = owner.flush([run], RunStatus.LOST)
    also = ResultState(
        run.id, "step-2", 1, True, RunStatus.FAILED, (0, 0), (0, 0), (0, 0), NOW, NOW, 0
    )
    await owner.settle(owner.say(end.runs, [*end.results, also], end.lines))
    async with database.connection() as connection:
        await connection.execute("update target_runs set sweep_due = opsjobs_now()")
    (sweep,) = await Ledger(database).lease_late_lookups("default", 10)
    assert sweep.key.action == "step-1"


@pytest.mark.parametrize(("kind", "looked_for"), [("script", 1), ("file_transfer", 0), ("wait", 0)])
async def test_late_lookups_are_made_for_commands_and_scripts_only(
    database: Database, kind: str, looked_for: int
) -> None:
    owner, (run,) = await in_a_store(database)
    async with database.connection() as connection:
        await connection.execute(
            "update execution_specs set actions = jsonb_set(actions, '{0,type}', "
            "to_jsonb(%s::text)) where execution_id = %s",
            [kind, run.execution_id],
        )
    await owner.settle(owner.flush([run], RunStatus.DEAD))
    async with database.connection() as connection:
        await connection.execute("update target_runs set sweep_due = opsjobs_now()")
    assert len(await Ledger(database).lease_late_lookups("default", 10)) == looked_for
    left = await database.fetch_one("select sweep_due is not null as due from target_runs")
    assert left == {"due": bool(looked_for)}, "nobody comes again for nothing"


async def test_lost_branches_are_looked_up_each_in_the_spool_it_started_in(
    database: Database,
) -> None:
    owner, (run,) = await in_a_store(database)
    rebooted = SpoolIdentity(STORE.store, "boot-2")
    lost = {"status": RunStatus.LOST, "started_at": NOW, "finished_at": NOW}
    none = {"begins": True, "stored_before": (0, 0), "stored": (0, 0), "written": (0, 0)}
    branches = [
        ResultState(run.id, "step-1", 1, **none, **lost, identity=STORE),  # type: ignore[arg-type]
        ResultState(
            run.id,
            "step-2",
            1,
            **none,
            **lost,
            identity=rebooted,
            cancel_proof=CancelProof.UNREACHABLE,
        ),  # type: ignore[arg-type]
        ResultState(run.id, "step-3", 1, **none, **lost, direct=True),  # type: ignore[arg-type]
        ResultState(run.id, "step-4", 1, **none, **lost, identity=STORE, again_seconds=0.0),  # type: ignore[arg-type]
    ]
    failed = RunMove(
        run.id, run.execution_id, run.target_id, run.fence, RunStatus.FAILED, 1, sweep=True
    )
    line = owner.flush([run]).lines[-1]
    await owner.settle(owner.say([failed], branches, [line]))
    await turn(database, MINUTE + 1)
    due = await Ledger(database).lease_late_lookups("default", 10)
    assert [(s.key.action, s.identity, s.kill) for s in due] == [
        ("step-1", STORE, False),
        ("step-2", rebooted, True),
    ]
    await Ledger(database).record_late_result(due[0], LATE)
    assert (await database.fetch("select sweep_due from target_runs"))[0]["sweep_due"] is not None
    await Ledger(database).postpone_late_lookup([run.id])
    await turn(database, HOUR)
    (left,) = await Ledger(database).lease_late_lookups("default", 10)
    assert left == due[1]
    await Ledger(database).record_late_result(left, {"status": "cancelled"})
    (row,) = await database.fetch("select late_result, sweep_due from target_runs")
    assert row == {"late_result": LATE, "sweep_due": None}
    told = await database.fetch("select action, late_result from job_execution_results order by id")
    assert [(r["late_result"] or {}).get("status") for r in told] == [
        "succeeded",
        "cancelled",
        None,
        None,
    ]


async def test_two_branches_recorded_concurrently_end_the_late_lookup(database: Database) -> None:
    owner, runs = await in_a_store(database, 10)
    results = [
        ResultState(run.id, f"step-{n}", 1, True, RunStatus.LOST, (0, 0), (0, 0), (0, 0), NOW, NOW, identity=STORE)
        for run in runs for n in (1, 2)
    ]  # fmt: skip
    lost = owner.flush(runs, RunStatus.LOST)
    await owner.settle(
        owner.say(lost.runs, results, [line for line in lost.lines if line.event == "status"])
    )
    async with database.connection() as connection:
        await connection.execute("update target_runs set sweep_due = opsjobs_now()")
    due = await Ledger(database).lease_late_lookups("default", 100)
    assert len(due) == 20
    await asyncio.gather(*(Ledger(database).record_late_result(sweep, LATE) for sweep in due))
    assert await database.fetch("select 1 from target_runs where sweep_due is not null") == []


async def test_two_workers_never_lease_the_same_late_lookup(database: Database) -> None:
    owner, runs = await in_a_store(database, 30)
    await owner.lose(runs)
    await turn(database, MINUTE + 1)
    handed = await asyncio.gather(*(sweeps(database, 10) for _ in range(5)))
    assert sorted(i for ids in handed for i in ids) == sorted(run.id for run in runs)


async def test_a_late_lookup_is_retried_after_a_pause_that_doubles_up_to_an_hour(
    database: Database,
) -> None:
    owner, runs = await in_a_store(database)
    await owner.lose(runs)
    await turn(database, MINUTE + 1)
    pauses = []
    for _ in range(8):
        ids = await sweeps(database)
        assert ids == [runs[0].id]
        await Ledger(database).postpone_late_lookup(ids)
        row = await database.fetch_one("select sweep_due - opsjobs_now() as pause from target_runs")
        assert row is not None
        pauses.append(round(row["pause"].total_seconds() / MINUTE))
        await turn(database, row["pause"].total_seconds() + 1)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


async def test_a_late_lookup_is_given_up_after_a_week_and_the_folder_may_go(
    database: Database,
) -> None:
    owner, runs = await in_a_store(database)
    await owner.lose(runs)
    await turn(database, 2 * DAY)
    assert await cleaning(database) == [], "the folder knows what is still looked for"
    await turn(database, 5 * DAY + 1)
    ids = await sweeps(database)
    await Ledger(database).postpone_late_lookup(ids)
    await turn(database, HOUR + 1)
    assert await sweeps(database) == []
    assert await cleaning(database) == ids == [runs[0].id]


async def test_a_late_result_is_recorded_once_and_changes_nothing_else(database: Database) -> None:
    owner, (run,) = await in_a_store(database)
    await owner.lose([run])
    kept = "select status, error_code, cancel_proof, exit_code, fence, finished_at from target_runs"
    before = await database.fetch(kept)
    execution = await Executions(database).get(run.execution_id)
    told = await database.fetch("select count(*) from events")
    await turn(database, MINUTE + 1)
    ledger = Ledger(database)
    (sweep,) = await ledger.lease_late_lookups("default", 10)
    await asyncio.gather(*(ledger.record_late_result(sweep, LATE) for _ in range(3)))
    await ledger.record_late_result(
        sweep, {"status": "failed", "exit_code": 1, "at": "2026-01-02T00:00:00.000Z"}
    )
    await ledger.postpone_late_lookup([run.id])
    (shown,) = (await Executions(database).runs(run.execution_id, PageRequest())).items
    assert (shown.status, shown.late_result) == (RunStatus.LOST, LATE)
    assert await database.fetch(kept) == before
    assert await Executions(database).get(run.execution_id) == execution
    assert await database.fetch("select count(*) from events") == told
    await turn(database, DAY)
    assert await sweeps(database) == []
    assert await cleaning(database) == [run.id]
    assert await faults(database) == []


async def test_an_open_run_gets_no_late_result(database: Database) -> None:
    _, (run,) = await in_a_store(database)
    await Ledger(database).record_late_result(sweep_of(run), LATE)
    assert await database.fetch("select late_result from target_runs") == [{"late_result": None}]


async def test_a_late_result_beside_a_postponement_ends_the_lookup(database: Database) -> None:
    owner, runs = await in_a_store(database, 20)
    await owner.lose(runs)
    await turn(database, MINUTE + 1)
    ledger = Ledger(database)
    due = await ledger.lease_late_lookups("default", 100)
    ids = [sweep.run_id for sweep in due]
    results = [ledger.record_late_result(sweep, LATE) for sweep in due]
    await asyncio.gather(
        ledger.postpone_late_lookup(ids[::-1]), *results, ledger.postpone_late_lookup(ids)
    )
    await turn(database, DAY)
    assert await sweeps(database) == []


async def test_a_late_result_does_not_change_the_status_of_an_execution(database: Database) -> None:
    owner, runs = await in_a_store(database, 2)
    await owner.finish(runs[:1])
    await owner.lose(runs[1:])
    await Ledger(database).record_late_result(sweep_of(runs[1]), LATE)
    ended = await Executions(database).get(runs[0].execution_id)
    assert (ended.status, ended.counts) == (ExecutionStatus.PARTIAL, {"succeeded": 1, "lost": 1})
