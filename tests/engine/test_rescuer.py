"""The rescuer: expire leases and repair what failures left behind."""

from __future__ import annotations

from collections.abc import Callable

from engine.harness import Harness, harness
from kit.ledger_fixtures import Owner
from opsjobs.engine.background.housekeeping import Rescuer
from opsjobs.model.execution import ExecutionStatus
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.transaction import Database


def rescuer(
    on: Harness,
    may_reap: Callable[[], bool] = lambda: True,
    database_now: Callable[[], float | None] = lambda: None,
) -> Rescuer:
    return Rescuer(
        Reconciler(on.database),
        on.workers,
        may_reap=may_reap,
        notify=on.notify,
        round_seconds=0,
        database_now=database_now,
    )


async def test_expired_leases_are_reaped_only_if_the_process_may(database: Database) -> None:
    async with harness(database, open_ends=True) as on:
        await Owner(database, "alive").register(lease_seconds=1_000)
        await Owner(database, "away", zone="far").register(lease_seconds=10)
        await on.turn(11)
        assert (await rescuer(on, lambda: False).run_once())["leases_expired"] == 0
        assert await on.database.fetch("select 1 from workers where buried_at is not null") == []
        assert (await rescuer(on).run_once())["leases_expired"] == 1
        assert await on.database.fetch("select name from workers where buried_at is not null") == [
            {"name": "away"}
        ]
        assert on.notified == ["far"]
        assert (await rescuer(on).run_once())["leases_expired"] == 0
        events = await database.fetch("select type, data ->> 'name' as name from events")
        assert events == [{"type": "worker.lost", "name": "away"}]


async def test_the_rescuer_repairs_what_was_left_behind(database: Database) -> None:
    async with harness(database) as on:
        stopped = await on.launch("true", 3)
        expired = await on.launch("true", 2, timeout=60)
        async with database.connection() as connection:
            await connection.execute(
                "update job_executions set cancelling = true where id = %s", [stopped.id]
            )
        await on.turn(61)
        done = await rescuer(on).run_once()
        assert (done["cancelled"], done["expired"]) == (3, 2)
        assert (await on.ended(stopped)).status is ExecutionStatus.CANCELLED
        assert (await on.ended(expired)).status is ExecutionStatus.TIMEOUT
