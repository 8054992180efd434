"""Targets under maintenance, zones, and slots whose number changes."""

from __future__ import annotations

import asyncio

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from opsjobs.model.execution import ExecutionStatus
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database


async def waits(database: Database) -> list[tuple[str, str, str | None]]:
    rows = await database.fetch(
        "select target_name, waiting_for, awaits from target_runs where status = 'waiting' order "
        "by position"
    )
    return [(row["target_name"], row["waiting_for"], row["awaits"]) for row in rows]


async def test_runs_of_a_target_under_maintenance_are_held_until_it_is_over(
    database: Database,
) -> None:
    ledger, owner = Ledger(database), Owner(database)
    await ledger.hold_target("1", 10, seconds=600, reason="new disk", by="ada")
    execution = await launch(database, machines(3), window=2)
    runs = (await owner.claim()).runs
    assert [run.target_name for run in runs] == ["web-2"]
    runs = [*runs, *(await owner.claim()).runs]
    assert [run.target_name for run in runs] == ["web-2", "web-3"]
    assert await waits(database) == [("web-1", "hold", "maintenance: new disk")]
    await owner.finish(runs)
    for _ in range(3):
        assert not any((await Reconciler(database).run_once()).values()), (
            "what is held is left alone"
        )
        assert not (await owner.claim()).runs
    await turn(database, 601)
    assert (await Reconciler(database).run_once())["woken"] == 1
    await owner.finish((await owner.claim()).runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_maintenance_without_an_end_is_ended_by_hand_and_wakes_at_once(
    database: Database,
) -> None:
    ledger, owner = Ledger(database), Owner(database)
    await ledger.hold_target("1", 10, reason=None, by="ada")
    await launch(database, machines(1))
    assert not (await owner.claim()).runs
    assert await waits(database) == [("web-1", "hold", "maintenance")]
    stands = (await ledger.load_maintenances(["1", "2"]))["1"]
    assert (stands.until, stands.by) == (None, "ada")
    await turn(database, 10_000_000)
    assert not any((await Reconciler(database).run_once()).values())
    await ledger.release_target("1")
    assert len((await owner.claim()).runs) == 1
    assert await ledger.load_maintenances(["1"]) == {}
    assert await faults(database) == []


async def test_a_shortened_maintenance_releases_runs_earlier(database: Database) -> None:
    ledger, owner = Ledger(database), Owner(database)
    await ledger.hold_target("1", 10, seconds=3600, reason=None, by="ada")
    await launch(database, machines(1))
    await owner.claim()
    await ledger.hold_target("1", 10, seconds=600, reason="short", by="ada")
    assert not (await owner.claim()).runs
    assert await waits(database) == [("web-1", "hold", "maintenance: short")]
    await turn(database, 601)
    await Reconciler(database).run_once()
    assert len((await owner.claim()).runs) == 1


async def test_no_hold_outlives_its_maintenance_in_any_order(database: Database) -> None:
    ledger, owner = Ledger(database), Owner(database)
    for _ in range(10):
        await ledger.hold_target("1", 10, reason=None, by="ada")
        await launch(database, machines(1))
        await asyncio.gather(owner.claim(), ledger.release_target("1"))
        await owner.claim()
        assert await waits(database) == []
    assert await faults(database) == []


async def test_running_runs_continue_during_a_maintenance(database: Database) -> None:
    ledger, owner = Ledger(database), Owner(database)
    execution = await launch(database, machines(1))
    runs = (await owner.claim()).runs
    await ledger.hold_target("1", 10, reason=None, by="ada")
    await owner.finish(runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED


async def test_a_deadline_ends_held_runs(database: Database) -> None:
    ledger, owner = Ledger(database), Owner(database)
    await ledger.hold_target("1", 10, reason=None, by="ada")
    execution = await launch(database, machines(1), timeout_seconds=60)
    await owner.claim()
    await turn(database, 601)
    await Reconciler(database).run_once()
    assert (await read(database, execution)).status is ExecutionStatus.TIMEOUT
    assert await faults(database) == []


async def test_a_worker_serves_its_own_zone(database: Database) -> None:
    execution = await launch(database, [*machines(2), *machines(2, first=3, zone="dmz")])
    here, there = Owner(database), Owner(database, "worker-2", zone="dmz")
    runs = (await here.claim()).runs
    assert {run.target_name for run in runs} == {"web-1", "web-2"}
    assert not (await here.claim()).runs
    await here.finish(runs)
    assert not (await here.take_over())
    runs = (await there.claim()).runs
    assert {run.target_name for run in runs} == {"web-3", "web-4"}
    await there.finish(runs)
    assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_a_freed_slot_notifies_its_own_zone(database: Database) -> None:
    await launch(database, machines(1, slots=1))
    await launch(database, machines(1, slots=1))
    owner = Owner(database)
    runs = (await owner.claim()).runs
    assert len(runs) == 1
    assert (await owner.finish(runs)).admitted == {"default": 1}


async def turn(database: Database, seconds: float) -> None:
    """Advance the clock that all processes share."""
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(secs => %s)", [seconds]
        )
