"""A short outage of PostgreSQL ends no run: its requests to the store are repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from engine.harness import Harness, InMemoryTargets, harness, until
from engine.test_credential_refresh import login
from kit.fake_remote import FakeMachine, FakeSessions, Gate
from opsjobs.clock import SystemClock
from opsjobs.engine.runs.cancellation import Interrupted, StopReason, StopSignal
from opsjobs.engine.runs.run_connection import wait_out
from opsjobs.model.credential import Credential, VaultSource
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.job import CommandAction
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Endpoint
from opsjobs.remote.session import Output, RemoteExit, Session
from opsjobs.store.ledger import Ledger
from opsjobs.store.transaction import Database

AWAY = Unavailable("PostgreSQL does not answer: server closed the connection (as scripted)")


class FlakyLedger(Ledger):
    """Fails the first reads of stored output. `at_once`: the most reads at the same time."""

    def __init__(self, database: Database, failures: int = 0) -> None:
        super().__init__(database)
        self.failures = failures
        self.asked: list[int] = []
        self.under_way = self.at_once = 0

    async def read_stdout(self, *asked: Any) -> bytes:
        """Read as usual, after the failures."""
        self.asked.append(asked[2])
        self.under_way += 1
        self.at_once = max(self.at_once, self.under_way)
        try:
            await asyncio.sleep(0)
            if len(self.asked) <= self.failures:
                raise AWAY
            return await super().read_stdout(*asked)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def taken_over_runs(
    on: Harness, ledger: Ledger, commands: list[str | CommandAction], machines: list[FakeMachine]
) -> AsyncIterator[Execution]:
    """A durable run on each machine that is at work and has said something, and now has another worker."""
    async with on.worker("worker-1", lease_seconds=600):
        execution = await on.launch(commands, len(machines), durable="auto")

        async def all_said() -> bool:
            rows = await on.database.fetch(
                "select 1 from job_execution_results where execution_id = %s and status = 'running' and stdout_stored > 0",
                [execution.id],
            )
            return len(rows) == len(machines)

        await until(all_said)
        async with on.worker("worker-2", ledger=ledger):
            await on.bury("worker-1")
            yield execution


def at_work(on: Harness, name: str, gate: Gate, *, command: str) -> FakeMachine:
    said = [Output("stdout", b'{"a": 1}\n'), gate, Output("stdout", b'{"b": 2}\n'), RemoteExit(0)]
    return on.machine(name).reply(said, to=command)


async def test_a_command_that_is_taken_over_in_an_outage_is_followed_to_its_end(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database, failures=2)
        web = at_work(on, "web-1", gate, command="work")
        async with taken_over_runs(
            on, ledger, [CommandAction(command="work", outputs="json_lines")], [web]
        ) as execution:
            await until(lambda: len(ledger.asked) == 3)
            gate.event.set()
            ended = await on.ended(execution)
        (result,) = await on.results(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert result["outputs"] == {"a": 1, "b": 2}
    assert len(web.starts) == 1


async def test_what_an_earlier_action_said_is_read_again_after_an_outage(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database, failures=2)
        web = at_work(on, "web-1", gate, command="work")
        web.reply([Output("stdout", b"word\n"), RemoteExit(0)], to="say").reply(
            [RemoteExit(0)], to="use 'word'"
        )
        commands: list[str | CommandAction] = ["say", "work", "use ${actions.step-1.stdout}"]
        async with taken_over_runs(on, ledger, commands, [web]) as execution:
            await until(lambda: len(ledger.asked) == 3)
            gate.event.set()
            ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert [start.command for start in web.starts][-1] == "use 'word'"


async def test_many_runs_that_are_taken_over_read_what_was_said_a_few_at_a_time(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database)
        machines = [at_work(on, f"web-{n}", gate, command="work") for n in range(1, 13)]
        async with taken_over_runs(
            on, ledger, [CommandAction(command="work", outputs="json_lines")], machines
        ) as execution:
            await until(lambda: len(ledger.asked) == 12)
            gate.event.set()
            ended = await on.ended(execution)
    assert ended.counts == {"succeeded": 12}
    assert 1 <= ledger.at_once <= 2


async def test_no_more_is_read_than_the_heirs_of_an_action_can_see(database: Database) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database)
        on.machine("web-1").reply([RemoteExit(0)])
        web = at_work(on, "web-1", gate, command="work")
        async with taken_over_runs(
            on, ledger, ["work", "use ${actions.step-1.stdout}"], [web]
        ) as execution:
            await until(lambda: len(ledger.asked) == 1)
            gate.event.set()
            ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert ledger.asked == [64 << 10]


async def test_a_cancel_is_obeyed_while_what_was_said_cannot_be_read(database: Database) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database, failures=1_000_000)
        web = at_work(on, "web-1", gate, command="work")
        async with taken_over_runs(
            on, ledger, [CommandAction(command="work", outputs="json_lines")], [web]
        ) as execution:
            await until(lambda: len(ledger.asked) > 1)
            await on.cancel(execution)
            ended = await on.ended(execution)
        row = await on.row(execution)
    assert ended.status is ExecutionStatus.CANCELLED
    assert row["cancel_proof"] == "killed"


async def test_a_worker_that_stops_in_an_outage_leaves_its_runs_to_the_next_one(
    database: Database,
) -> None:
    async with harness(database) as on:
        gate, ledger = Gate(asyncio.Event()), FlakyLedger(database, failures=1_000_000)
        web = at_work(on, "web-1", gate, command="work")
        async with taken_over_runs(
            on, ledger, [CommandAction(command="work", outputs="json_lines")], [web]
        ) as execution:
            await until(lambda: len(ledger.asked) > 1)
        assert (await on.row(execution))["status"] == "running"
        gate.event.set()
        async with on.worker("worker-3"):
            ended = await on.ended(execution)
    assert ended.status is ExecutionStatus.COMPLETED
    assert len(web.starts) == 1


class FlakyFirstSessions(FakeSessions):
    """The first sessions fail because an accepted host key cannot be stored in PostgreSQL."""

    left = 2

    def __init__(self, on: Harness) -> None:
        super().__init__(on.clock)
        self.machines = on.sessions.machines

    @asynccontextmanager
    async def session(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Open a session, after the failures."""
        if self.left:
            self.left -= 1
            raise AWAY
        async with super().session(endpoint) as session:
            yield session


@pytest.mark.parametrize("durable", ["auto", "off"])
async def test_a_first_contact_in_an_outage_is_made_after_it(
    database: Database, durable: str
) -> None:
    async with harness(database) as on:
        web = on.machine("web-1").reply([RemoteExit(0)])
        async with on.worker(sessions=FlakyFirstSessions(on)):
            ended = await on.run("work", durable=durable)
    assert ended.status is ExecutionStatus.COMPLETED
    assert len(web.starts) == 1


class VaultLoginTargets(InMemoryTargets):
    """Machines with a login that is kept in Vault."""

    async def endpoints(self, target_ids: Any) -> dict[str, Endpoint]:
        """Return the usual endpoints, with the login."""
        source = VaultSource(backend="vault", path="web")
        credential = replace(login(1), source=source)
        return {
            i: replace(way, credential=credential)
            for i, way in (await super().endpoints(target_ids)).items()
        }


async def test_an_outage_at_a_place_that_does_not_expect_it_leaves_the_run_and_takes_it_up_again(
    database: Database,
) -> None:
    failures = [AWAY, AWAY, AWAY]

    async def fetch(credential: Credential, _purpose: str) -> Credential:
        if failures:
            raise failures.pop()
        return credential

    async with harness(database) as on:
        known = VaultLoginTargets()
        known.targets = on.targets.targets
        on.targets = known
        web = on.machine("web-1").reply([RemoteExit(0)])
        async with on.worker(fetch=fetch):
            ended = await on.run("work", durable="auto")
    assert failures == []
    assert ended.status is ExecutionStatus.COMPLETED
    assert len(web.starts) == 1


async def test_an_order_to_stop_ends_the_wait_for_the_store() -> None:
    stops, asked = StopSignal(), asyncio.Event()

    async def ask() -> None:
        asked.set()
        raise AWAY

    waiting = asyncio.create_task(_waits(stops, ask))
    await asked.wait()
    stops.request(StopReason.CANCEL)
    with pytest.raises(Interrupted):
        await waiting


async def _waits(stops: StopSignal, ask: Callable[[], Awaitable[None]]) -> None:
    stops.bind()
    with stops.interruptible():
        await wait_out(ask, SystemClock())
