"""Retries: actions that succeeded are not repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import pytest

from engine.harness import Harness, harness, until
from kit.fake_remote import Gate
from opsjobs.engine.firing.schedule_launch import Triggers
from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.retries import RetryService
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.identity import Identity
from opsjobs.model.job import CommandAction
from opsjobs.model.retry_request import RetryDraft, Which
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.scheduling.schedules import Schedules
from opsjobs.store.transaction import Database

DAY_SECONDS = 86_400.0
STEPS = ["first", "second", "third"]


async def retry(on: Harness, execution: Execution, which: Which = Which.UNSUCCESSFUL) -> Execution:
    again = RetryService(on.launcher, database=on.database, ledger=on.ledger, targets=on.targets)
    launched = await again.retry(
        str(execution.id), RetryDraft(which=which), requested_by=Identity("api_key", "ada")
    )
    assert launched.execution is not None
    return launched.execution


async def test_a_retry_continues_at_the_step_that_failed(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(3)], to="second")
        other = on.machine("web-2")
        async with on.worker():
            execution = await on.run(STEPS, 2)
            assert execution.status is ExecutionStatus.PARTIAL
            web.reply([RemoteExit(0)], to="second")
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


async def test_a_retry_that_fails_is_retried_from_there(database: Database) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(3)], to="second")
        async with on.worker():
            execution = await on.run(STEPS)
            web.reply([RemoteExit(0)], to="second").reply([RemoteExit(4)], to="third")
            again = await on.ended(await retry(on, execution))
            assert again.status is ExecutionStatus.FAILED
            web.reply([RemoteExit(0)], to="third")
            last = await on.ended(await retry(on, again))
        assert last.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["first", "second", "second", "third", "third"]
        assert [(r["action"], r["inherited_from"]) for r in await on.results(last)] == [
            ("step-1", execution.id),
            ("step-2", again.id),
            ("step-3", None),
        ]


async def test_a_retry_of_a_lost_run_begins_with_the_lost_step(database: Database) -> None:
    async with harness(database) as on:
        open_ = asyncio.Event()
        web = on.machine("web-1").reply([Gate(open_), RemoteExit(0)], to="second")
        async with on.worker(drain_seconds=0.1) as worker:
            execution = await on.launch(STEPS)
            await until(lambda: len(web.starts) == 2)
            await worker.stop()
        assert (await on.ended(execution)).counts == {"lost": 1}
        open_.set()
        web.reply([RemoteExit(0)], to="second")
        async with on.worker("worker-2"):
            again = await on.ended(await retry(on, execution, Which.LOST))
        assert again.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["first", "second", "second", "third"]


async def test_a_retry_knows_the_stdout_of_its_parent(database: Database) -> None:
    async with harness(database) as on:
        web = (
            on.machine("web-1")
            .reply([Output("stdout", b"sky\nblue\n"), RemoteExit(0)], to="ask")
            .reply([RemoteExit(3)], to="use")
        )
        steps = [
            CommandAction(key="ask", command="ask", outputs="last_line"),
            CommandAction(key="use", command="use"),
            CommandAction(key="green", command="green", when="actions.ask.outputs.last == 'green'"),
            CommandAction(
                key="blue",
                command="blue",
                when="actions.ask.outputs.last == 'blue' and actions.ask.exit_code == 0",
            ),
            CommandAction(key="sky", command="sky", when="actions.ask.stdout == 'sky\\nblue'"),
        ]
        async with on.worker():
            execution = await on.run(steps)
            web.reply([RemoteExit(0)], to="use")
            again = await on.ended(await retry(on, execution, Which.FAILED))
        assert again.status is ExecutionStatus.COMPLETED
        assert [s.command for s in web.starts] == ["ask", "use", "use", "blue", "sky"]


@pytest.mark.parametrize(
    "use",
    [
        CommandAction(key="use", command="rm -r /srv/${actions.ask.stdout}"),
        CommandAction(key="use", command="use", when="actions.ask.stdout != 'old'"),
    ],
    ids=["template", "condition"],
)
async def test_deleted_output_of_the_parent_is_not_taken_for_empty(
    database: Database, use: CommandAction
) -> None:
    async with harness(database) as on:
        web = (
            on.machine("web-1")
            .reply([Output("stdout", b"old\n"), RemoteExit(0)], to="ask")
            .reply([RemoteExit(3)], to="fail")
        )
        steps = [
            CommandAction(key="ask", command="ask"),
            CommandAction(key="fail", command="fail"),
            use,
        ]
        async with on.worker():
            execution = await on.run(steps)
        web.reply([RemoteExit(0)], to="fail")
        await on.turn(100 * DAY_SECONDS)
        assert (
            await Retention(database).drop_days(
                RetentionLimits(90 * DAY_SECONDS, 1e9, 1e9, 100, 1e9)
            )
            >= 1
        )
        async with on.worker("worker-2"):
            again = await on.ended(await retry(on, execution))
        assert again.status is ExecutionStatus.FAILED
        assert [s.command for s in web.starts] == ["ask", "fail", "fail"]
        result = (await on.results(again))[-1]
        assert (result["action"], result["error_code"]) == ("use", "internal")
        assert f"The output of 'ask' in execution {execution.id} is gone" in result["error_message"]
        async with database.connection() as connection:  # whose log has a gap by now
            await connection.execute("delete from job_executions where id = %s", [execution.id])


async def test_a_retry_has_the_kind_of_its_own_requester(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        on.machine("web-1").reply([RemoteExit(1)], to="true")
        execution = await on.launch("true")
        async with on.worker():
            await on.ended(execution)
        again = RetryService(on.launcher, database=database, ledger=on.ledger, targets=on.targets)
        made = await again.retry(
            str(execution.id),
            RetryDraft(which=Which.UNSUCCESSFUL),
            requested_by=Identity("user", "ada"),
        )
        assert made.execution is not None
        assert execution.requested_by == Identity("api_key", "ada")
        assert made.execution.requested_by == Identity("user", "ada")


LAUNCHES = [
    Launcher.launch,
    Launcher.prepare,
    Launcher.draft,
    RetryService.retry,
    RetryService.revive,
    Triggers.trigger,
    NewExecution,
]


@pytest.mark.parametrize(
    "launches", [*LAUNCHES, Schedules.create], ids=lambda verb: verb.__qualname__
)
def test_every_launch_has_to_name_the_kind_of_its_requester(launches: Callable[..., Any]) -> None:
    """A name alone is not an identity.

    With API key as the default kind, any requester would be treated as one.
    """
    name = "owner" if launches == Schedules.create else "requested_by"
    requester = signature(launches).parameters[name]
    assert (requester.annotation, requester.default) == ("Identity", Parameter.empty)
