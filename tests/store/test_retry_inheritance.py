"""A retried run inherits the succeeded actions of the run that it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from kit.ledger_fixtures import Owner, faults, machines, read
from kit.scripted_worker import ScriptedExecution
from opsjobs.clock import uuid7
from opsjobs.model.execution import ExecutionStatus, RunStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.run_views import Execution
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.transaction import Database

THREE = [{"key": f"step-{n}", "type": "command", "command": "true"} for n in (1, 2, 3)]


async def launch_retry(
    database: Database, parent: Execution, runs: Mapping[str, int], actions: Sequence[Any] = THREE
) -> Execution:
    """Launch an execution in which these targets' runs replace those of the parent."""
    new = NewExecution(
        uuid7(datetime.now(UTC)), None, None, "ad-hoc", actions, {}, 5, 50, None,
        [m for m in machines(9) if m.id in runs], TriggeredBy.RETRY, Identity("api_key", "ada"), parent=parent.id, retried_runs=runs,
    )  # fmt: skip
    async with database.transaction() as connection:
        return await Ledger(database).launch(connection, new)


async def failed_at_the_second_step(database: Database) -> ScriptedExecution:
    scripted = ScriptedExecution(database)
    await scripted.launch(2, commands=["a", "b", "c"])
    await scripted.claim()
    for name in ("web-1", "web-2"):
        await scripted.end_action(name, "step-1")
        await scripted.finish(name, 3, action="step-2")
    return scripted


async def test_what_succeeded_is_on_record_and_nothing_else(database: Database) -> None:
    scripted = await failed_at_the_second_step(database)
    again = await launch_retry(database, await scripted.current(), {"1": scripted.runs["web-1"].id})
    assert (again.parent, again.counts, again.triggered_by) == (
        scripted.execution_id,
        {"waiting": 1},
        TriggeredBy.RETRY,
    )
    assert await read(database, again) == again
    claimed = (await (await Owner(database).register()).claim()).runs
    assert [(run.target_id, run.fence, run.attempt, run.taken_over) for run in claimed] == [
        ("1", 2, 1, False)
    ]
    progress = await Ledger(database).load_progress([claimed[0].id])
    assert [(p.action, p.attempt, p.status, p.exit_code) for p in progress[claimed[0].id]] == [
        ("step-1", 1, RunStatus.SUCCEEDED, 0)
    ]
    assert await faults(database) == []


async def test_a_second_retry_records_the_execution_that_ran_the_action(database: Database) -> None:
    scripted = await failed_at_the_second_step(database)
    child = await launch_retry(database, await scripted.current(), {"1": scripted.runs["web-1"].id})
    owner = await Owner(database).register()
    run = (await owner.claim()).runs[0]
    await owner.give_back([run])
    await Ledger(database).cancel(child.id, by="ada", reason=None)
    grandchild = await launch_retry(database, child, {"1": run.id})
    rows = await database.fetch(
        "select action, status, inherited_from from job_execution_results where execution_id = %s "
        "order by id",
        [grandchild.id],
    )
    assert [tuple(row.values()) for row in rows] == [("step-1", "succeeded", scripted.execution_id)]


async def test_an_heir_that_is_cancelled_before_its_start_was_at_its_next_step(
    database: Database,
) -> None:
    scripted = await failed_at_the_second_step(database)
    again = await launch_retry(
        database,
        await scripted.current(),
        {"1": scripted.runs["web-1"].id, "2": scripted.runs["web-2"].id},
    )
    await Ledger(database).cancel(again.id, by="ada", reason=None)
    assert (await read(database, again)).status is ExecutionStatus.CANCELLED
    rows = await database.fetch(
        "select action, status from job_execution_results where execution_id = %s order by "
        "target_run_id, action",
        [again.id],
    )
    assert [tuple(row.values()) for row in rows] == [
        ("step-1", "succeeded"),
        ("step-2", "cancelled"),
    ] * 2
    assert await faults(database) == []


async def test_a_run_that_was_rolled_back_begins_anew(database: Database) -> None:
    actions = [
        {**THREE[0]},
        {**THREE[1], "on_failure": "rollback", "rollback": "step-3"},
        {**THREE[2]},
    ]
    scripted = ScriptedExecution(database)
    await scripted.launch(2, commands=["a", "b", "c"])
    await scripted.claim()
    for name in ("web-1", "web-2"):
        await scripted.end_action(name, "step-1")
    await scripted.end_action("web-1", "step-2", 3)
    await scripted.finish("web-1", 0, action="step-3")
    await scripted.finish("web-2", 3, action="step-2")
    again = await launch_retry(
        database,
        await scripted.current(),
        {"1": scripted.runs["web-1"].id, "2": scripted.runs["web-2"].id},
        actions,
    )
    rows = await database.fetch(
        """select r.target_id, x.action from job_execution_results x join target_runs r
          on r.id = x.target_run_id
        where x.execution_id = %s""",
        [again.id],
    )
    assert [tuple(row.values()) for row in rows] == [("2", "step-1")]
