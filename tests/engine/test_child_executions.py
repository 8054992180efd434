"""Actions that run another job: launched once, awaited without a slot, judged by its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from engine.test_passive_actions import says, waits
from engine.test_workflows import step, told
from kit.fake_remote import Gate
from opsjobs.model.action import ApprovalAction, JobAction, WaitAction
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.job import JobDraft
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.remote.session import RemoteExit
from opsjobs.store.transaction import Database

SECONDS = 60.0


async def job(on: Harness, name: str, *actions: dict[str, Any], **more: Any) -> None:
    """Store a job without targets of its own."""
    await on.jobs.create(
        JobDraft.model_validate({"name": name, "actions": list(actions), **more}), by="ada"
    )


async def child_of(on: Harness, execution: Execution) -> Execution:
    """Return the only execution that this one launched."""
    (row,) = await on.database.fetch(
        "select execution_id from execution_specs where parent_id = %s", [execution.id]
    )
    return await on.executions.get(row["execution_id"])


async def test_a_job_is_run_on_the_same_target_with_its_parameters_and_waited_for(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)], to="restart 'nginx'")
        parameters = [{"name": "service", "type": "string", "required": True}]
        await job(on, "restart", {"command": "restart ${service}"}, parameters=parameters)
        run = JobAction(key="run", job="restart", parameters={"service": "nginx"})
        execution = await on.launch([step("before"), run, step("after")])
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        await waits_for_child(on, execution)
        child = await child_of(on, execution)
        assert (child.parent, child.triggered_by.value, child.job_name) == (
            execution.id,
            "workflow",
            "restart",
        )
        gate.event.set()
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"succeeded": 1}
        assert [s.command for s in web.starts] == ["before", "restart 'nginx'", "after"]
        (result,) = [row for row in await on.results(execution) if row["action"] == "run"]
        assert result["outputs"] == {"execution_id": child.id, "status": "completed"}


async def waits_for_child(on: Harness, execution: Execution) -> None:
    async def so() -> bool:
        return (await on.row(execution))["waiting_for"] == "child"

    await until(so, SECONDS)


async def test_a_job_that_did_not_go_well_fails_its_action(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1").reply([RemoteExit(3)], to="bad")
        await job(on, "bad", {"command": "bad"})
        execution = await on.ended(
            await on.launch([JobAction(key="run", job="bad"), step("after")]), SECONDS
        )
        row = await on.row(execution)
        child = await child_of(on, execution)
        assert (row["status"], row["error_code"]) == ("failed", "nonzero_exit")
        assert row["error_message"] == f"execution {child.id} of the job bad ended failed"
        assert await told(on, execution) == {"run": "failed"}


async def test_a_job_that_is_not_there_fails_its_action_with_words(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        execution = await on.ended(await on.launch([JobAction(key="run", job="nobody")]), SECONDS)
        row = await on.row(execution)
        assert (row["status"], "'nobody' cannot be launched" in row["error_message"]) == (
            "failed",
            True,
        )


@pytest.mark.parametrize("changed", [False, True])
async def test_a_job_that_was_changed_since_an_approval_was_asked_for_is_not_run(
    database: Database, changed: bool
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        await job(on, "inner", {"command": "harmless"})
        execution = await on.launch([ApprovalAction(key="ask"), JobAction(key="run", job="inner")])
        await waits(on, execution, "approval")
        if changed:
            draft = JobDraft.model_validate({"name": "inner", "actions": [{"command": "harmful"}]})
            await on.jobs.replace("1", draft, by="eve", if_match=None)
        (asked,) = await database.fetch("select id from approvals")
        await on.ledger.decide(asked["id"], says("ben", True, None))
        ended = await on.ended(execution, SECONDS)
        assert ended.status is (ExecutionStatus.FAILED if changed else ExecutionStatus.COMPLETED)
        assert [s.command for s in web.starts] == ([] if changed else ["harmless"])
        assert ("launch it again" in ((await on.row(execution))["error_message"] or "")) is changed


async def test_a_job_that_runs_itself_comes_to_an_end(database: Database) -> None:
    async with harness(database) as on, on.worker():
        on.machine("web-1")
        await job(on, "again", {"type": "job", "job": "again"})
        execution = await on.ended(await on.launch([JobAction(key="run", job="again")]), SECONDS)
        assert execution.status is ExecutionStatus.FAILED
        rows = await database.fetch(
            "select error_message from target_runs order by id desc limit 1"
        )
        assert "check whether one of them runs itself" in rows[0]["error_message"]


async def test_a_cancel_reaches_the_job_that_is_waited_for(database: Database) -> None:
    async with harness(database) as on, on.worker(lease_seconds=3.0):
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(0)], to="long")
        await job(on, "long", {"command": "long"})
        execution = await on.launch([JobAction(key="run", job="long")])
        await asyncio.wait_for(gate.reached.wait(), SECONDS)
        await waits_for_child(on, execution)
        await on.cancel(execution)
        child = await on.ended(await child_of(on, execution), SECONDS)
        assert (child.status, (await on.ended(execution, SECONDS)).status) == (
            ExecutionStatus.CANCELLED,
        ) * 2


async def test_a_cancelled_target_cancels_only_the_job_that_it_waits_for(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker(lease_seconds=3.0):
        gates = [Gate(asyncio.Event()) for _ in (1, 2)]
        for number, gate in enumerate(gates, start=1):
            on.machine(f"web-{number}").reply([gate, RemoteExit(0)], to="long")
        await job(on, "long", {"command": "long"})
        execution = await on.launch([JobAction(key="run", job="long")], 2)
        for gate in gates:
            await asyncio.wait_for(gate.reached.wait(), SECONDS)

        async def both_wait() -> bool:
            return {row["waiting_for"] for row in await on.rows(execution)} == {"child"}

        await until(both_wait, SECONDS)
        await on.cancel_runs(execution, "web-1")
        gates[1].event.set()
        ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"cancelled": 1, "succeeded": 1}
        rows = await on.database.fetch(
            "select s.execution_id from execution_specs s join target_runs r "
            "on r.execution_id = s.execution_id where s.parent_id = %s order by r.target_name",
            [execution.id],
        )
        children = [await on.executions.get(row["execution_id"]) for row in rows]
        assert [(await on.ended(child, SECONDS)).status for child in children] == [
            ExecutionStatus.CANCELLED,
            ExecutionStatus.COMPLETED,
        ]


async def test_an_action_that_names_targets_is_for_them_alone(database: Database) -> None:
    async with harness(database) as on, on.worker():
        machines = [on.machine(f"web-{n}") for n in (1, 2)]
        only = step("only", targets=SelectionDraft(ids=["web-2"]))
        execution = await on.ended(await on.launch([step("all"), only, step("after")], 2), SECONDS)
        assert execution.counts == {"succeeded": 2}
        assert [[s.command for s in machine.starts] for machine in machines] == [
            ["all", "after"],
            ["all", "only", "after"],
        ]


async def test_a_job_that_ends_beside_a_wait_is_heard_of_at_once(database: Database) -> None:
    async with harness(database) as on, on.worker():
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(0)], to="long")
        await job(on, "long", {"command": "long"})
        actions: list[Any] = [
            JobAction(key="run", job="long"),
            step("after"),
            WaitAction(key="pause", duration=3600, depends_on=[]),
        ]
        execution = await on.launch(actions)
        await asyncio.wait_for(gate.reached.wait(), SECONDS)

        async def waits() -> bool:
            return (await on.row(execution))["waiting_for"] == "timer"

        await until(waits, SECONDS)
        assert (await on.row(execution))["awaits"] == (await child_of(on, execution)).uuid
        gate.event.set()

        async def gone_on() -> bool:
            return (await told(on, execution)).get("after") == "succeeded"

        await until(gone_on, SECONDS)
        await on.cancel(execution)
        await on.ended(execution, SECONDS)
