"""Lost contact with a run's machine: recorded once when it is lost, and once when it is regained."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import uuid4

from engine.harness import Harness, harness, until
from kit.fake_remote import FakeMachine, Gate
from opsjobs.engine.runs.run_tools import RunLimits
from opsjobs.model.action import FileTransferAction
from opsjobs.model.run_views import Execution
from opsjobs.remote.session import Output, RemoteExit
from opsjobs.store.ledger.flush import ContactChange, Flush, RunMove
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database

MIB = 1 << 20


async def at_work(on: Harness, **policy: Any) -> tuple[FakeMachine, Gate, Execution]:
    """Launch a durable command that has written a line, and waits at a gate."""
    gate = Gate(asyncio.Event())
    web = on.machine("web-1").reply([Output("stdout", b"one\n"), gate, RemoteExit(0)])
    execution = await on.launch("work", **{"durable": "auto", **policy})

    async def has_written() -> bool:
        return await on.output(execution) == b"one\n"

    await until(has_written)
    return web, gate, execution


async def lost_at(on: Harness, execution: Execution) -> datetime | None:
    """Return what the API shows."""
    (run,) = (await on.executions.runs(execution.id, PageRequest())).items
    return run.contact_lost_at


async def cut_off(on: Harness, web: FakeMachine, execution: Execution) -> datetime:
    web.cut()
    at: list[datetime | None] = []

    async def is_noted() -> bool:
        at.append(await lost_at(on, execution))
        return at[-1] is not None

    await until(is_noted)
    assert at[-1] is not None
    return at[-1]


async def reached_again(on: Harness, execution: Execution) -> None:
    async def is_there() -> bool:
        return await lost_at(on, execution) is None

    await until(is_there)


async def test_a_run_shows_since_when_its_machine_is_away_until_it_is_back(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        web, gate, execution = await at_work(on)
        before = on.clock.now()
        assert await lost_at(on, execution) is None
        since = await cut_off(on, web, execution)
        assert before <= since <= on.clock.now()
        assert (await on.row(execution))["status"] == "running"
        web.mend()
        await reached_again(on, execution)
        assert (await on.row(execution))["status"] == "running"
        gate.event.set()
        await on.ended(execution)


async def test_only_the_loss_and_the_return_of_contact_are_written(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web, gate, execution = await at_work(on)
        since = await cut_off(on, web, execution)
        version = (await database.fetch("select xmin::text from target_runs"))[0]["xmin"]
        connects = web.connects
        await until(lambda: web.connects >= connects + 3)
        assert await lost_at(on, execution) == since
        assert (await database.fetch("select xmin::text from target_runs"))[0]["xmin"] == version
        web.mend()
        gate.event.set()
        await on.ended(execution)


async def test_a_successor_keeps_the_time_and_removes_it_once_it_has_contact(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker("worker-1", lease_seconds=600):
        web, gate, execution = await at_work(on)
        since = await cut_off(on, web, execution)
        async with on.worker("worker-2"):
            await on.bury("worker-1")

            async def is_taken() -> bool:
                return (await on.row(execution))["worker"] == "worker-2"

            await until(is_taken)
            assert await lost_at(on, execution) == since
            web.mend()
            await reached_again(on, execution)
            assert (await on.row(execution))["status"] == "running"
            gate.event.set()
            await on.ended(execution)


async def test_an_ended_run_shows_no_loss_of_contact(database: Database) -> None:
    async with harness(database) as on, on.worker(limits=RunLimits(reattach_seconds=0.3)):
        web, _, execution = await at_work(on)
        web.cut()
        await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["contact_lost_at"]) == ("lost", None)


async def test_a_cancel_that_cannot_reach_its_machine_shows_since_when(database: Database) -> None:
    async with harness(database) as on, on.worker():
        web, _, execution = await at_work(on)
        web.cut()
        await on.cancel(execution)

        async def is_noted() -> bool:
            return await lost_at(on, execution) is not None

        await until(is_noted)
        web.mend()
        await on.ended(execution)
        assert (await on.row(execution))["contact_lost_at"] is None


async def test_a_transfer_whose_machine_is_away_shows_since_when(database: Database) -> None:
    async with harness(database) as on:
        gate = Gate(asyncio.Event())
        machine = on.machine("web-1")
        disk = machine.files.put("/var/log/app.log", b"x" * MIB)
        disk.gate = gate
        action = FileTransferAction.model_validate(
            {
                "type": "file_transfer",
                "key": "get",
                "direction": "download",
                "source": "/var/log/app.log",
            }
        )
        async with on.worker():
            execution = await on.launch([action])
            await until(gate.reached.is_set)
            disk.gate = None
            machine.cut()
            gate.event.set()

            async def is_noted() -> bool:
                return await lost_at(on, execution) is not None

            await until(is_noted)
            machine.mend()
            await on.ended(execution)
        row = await on.row(execution)
        assert (row["status"], row["contact_lost_at"]) == ("succeeded", None)


async def test_a_worker_that_does_not_own_the_run_writes_no_loss_of_contact(
    database: Database,
) -> None:
    async with harness(database) as on, on.worker():
        _, gate, execution = await at_work(on)
        row = await on.row(execution)
        for owner, fence in ((row["owner"], row["fence"] - 1), (uuid4(), row["fence"])):
            move = RunMove(
                row["id"],
                execution.id,
                row["target_id"],
                fence,
                contact=ContactChange(on.clock.now()),
            )
            settled = await on.ledger.settle(Flush(owner, "worker-9", 0, [move]))
            assert settled.stale == {row["id"]}
            assert await lost_at(on, execution) is None
        gate.event.set()
        await on.ended(execution)
