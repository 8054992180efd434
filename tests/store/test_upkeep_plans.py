"""Old data is found by an index.

The cost grows with the deleted data, not with the kept data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from kit import large_database
from kit.backing_servers import Databases
from kit.query_plans import Explaining
from opsjobs.store.blobs import Contents
from opsjobs.store.feeds import EventFeed
from opsjobs.store.idempotency import delete_old_keys
from opsjobs.store.outbox import Outbox
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Workers

DAY = 86_400.0
EXECUTIONS = 4_000
UNPUBLISHED = 80_000
NOTHING = RetentionLimits(
    1000 * DAY, 1000 * DAY, 1000 * DAY, 10**9, 1000 * DAY, firing_seconds=1000 * DAY
)
UPKEEP = ("workers", "job_schedules", "spent_names", "sessions")


@pytest.fixture(scope="module")
def history(databases: Databases) -> Iterator[str]:
    """Return the URL of a database with a history, none of it old, and unpublished events."""
    name = databases.create()
    url = databases.url_of(name)
    large_database.make(url, (*large_database.HISTORY, ("events that wait", _WAITING)), EXECUTIONS)
    yield url
    databases.drop(name)


_WAITING = f"""
insert into events (shard, type, subject, execution_id)
select n %% 16, 'target_run', gen_random_uuid(), 1000000 + n
  from generate_series(1, {UNPUBLISHED}) n"""


@asynccontextmanager
async def explained(url: str, *, seqscan: str = "off") -> AsyncIterator[Explaining]:
    """Yield a Database as workers have it, with generic plans and without sequential scans.

    If a sequential scan is left, there is no index for it.
    """
    options = DatabaseOptions(url, connections=2, hot_verbs=True)
    database = Explaining(options, analyze=True, settings={"enable_seqscan": seqscan})
    await database.open()
    try:
        await database.fetch("select 1")
        database.take()
        yield database
    finally:
        await database.close()


@pytest.mark.parametrize(
    "verb",
    ["executions", "artifacts", "firings", "names", "events", "keys", "contents", "workers"],
)
async def test_a_retention_step_without_old_rows_reads_almost_nothing(
    history: str, verb: str
) -> None:
    async with explained(history) as database:
        assert await verbs(database)[verb]() == 0
        plans = database.take()
    assert plans
    scans = [scan for plan in plans for scan in plan.scans if scan.growing or scan.table in UPKEEP]
    assert [(scan.table, scan.kind) for scan in scans if scan.kind == "Seq Scan"] == []
    assert sum(scan.rows for scan in scans) <= LOOKED_AT.get(verb, 0)


def verbs(database: Database) -> dict[str, Callable[[], Awaitable[int]]]:
    """Return each operation that looks for old data."""
    retention = Retention(database)
    return {
        "executions": partial(retention.delete_executions, NOTHING),
        "artifacts": partial(retention.delete_artifacts, NOTHING),
        "firings": partial(retention.delete_firings, NOTHING),
        "names": partial(retention.forget_names, NOTHING),
        "events": EventFeed(database).delete_old,
        "keys": partial(delete_old_keys, database),
        "contents": Contents(database).sweep,
        "workers": Workers(database).delete_old,
    }


# Of artifacts and firings, the oldest by id are read; of unpublished events, the oldest of each
# shard: a fixed number of rows.
LOOKED_AT = {"artifacts": 1_000, "firings": 5_000, "events": 5_000}


async def test_deleted_executions_are_read_once_each_beside_unpublished_events(
    history: str,
) -> None:
    async with explained(history) as database:
        gone = await Retention(database).delete_executions(
            replace(NOTHING, execution_seconds=345 * DAY)
        )
        plans = database.take()
    assert gone > 100
    assert [scan for plan in plans for scan in plan.whole()] == []
    (deleting,) = (
        plan for plan in plans if "dead_letter_answers" in plan.query and "with seen" in plan.query
    )
    assert deleting.rows() < gone * 12


@pytest.mark.parametrize("seqscan", ["off", "on"])
async def test_the_event_publisher_reads_unpublished_events_only(
    history: str, seqscan: str
) -> None:
    async with explained(history, seqscan=seqscan) as database:
        assert sorted(await Outbox(database).find_shards()) == list(range(16))
        (plan,) = database.take()
        assert plan.rows() == 16, plan.text()
        async with Outbox(database).batch(3, limit=10) as (facts, _):
            assert len(facts) == 10
        assert sum(plan.rows() for plan in database.take()) == 10


async def test_shards_without_unpublished_events_are_left_out(history: str) -> None:
    async with explained(history) as database:
        await database.fetch(
            "update events set published_at = now() where published_at is null and shard <> 7 "
            "returning 1"
        )
        assert await Outbox(database).find_shards() == [7]
