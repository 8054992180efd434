"""Old data is deleted, and data that is still needed is kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from kit.backing_servers import AUDIT_KEY
from kit.ledger_fixtures import STORE, Owner, launch, machines, read
from opsjobs.engine.background.housekeeping import RetentionService
from opsjobs.engine.loop import Turn
from opsjobs.model.errors import Gone, NotFound
from opsjobs.model.execution import RunStatus
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution
from opsjobs.store import dead_letters, retention
from opsjobs.store.audit_chain import Seals
from opsjobs.store.deliveries import Deliveries
from opsjobs.store.execution_log import ExecutionLog, Partitions
from opsjobs.store.executions import Executions
from opsjobs.store.feeds import EventFeed
from opsjobs.store.jobs import Jobs
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.retention import Leftovers, Retention, RetentionLimits
from opsjobs.store.transaction import Database
from opsjobs.store.workers import SingletonLock
from opsjobs.telemetry.metrics import Metrics
from store.drafts import job
from store.test_blobs import upload

DAY = 86_400.0
KEEP = RetentionLimits(
    log_seconds=30 * DAY,
    artifact_seconds=30 * DAY,
    execution_seconds=30 * DAY,
    executions_per_job=1_000,
    file_seconds=30 * DAY,
)


async def turn(database: Database, days: float, *, read: bool = True) -> None:
    """Let the days pass; publish events that are due meanwhile, and let every source read them."""
    if read:
        await EventFeed(database).assign()
    async with database.connection() as connection:
        if read:
            await connection.execute(
                "update delivery_sources set position = (select last from event_positions)"
            )
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [days * DAY]
        )
        await connection.execute(
            "update events set published_at = opsjobs_now() where published_at is null"
        )


async def ended_execution(
    database: Database, *, targets: int = 1, first: int = 1, status: RunStatus = RunStatus.SUCCEEDED
) -> Execution:
    execution = await launch(database, machines(targets, first=first))
    owner = await Owner(database).register()
    await owner.finish((await owner.claim()).runs, status)
    return await read(database, execution)


async def make_partitions(database: Database) -> None:
    partitions = Partitions(database)
    for day in await partitions.find_missing():
        await partitions.make(day)


def keeper(
    database: Database, keep: RetentionLimits = KEEP, metrics: Metrics | None = None
) -> RetentionService:
    turn = Turn("retention", SingletonLock(database), metrics or Metrics())
    return RetentionService(turn, Retention(database), keep, Seals(database, [AUDIT_KEY]))


async def execution_ids(database: Database) -> list[int]:
    return [row["id"] for row in await database.fetch("select id from job_executions order by id")]


async def partitions(database: Database) -> int:
    query = "select count(*) as n from pg_inherits where inhparent = 'execution_log'::regclass"
    return int((await database.fetch(query))[0]["n"])


async def all_days(database: Database, keep: RetentionLimits = KEEP) -> int:
    total = 0
    while part := await Retention(database).drop_days(keep):
        total += part
    return total


async def test_old_days_of_the_log_are_dropped_and_reading_them_is_gone(database: Database) -> None:
    old = await ended_execution(database)
    journal = ExecutionLog(database)
    await turn(database, 29)
    await make_partitions(database)
    young = await ended_execution(database)
    assert await all_days(database) == 0
    await turn(database, 3)
    assert await all_days(database) >= 1
    with pytest.raises(Gone) as gone:
        await journal.check_available(old)
    assert (gone.value.code, gone.value.status) == ("log_dropped", 410)
    assert await journal.read(old.id) == []
    assert (await Executions(database).get(old.id)).counts == {"succeeded": 1}
    await journal.check_available(young)
    assert len(await journal.read(young.id)) == young.last_seq
    names = await database.fetch(
        "select relname from pg_class where relname ~ '^execution_log_[0-9]{8}$' and relkind = 'r'"
    )
    assert len(names) == await partitions(database) - 1


async def test_a_day_stays_as_long_as_an_execution_of_it_is_open(database: Database) -> None:
    execution = await launch(database, machines(1))
    await turn(database, 40)
    before = await partitions(database)
    dropped = await all_days(database)
    assert await partitions(database) == before - dropped
    assert await ExecutionLog(database).read(execution.id) != []
    await ExecutionLog(database).check_available(execution)
    owner = await Owner(database).register()
    await owner.finish((await owner.claim()).runs)
    assert await all_days(database) == 1
    with pytest.raises(Gone):
        await ExecutionLog(database).check_available(await read(database, execution))


async def test_a_log_day_in_use_is_dropped_later_and_a_half_dropped_one_is_finished(
    database: Database,
) -> None:
    await ended_execution(database)
    await turn(database, 60)
    async with database.transaction() as reader:
        await reader.execute("select count(*) from execution_log")
        assert await all_days(database) == 0
    before = await partitions(database)
    day = (await database.fetch("select min(log_day) as day from job_executions"))[0]["day"]
    async with database.transaction() as died:
        await died.execute(f"alter table execution_log detach partition execution_log_{day:%Y%m%d}")
        await died.execute("insert into dropped_log_days (log_day) values (%s)", [day])
    assert await all_days(database) == before - 2  # the default partition stays
    assert (
        await database.fetch("select to_regclass(%s) as there", [f"execution_log_{day:%Y%m%d}"])
    )[0]["there"] is None


async def test_old_executions_are_deleted_with_all_their_data(database: Database) -> None:
    old = await ended_execution(database, targets=3)
    await turn(database, 31)
    young = await ended_execution(database)
    assert await Retention(database).delete_executions(KEEP) == 1
    assert await Retention(database).delete_executions(KEEP) == 0
    with pytest.raises(NotFound):
        await Executions(database).get(old.id)
    for table in ("target_runs", "job_execution_results", "execution_specs"):
        assert {
            row["execution_id"] for row in await database.fetch(f"select execution_id from {table}")
        } == {young.id}


async def test_the_newest_executions_of_a_job_are_kept(database: Database) -> None:
    await database.fetch(
        """insert into jobs (uuid, name, state, created_by)
          select gen_random_uuid(), n, 'active', 'ada'
        from unnest(array['a', 'b']) n returning 1"""
    )
    for number in (1, 1, 2, 1, 2, 1):
        await of_job(database, number)
    await turn(database, 1)
    keep = replace(KEEP, executions_per_job=2)
    assert await Retention(database).delete_surplus(keep) == 2
    assert await execution_ids(database) == [3, 4, 5, 6]


async def of_job(database: Database, job: int) -> None:
    made = await ended_execution(database)
    async with database.connection() as connection:
        await connection.execute(
            """with counted as (update jobs set last_number = last_number + 1 where id = %s
              returning id, last_number)
            update job_executions e set job_id = counted.id, number = counted.last_number
              from counted where e.id = %s""",
            [job, made.id],
        )


async def test_executions_with_open_dead_letters_cleanups_or_events_are_kept(
    database: Database,
) -> None:
    asked = await launch(database, machines(1))
    owner = await Owner(database).register()
    await owner.lose((await owner.claim()).runs)
    visited = await launch(database, machines(1))
    runs = (await owner.claim()).runs
    await owner.identify(runs, STORE)
    await owner.finish(runs)
    await turn(database, 31)
    async with database.connection() as connection:
        await connection.execute(
            "update target_runs set spool_due = opsjobs_now() where spool_due is not null"
        )
    untold = await ended_execution(database, first=9)
    async with database.connection() as connection:
        await connection.execute(
            "update job_executions set finished_at = opsjobs_now() - interval '31 days' where id = "
            "%s",
            [untold.id],
        )
    keeping = Retention(database)
    assert await keeping.delete_executions(KEEP) == 0
    (run,) = await database.fetch("select id from target_runs where execution_id = %s", [asked.id])
    async with database.transaction() as connection:
        await dead_letters.answer(connection, [run["id"]], "discarded", by="ada", reason="gone")
    assert await keeping.delete_executions(KEEP) == 1
    assert await execution_ids(database) == [visited.id, untold.id]
    await Ledger(database).mark_cleaned([r.id for r in runs])
    await turn(database, 0)
    assert await keeping.delete_executions(KEEP) == 2


async def test_executions_stay_until_every_source_of_deliveries_has_read_their_events(
    database: Database,
) -> None:
    feed, deliveries = EventFeed(database), Deliveries(database)
    execution = await ended_execution(database)
    await turn(database, 31, read=False)
    await deliveries.start_source("audit", 1_000)
    keeping = Retention(database)
    assert await keeping.delete_executions(KEEP) == 0, "its events have no position yet"
    assert await feed.assign() > 0
    assert await keeping.delete_executions(KEEP) == 0
    for source in ("webhooks", "notifications"):
        assert await keeping.delete_executions(KEEP) == 0
        async with deliveries.reading(source) as reading:
            assert reading is not None
            reading.position = (await feed.bounds()).last
    assert await execution_ids(database) == [execution.id]
    assert await keeping.delete_executions(KEEP) == 1


async def test_the_position_of_the_audit_log_keeps_no_execution(database: Database) -> None:
    deliveries = Deliveries(database)
    await deliveries.start_source("audit_service", 1)
    await database.fetch(
        "insert into events (shard, type, subject, at) select 0, 'job.created', gen_random_uuid(), "
        "opsjobs_now() from generate_series(1, 100) returning 1"
    )
    await ended_execution(database)
    await EventFeed(database).assign()
    await turn(database, 31)
    assert await Retention(database).delete_executions(KEEP) == 1


async def test_executions_that_stay_do_not_block_the_deletion_of_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EXECUTIONS", 2)
    monkeypatch.setattr(retention, "PARTS_MAX", 2)
    stay = [(await ended_execution(database, status=RunStatus.LOST)).id for _ in range(7)]
    for _ in range(3):
        await ended_execution(database)
    await turn(database, 31)
    keeping = Retention(database)
    gone = [await keeping.delete_executions(KEEP) for _ in range(3)]
    assert gone == [0, 1, 2]
    assert await execution_ids(database) == stay
    async with database.transaction() as connection:
        runs = await (
            await connection.execute(
                "select id from target_runs where execution_id = %s", [stay[0]]
            )
        ).fetchall()
        await dead_letters.answer(
            connection, [run["id"] for run in runs], "discarded", by="ada", reason="gone"
        )
    assert sum([await keeping.delete_executions(KEEP) for _ in range(4)]) == 1, (
        "it begins again behind the last"
    )


async def test_executions_of_many_runs_are_deleted_in_parts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "RUNS", 5)
    for targets in (3, 3, 9, 1):
        await ended_execution(database, targets=targets)
    await turn(database, 31)
    keeping = Retention(database)
    assert [await keeping.delete_executions(KEEP) for _ in range(4)] == [2, 1, 1, 0]


async def test_a_child_outlives_its_parent_and_an_open_one_keeps_it(database: Database) -> None:
    parent = await ended_execution(database, status=RunStatus.FAILED)
    (run,) = await database.fetch("select * from target_runs where execution_id = %s", [parent.id])
    child = await retried_run(database, parent, run)
    await turn(database, 31)
    assert await Retention(database).delete_executions(KEEP) == 0
    owner = await Owner(database).register()
    await owner.finish((await owner.claim()).runs)
    await turn(database, 1)
    assert await Retention(database).delete_executions(KEEP) == 1
    assert (await read(database, child)).parent is None


async def retried_run(database: Database, parent: Execution, run: dict[str, Any]) -> Execution:
    made = await launch(database, [])
    rows = await database.fetch("select * from execution_specs where execution_id = %s", [made.id])
    new = NewExecution(
        run["uuid"], None, None, "ad-hoc", rows[0]["actions"], {}, 5, 50, None, machines(1), made.triggered_by, Identity("api_key", "ada"),
        parent=parent.id, retried_runs={run["target_id"]: run["id"]},
    )  # fmt: skip
    async with database.transaction() as connection:
        await connection.execute("delete from job_executions where id = %s", [made.id])
        return await Ledger(database).launch(connection, new)


def bring(source: object) -> dict[str, Any]:
    return {
        "key": "put",
        "type": "file_transfer",
        "direction": "upload",
        "source": str(source),
        "destination": "/etc/app.conf",
    }


async def test_old_files_are_deleted_unless_a_job_or_a_kept_execution_names_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FILES", 2)
    names = (
        "nobody's",
        "a job's",
        "a job's by id",
        "an archived job's",
        "an execution's",
        "nobody's either",
    )
    files = {name: await upload(database, b"x", name) for name in names}
    jobs = Jobs(database)
    await jobs.create(
        job(
            "deploy",
            actions=[
                bring(files["a job's"].uuid),
                bring(files["a job's by id"].id) | {"key": "too"},
            ],
        ),
        "ada",
    )
    await jobs.create(job("old", actions=[bring(files["an archived job's"].uuid)]), "ada")
    await jobs.archive("2", "ada")
    execution = await ended_execution(database)
    actions = Jsonb([{"key": "first", "type": "command"}, bring(files["an execution's"].uuid)])
    await database.fetch("update execution_specs set actions = %s returning 1", [actions])
    await turn(database, 29)
    await upload(database, b"x", "young")
    await turn(database, 2)
    keeping = Retention(database)
    assert sum([await keeping.delete_files(KEEP) for _ in range(4)]) == 3
    left = {row["name"] for row in await database.fetch("select name from files")}
    assert left == {"a job's", "a job's by id", "an execution's", "young"}
    await database.fetch("delete from job_executions where id = %s returning 1", [execution.id])
    assert sum([await keeping.delete_files(KEEP) for _ in range(4)]) == 1


async def test_last_outcomes_of_jobs_and_schedules_that_are_gone_are_deleted(
    database: Database,
) -> None:
    jobs = Jobs(database)
    for name in ("kept", "archived"):
        await jobs.create(job(name), "ada")
    await database.fetch(
        "insert into notification_outcomes (scope, scope_id, outcome, execution_id, finished_at) "
        "select s, n, 'ok', 1, opsjobs_now() from unnest(array['job', 'schedule']) s, "
        "generate_series(1, 2) n where (s, n) <> ('schedule', 2) returning 1"
    )
    await jobs.archive("2", "ada")
    leftovers = Leftovers(database)
    assert await leftovers.forget() == 1, "of the schedule"
    await turn(database, 31)
    assert await leftovers.forget() == 1
    assert await database.fetch("select scope, scope_id from notification_outcomes") == [
        {"scope": "job", "scope_id": 1}
    ]


async def test_one_process_at_a_time_holds_a_singleton_lock(database: Database) -> None:
    await ended_execution(database)
    await turn(database, 31)
    keepers = [keeper(database) for _ in range(3)]
    done = [
        turn for turn in await asyncio.gather(*(keeper.run_once() for keeper in keepers)) if turn
    ]
    assert [told["executions_deleted"] for told in done] == [1]
    assert await keepers[0].run_once() == {}
    await turn(database, 1)
    assert (await keepers[0].run_once())["executions_deleted"] == 0
