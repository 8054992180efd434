"""A lost branch stays lost, is looked up if that is possible, and is never repeated silently."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from engine.harness import Harness, harness, until
from engine.test_branches import SECONDS, inherited, take_over
from engine.test_remote_cleanup import care
from engine.test_workflows import step, told
from kit.fake_remote import FakeMachine, Gate
from opsjobs.model.action import CommandAction
from opsjobs.model.execution import ErrorCode
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import NotStarted, RemoteExit
from opsjobs.store.transaction import Database


async def test_of_a_direct_command_that_may_have_run_no_store_is_asked(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        on.machine("web-1").reply([gate, RemoteExit(0)], to="kept")
        async with on.worker("worker-1"):
            execution = await on.launch([step("kept"), step("bare", durable="off")], durable="auto")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            ended = await inherited(on, execution, gate)
        assert ended.counts == {"lost": 1}
        assert await told(on, execution) == {"kept": "succeeded", "bare": "lost"}
        assert [r["store_id"] for r in await on.results(execution) if r["action"] == "bare"] == [
            "direct"
        ]
        await on.turn(61)
        assert (await care(on).run_once())["settled_late"] == 0
        assert [r["late_result"] for r in await on.results(execution)] == [None, None]


async def lost_beside(
    on: Harness, web: FakeMachine, *more: CommandAction
) -> tuple[Execution, Gate, Gate]:
    """Launch a run whose second branch is recorded as lost while the first one runs.

    Returns the gates at which both wait, too.
    """
    first, second = Gate(asyncio.Event()), Gate(asyncio.Event())
    web.reply([first, RemoteExit(0)], to="first").reply([second, RemoteExit(0)], to="second")
    execution = await on.launch([step("first"), step("second", []), *more], durable="auto")
    await asyncio.wait_for(asyncio.gather(first.reached.wait(), second.reached.wait()), SECONDS)
    web.lose_wrapper(next(key for key in web.runs if key.action == "second"))

    async def lost() -> bool:
        return (await told(on, execution)).get("second") == "lost"

    await until(lost, SECONDS)
    return execution, first, second


async def test_a_successor_has_a_branch_looked_for_that_was_lost_before(
    database: Database,
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1")
        async with on.worker("worker-1"):
            execution, first, second = await lost_beside(on, web)
            async with on.worker("worker-2"):
                await take_over(on, execution)
                await on.cancel(execution)
                ended = await on.ended(execution, SECONDS)
        first.event.set()
        second.event.set()
        assert ended.counts == {"cancelled": 1}
        assert await told(on, execution) == {"first": "cancelled", "second": "lost"}
        assert (await on.row(execution))["sweep_due"] is not None


async def test_a_cancel_of_a_run_that_waits_has_its_lost_branch_looked_for(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web = on.machine("web-1")
        execution, first, second = await lost_beside(on, web, step("last"))
        first.event.set()
        second.event.set()
        await on.ended(execution, SECONDS)
        async with database.connection() as connection:  # like a run that waits for a child
            await connection.execute(
                "update target_runs set status = 'waiting', waiting_for = 'child', finished_at = null, owner = null, sweep_due = null"
            )
            await connection.execute(
                "update job_executions set finished_at = null, status = 'running', waiting = 1, lost = 0"
            )
        await on.cancel(execution)
        await on.ended(execution, SECONDS)
        assert (await on.row(execution))["sweep_due"] is not None


async def test_what_was_begun_there_as_another_command_is_lost_and_nothing_is_started_beside_it(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        async with on.worker("worker-1"):
            execution = await on.launch("work", durable="auto", on_lost="retry")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            (run,) = web.runs.values()
            run.order = replace(run.order, command="something else")
            async with on.worker("worker-2"):
                await on.bury("worker-1")
                ended = await on.ended(execution, SECONDS)
        assert ended.counts == {"lost": 1}
        assert (len(web.starts), run.working) == (1, True)
        assert (await on.row(execution))["sweep_due"] is not None
        gate.event.set()


async def test_an_heir_reads_the_runs_attempt_as_the_worker_before_it_did(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, replies = Gate(asyncio.Event()), iter([RemoteExit(1), RemoteExit(0)])
        web = (
            on.machine("web-1")
            .reply([gate, RemoteExit(0)])
            .reply(lambda *_: [next(replies)], to="flaky")
        )
        policy = RetryPolicy(max_attempts=2, base=0.01, jitter=False, on=[ErrorCode.NONZERO_EXIT])
        actions = [
            step("flaky", retry=policy),
            CommandAction(key="show", command="show ${run.attempt}"),
        ]
        async with on.worker("worker-1"):
            execution = await on.launch(actions, durable="auto")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            ended = await inherited(on, execution, gate)
        assert ended.counts == {"succeeded": 1}
        assert [s.command.replace("'", "") for s in web.starts] == ["flaky", "flaky", "show 2"]


async def test_after_a_start_that_was_voided_the_program_shows_the_attempt_that_its_heir_reads(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        web = on.machine("web-1").reply([gate, RemoteExit(0)])
        web.refuse_start(NotStarted(settled=True))
        async with on.worker("worker-1"):
            execution = await on.launch(
                [CommandAction(key="show", command="show ${run.attempt}")], durable="auto"
            )
            await asyncio.wait_for(gate.reached.wait(), SECONDS)
            ended = await inherited(on, execution, gate)
        assert ended.counts == {"succeeded": 1}
        (start,) = web.starts
        assert start.order is not None
        assert start.order.command.replace("'", "") == "show 2"
        assert start.order.environment["OPSJOBS_ATTEMPT"] == "2"


async def test_an_heir_reads_the_runs_attempt_of_a_branch_whatever_happened_beside_it(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, replies = Gate(asyncio.Event()), iter([RemoteExit(1), RemoteExit(0)])
        web = (
            on.machine("web-1")
            .reply([gate, RemoteExit(0)])
            .reply(lambda *_: [next(replies)], to="flaky")
        )
        policy = RetryPolicy(max_attempts=2, base=0.01, jitter=False, on=[ErrorCode.NONZERO_EXIT])
        show = CommandAction(key="show", command="show ${run.attempt}")
        async with on.worker("worker-1"):
            execution = await on.launch([show, step("flaky", [], retry=policy)], durable="auto")
            await asyncio.wait_for(gate.reached.wait(), SECONDS)

            async def beside_it() -> bool:
                return (await told(on, execution)).get("flaky") == "succeeded"

            await until(beside_it, SECONDS)
            ended = await inherited(on, execution, gate)
        assert ended.counts == {"succeeded": 1}
        assert sorted(s.command.replace("'", "") for s in web.starts) == [
            "flaky",
            "flaky",
            "show 1",
        ]
