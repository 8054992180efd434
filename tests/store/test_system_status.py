"""The state of the service as PostgreSQL has it."""

from __future__ import annotations

from uuid import uuid4

from kit.ledger_fixtures import Owner, launch, machines
from kit.scripted_worker import ScriptedExecution
from opsjobs.model.retry_request import DiscardDraft, LetterFilter
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.migrations import runner
from opsjobs.store.system_status import HEAD, SystemStatus
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Workers


def test_the_revision_this_release_needs_is_the_migrations_head(database_url: str) -> None:
    assert runner.check(database_url).head == HEAD


async def test_a_migrated_database_says_its_revision(database: Database) -> None:
    assert await SystemStatus(database).schema() == HEAD
    async with database.connection() as connection:
        await connection.execute("drop table alembic_version")
    assert await SystemStatus(database).schema() is None


async def test_queues_are_counted_by_zone(database: Database) -> None:
    scripted = ScriptedExecution(database)
    await scripted.launch(3)
    await Workers(database).register(
        Incarnation(uuid4(), "worker-1", "default", 7, 200), lease_seconds=600
    )
    await Workers(database).register(
        Incarnation(uuid4(), "worker-2", "dmz", 8, 200), lease_seconds=600
    )
    default, dmz = await SystemStatus(database).queues()
    assert (default.zone, default.waiting + default.ready, default.running, default.workers) == (
        "default",
        3,
        0,
        1,
    )
    assert 0 <= (default.oldest_seconds or 0) < 60
    assert (dmz.zone, dmz.ready, dmz.workers) == ("dmz", 0, 1)
    await scripted.claim()
    assert [(q.ready, q.running) for q in await SystemStatus(database).queues()] == [(0, 3), (0, 0)]
    assert await SystemStatus(database).open_executions() == {"running": 1}


async def test_dead_letters_are_counted_until_they_are_answered(database: Database) -> None:
    owner = await Owner(database).register()
    await launch(database, machines(3))
    await owner.lose((await owner.claim()).runs)
    assert (await SystemStatus(database).upkeep()).dead_letters == 3
    wish = DiscardDraft(filter=LetterFilter(target="web-2"), reason="scrapped")
    assert len(await DeadLetters(database).discard(wish, by="ada")) == 1
    assert (await SystemStatus(database).upkeep()).dead_letters == 2


async def test_a_worker_is_alive_until_its_lease_ends(database: Database) -> None:
    workers = Workers(database)
    living, dead, gone = (Incarnation(uuid4(), f"worker-{n}", "default", n, 200) for n in (1, 2, 3))
    await workers.register(living, lease_seconds=600)
    await workers.register(dead, lease_seconds=-1)
    await workers.register(gone, lease_seconds=15)
    await workers.stop(gone.id)
    assert {w.name: w.alive for w in await SystemStatus(database).workers()} == {
        "worker-1": True,
        "worker-2": False,
        "worker-3": False,
    }
    async with database.connection() as admin:  # it is no longer shown an hour after its end
        await admin.execute("update workers set renewed_at = renewed_at - interval '61 minutes'")
    assert [w.name for w in await SystemStatus(database).workers()] == ["worker-1", "worker-2"]


async def test_upkeep_shows_the_stock_of_partitions(database: Database) -> None:
    await ScriptedExecution(database).launch()
    await Workers(database).tick("scheduler")
    upkeep = await SystemStatus(database).upkeep()
    assert (upkeep.partitions, upkeep.days_ahead, upkeep.default_rows) == (15, 14, 0)
    assert min(upkeep.log_bytes, upkeep.events_unpublished) > 0
    assert 0 <= upkeep.oldest_event_seconds < 60
    assert 0 <= upkeep.ticks["scheduler"] < 60
