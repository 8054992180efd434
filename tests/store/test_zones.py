"""Work of a zone is given only to workers of that zone."""

from __future__ import annotations

from kit.ledger_fixtures import STORE, Owner, launch, machines
from opsjobs.model.execution import ErrorCode, RunError, RunStatus
from opsjobs.store.ledger import Ledger
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Workers


async def zones(database: Database) -> tuple[Owner, Owner]:
    """Yield a worker of zone berlin, and one of zone paris."""
    berlin = await Owner(database, "worker-1", zone="berlin").register()
    return berlin, await Owner(database, "worker-2", zone="paris").register()


async def test_a_worker_claims_its_own_zone_of_an_execution_over_both(database: Database) -> None:
    berlin, paris = await zones(database)
    await launch(database, [*machines(3, zone="berlin"), *machines(2, first=4, zone="paris")])
    assert [run.target_name for run in (await paris.claim()).runs] == ["web-4", "web-5"]
    assert not (await paris.claim()).runs
    assert [run.target_name for run in (await berlin.claim()).runs] == ["web-1", "web-2", "web-3"]


async def test_a_takeover_stays_within_the_zone(database: Database) -> None:
    berlin, paris = await zones(database)
    await launch(database, machines(2, zone="berlin"))
    await berlin.identify((await berlin.claim()).runs, STORE)
    await Workers(database).stop(berlin.id)
    assert await paris.take_over() == []
    heir = await Owner(database, "worker-3", zone="berlin").register()
    assert [run.target_name for run in await heir.take_over()] == ["web-1", "web-2"]


async def test_cleanups_and_late_lookups_stay_within_the_zone(database: Database) -> None:
    berlin, _ = await zones(database)
    await launch(database, machines(1, zone="berlin"))
    runs = (await berlin.claim()).runs
    await berlin.identify(runs, STORE)
    await berlin.settle(berlin.flush(runs, RunStatus.LOST, error=RunError(ErrorCode.LOST, "gone")))
    await database.fetch("update opsjobs_clock set shift = '2 days' returning one")
    ledger = Ledger(database)
    assert (
        await ledger.lease_late_lookups("paris", 10),
        await ledger.lease_cleanups("paris", 10),
    ) == ([], [])
    assert [sweep.target_id for sweep in await ledger.lease_late_lookups("berlin", 10)] == ["1"]
