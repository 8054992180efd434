"""A retry at work: what succeeded is not run again, whoever claims the heir and however often."""

from __future__ import annotations

import asyncio

from engine.bench import Bench, bench, until
from opsjobs.engine.again import Again
from opsjobs.model.again import RetryDraft, Which
from opsjobs.model.execution import Execution, ExecutionStatus
from opsjobs.model.job import CommandAction
from opsjobs.remote.fake import Gate
from opsjobs.remote.session import Exit, Output
from opsjobs.store.transaction import Database

STEPS = ["first", "second", "third"]


async def retry(on: Bench, execution: Execution, which: Which = Which.UNSUCCESSFUL) -> Execution:
    again = Again(on.launcher, database=on.database, ledger=on.ledger, targets=on.known)
    launched = await again.retry(str(execution.id), RetryDraft(which=which), requested_by="ada")
    assert launched.execution is not None
    return launched.execution


async def test_a_retry_goes_on_from_the_step_that_failed(database: Database) -> None:
    async with bench(database) as on:
        web = on.machine("web-1").reply([Exit(3)], to="second")
        other = on.machine("web-2")
        async with on.worker():
            execution = await on.run(STEPS, 2)
            assert execution.status is ExecutionStatus.PARTIAL
            web.reply([Exit(0)], to="second")
            again = await on.ended(await retry(on, execution, Which.FAILED))
        assert again.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["first", "second", "second", "third"]
        assert [s.command for s in other.starts] == STEPS
        told = [(r["action"], r["status"], r["inherited_from"]) for r in await on.results(again)]
        assert told == [
            ("step-1", "succeeded", execution.id),
            ("step-2", "succeeded", None),
            ("step-3", "succeeded", None),
        ]


async def test_an_heir_that_fails_again_is_retried_from_there(database: Database) -> None:
    async with bench(database) as on:
        web = on.machine("web-1").reply([Exit(3)], to="second")
        async with on.worker():
            execution = await on.run(STEPS)
            web.reply([Exit(0)], to="second").reply([Exit(4)], to="third")
            again = await on.ended(await retry(on, execution))
            assert again.status is ExecutionStatus.FAILED
            web.reply([Exit(0)], to="third")
            last = await on.ended(await retry(on, again))
        assert last.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["first", "second", "second", "third", "third"]
        assert [(r["action"], r["inherited_from"]) for r in await on.results(last)] == [
            ("step-1", execution.id),
            ("step-2", again.id),
            ("step-3", None),
        ]


async def test_an_heir_that_was_lost_begins_with_the_step_that_was_lost(database: Database) -> None:
    async with bench(database) as on:
        open_ = asyncio.Event()
        web = on.machine("web-1").reply([Gate(open_), Exit(0)], to="second")
        async with on.worker(drain_seconds=0.1) as worker:
            execution = await on.launch(STEPS)
            await until(lambda: len(web.starts) == 2)
            await worker.stop()
        assert (await on.ended(execution)).counts == {"lost": 1}
        open_.set()
        web.reply([Exit(0)], to="second")
        async with on.worker("worker-2"):
            again = await on.ended(await retry(on, execution, Which.LOST))
        assert again.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["first", "second", "second", "third"]


async def test_an_heir_knows_what_its_parent_said(database: Database) -> None:
    async with bench(database) as on:
        web = on.machine("web-1").reply([Output("stdout", b"sky\nblue\n"), Exit(0)], to="ask").reply([Exit(3)], to="use")
        steps = [
            CommandAction(key="ask", command="ask", outputs="last_line"),
            CommandAction(key="use", command="use"),
            CommandAction(key="green", command="green", when="actions.ask.outputs.last == 'green'"),
            CommandAction(key="blue", command="blue", when="actions.ask.outputs.last == 'blue' and actions.ask.exit_code == 0"),
            CommandAction(key="sky", command="sky", when="actions.ask.stdout == 'sky\\nblue'"),
        ]
        async with on.worker():
            execution = await on.run(steps)
            web.reply([Exit(0)], to="use")
            again = await on.ended(await retry(on, execution, Which.FAILED))
        assert again.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["ask", "use", "use", "blue", "sky"]
