"""The cost of an operation grows with its work, not with the size of the database.

The database is a small one with a history (tests/kit/large_database.py). Sequential scans are switched off:
if one is left, there is no index for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kit import api_lists, large_database
from kit.backing_servers import Databases
from kit.ledger_fixtures import Owner, launch, machines
from kit.many_runs import add_targets
from kit.query_plans import Explaining, Plan
from opsjobs.model.access import LAUNCH, SEE_EXECUTIONS, Grant, Principal, Reach, Scope
from opsjobs.model.execution import WaitingFor
from opsjobs.model.selection import Requirement
from opsjobs.store.executions import EXECUTIONS as LISTED
from opsjobs.store.inventory import TARGETS
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.paging import PageRequest
from opsjobs.store.statistics import Statistics
from opsjobs.store.target_history import TargetHistory
from opsjobs.store.transaction import Database, DatabaseOptions

EXECUTIONS = 4_000
NEW_TARGETS = 2_000


@pytest.fixture(scope="module")
def history(databases: Databases) -> Iterator[str]:
    """Return the URL of a database with a history."""
    name = databases.create()
    large_database.make(databases.url_of(name), large_database.HISTORY, EXECUTIONS)
    yield databases.url_of(name)
    databases.drop(name)


@asynccontextmanager
async def explained(
    url: str, *, hot: bool = True, seqscan: str = "on"
) -> AsyncIterator[Explaining]:
    """Yield a Database that reports plans with the rows that were read."""
    database = Explaining(
        DatabaseOptions(url, connections=3, hot_verbs=hot),
        analyze=True,
        settings={"enable_seqscan": seqscan},
    )
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def read_of_runs(plans: list[Plan]) -> float:
    """Return the number of rows of runs that were read."""
    return sum(scan.rows for plan in plans for scan in plan.scans if scan.table == "target_runs")


async def at_a_barrier(database: Explaining, targets: int) -> list[Plan]:
    """Return the plans of the commit with which the last of these runs opens a barrier."""
    execution = await launch(database, machines(targets), actions=2, barrier=True, window=targets)
    owner = await Owner(database).register()
    runs = (await owner.claim(targets)).runs
    assert len(runs) == targets
    await owner.defer(runs[1:], WaitingFor.BARRIER, awaits="step-2")
    database.take()
    settled = await owner.defer(runs[:1], WaitingFor.BARRIER, awaits="step-2")
    assert sum(settled.admitted.values()) == targets
    plans = database.take()
    await Ledger(database).cancel(execution.id, by="ada", reason=None)
    return plans


async def test_a_barrier_reads_a_constant_number_of_rows_per_run(history: str) -> None:
    async with explained(history) as database:
        assert read_of_runs(await at_a_barrier(database, 400)) < 400 * 10


async def test_a_barrier_of_more_than_one_statement_admits_opens_for_all(
    database: Database,
) -> None:
    targets = 1_200
    await launch(database, machines(targets), actions=2, barrier=True, window=targets)
    owner = await Owner(database).register()
    runs = (await owner.claim(targets)).runs
    settled = await owner.defer(runs, WaitingFor.BARRIER, awaits="step-2")
    assert settled.admitted == {"default": targets}
    assert len((await owner.claim(targets)).runs) == targets


async def test_a_resume_of_more_than_one_statement_admits_makes_all_ready(
    database: Database,
) -> None:
    targets = 1_200
    ledger = Ledger(database)
    execution = await launch(database, machines(targets), window=targets)
    owner = await Owner(database).register()
    runs = (await owner.claim(targets)).runs
    await ledger.pause(execution.id, by="ada", reason=None)
    await owner.give_back(runs)
    assert (await ledger.resume(execution.id, by="ada")).ready == {"default": targets}


@pytest.mark.parametrize("verb", ["claim", "settle"])
async def test_a_worker_reads_a_constant_number_of_rows_per_run(history: str, verb: str) -> None:
    async with explained(history, seqscan="off") as database:
        await launch(database, machines(400), window=400)
        owner = await Owner(database).register()
        database.take()
        runs = (await owner.claim(400)).runs
        claimed = database.take()
        await owner.finish(runs)
        plans = claimed if verb == "claim" else database.take()
        assert len(runs) == 400
        assert sum(plan.rows() for plan in plans) < 400 * 12
        assert {scan.table for plan in plans for scan in plan.whole()} == set()


async def test_a_launch_does_not_read_entries_of_runs_claimed_since_the_oldest_snapshot(
    history: str,
) -> None:
    async with explained(history) as database:
        owner = await Owner(database).register()
        await launch(database, machines(3), window=3)
        await owner.finish((await owner.claim(3)).runs)
        floor = await database.fetch_one("select turn from zone_turns where zone = 'default'")
        assert floor is not None
        database.take()
        execution = await launch(database, machines(1))
        assert any("zone_turns" in plan.query for plan in database.take())
        row = await database.fetch_one(
            "select turn from target_runs where execution_id = %s", [execution.id]
        )
        assert row is not None
        assert row["turn"] > floor["turn"]
        await Ledger(database).cancel(execution.id, by="ada", reason=None)


async def names_waiting(url: str, name: str, waiting: int) -> None:
    """Launch this many executions that wait for one name, held by another one."""
    database = Database(DatabaseOptions(url, connections=1))
    await database.open()
    async with database.connection() as connection:
        await connection.execute(
            large_database.WAITING_FOR_A_NAME, {"name": name, "waiting": waiting}
        )
    await database.close()


async def test_waiting_requests_for_an_exclusive_name_cost_new_ones_nothing(history: str) -> None:
    reads = []
    for waiting in (100, 400):
        await names_waiting(history, f"deploy-{waiting}", waiting)
        async with explained(history, seqscan="off") as database:
            await launch(database, machines(1), names=[f"deploy-{waiting}"])
            reads.append(
                sum(
                    scan.rows
                    for plan in database.take()
                    for scan in plan.scans
                    if scan.table == "exclusive_locks"
                )
            )
    assert max(reads) < 100


async def test_a_round_of_the_reconciler_reads_no_more_if_more_is_open(history: str) -> None:
    await names_waiting(history, "release", 300)
    async with explained(history, seqscan="off") as database:
        reconciler = Reconciler(database)
        await reconciler.run_once()
        database.take()
        await reconciler.run_once()
        plans = database.take()
        assert {scan.table for plan in plans for scan in plan.whole()} == set()
        assert (
            sum(
                scan.rows
                for plan in plans
                for scan in plan.scans
                if scan.table == "exclusive_locks"
            )
            < 1_000
        )


async def test_reconciler_rounds_look_at_one_range_after_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsjobs.store.ledger.reconcile.PART_ROWS", 2)
    executions = [await launch(database, machines(2), window=1) for _ in range(5)]
    # Like an operation that was killed before it admitted.
    async with database.connection() as connection:
        await connection.execute(
            "update target_runs set waiting_for = 'admission', turn = null where waiting_for is "
            "null"
        )
        await connection.execute("update job_executions set ready = 0, waiting = waiting + ready")
    reconciler = Reconciler(database)
    admitted = [(await reconciler.run_once())["admitted"] for _ in range(4)]
    assert admitted == [2, 2, 1, 0]
    assert len(executions) == 5


async def test_one_process_at_a_time_runs_a_reconciler_round(database: Database) -> None:
    first, second = Reconciler(database), Reconciler(database)
    assert await first.take_turn(60)
    assert not await second.take_turn(60)
    assert not await first.take_turn(60)
    assert await second.take_turn(0)


# No page of these may read all rows, whatever its filter.
UNENDING = ("executions", "approvals", "audit", "firings of one schedule", "files", "files of one")
ROWS_A_PAGE = 1_500


@pytest.mark.parametrize("name", UNENDING)
async def test_a_page_reads_no_more_than_a_few_rows_for_each_that_it_shows(
    history: str, name: str
) -> None:
    async with explained(history, hot=False, seqscan="off") as database:
        row = await database.fetch_one(
            "select (now() - interval '300 days')::timestamptz(0)::text as moment"
        )
        assert row is not None
        asked = next(
            a for a in api_lists.lists(1, row["moment"].replace(" ", "T")) if a.name == name
        )
        for question in api_lists.questions(asked):
            if question.request.page is None:
                database.take()
                await question.ask(database)
                read = {plan.text(): plan.rows() for plan in database.take()}
                assert sum(read.values()) < ROWS_A_PAGE, question.name


async def test_every_question_of_a_list_has_an_answer(history: str) -> None:
    async with explained(history) as database:
        for asked in api_lists.lists(1, api_lists.DAYS_AGO):
            for question in api_lists.questions(asked):
                await question.ask(database)


async def test_facets_read_only_what_a_filter_or_a_scope_finds(history: str) -> None:
    nowhere = Reach((Scope((Requirement("env", ("nowhere",)),)),))
    async with explained(history) as database:
        for filters, reach in (({"requested_by": ["gone"]}, None), ({}, nowhere)):
            request = PageRequest(limit=1, filters=filters, facets=("status",))
            database.take()
            await LISTED.page(database, request, reach=reach)
            assert sum(plan.rows() for plan in database.take()) < ROWS_A_PAGE


async def test_statistics_read_what_ended_since_the_last_count(history: str) -> None:
    async with explained(history, seqscan="off") as database:
        statistics = Statistics(database)
        while await statistics.count_hour():
            pass
        database.plans.clear()
        await statistics.read()
        operator = Principal.of_role("ben", "operator", "user", scope=Scope.parse("env=staging"))
        await statistics.read(operator.reach(SEE_EXECUTIONS))
        assert len(database.plans) >= 4
        assert [scan for plan in database.plans for scan in plan.whole()] == []
        # Some per hour in 360 days: those of an hour and a half at most.
        assert sum(plan.rows() for plan in database.plans) < 20


async def test_what_the_caller_launched_is_found_by_the_rows_that_are_shown(history: str) -> None:
    grants = (Grant(frozenset({SEE_EXECUTIONS}), Scope.parse("env=staging")),)
    caller = Principal("gone", "user", (*grants, Grant(frozenset({LAUNCH}))))
    async with explained(history) as database:
        await TargetHistory(database).load_health(["7"], caller.reach(SEE_EXECUTIONS))
        # Ten runs of the target, and not the 200 executions that the caller launched.
        assert 0 < sum(plan.rows() for plan in database.take()) < 100


async def test_the_health_of_new_targets_is_read_by_their_runs(database_url: str) -> None:
    async with explained(database_url) as database:
        await add_targets(database, NEW_TARGETS)
        # PostgreSQL's statistics of the runs only cover a few targets until the next analyze.
        for _ in range(50):
            await launch(database, machines(4))
        async with database.transaction() as connection:
            await connection.execute("analyze target_runs")
        await launch(database, machines(NEW_TARGETS))
        database.take()
        request = PageRequest(limit=100, sort="health", facets=("health",))
        page = await TARGETS.page(database, request, {"among": None, "remote": False})
        assert page.facets == {"health": {"unknown": NEW_TARGETS}}
        # Twice each: for the order, and for the facet.
        assert read_of_runs(database.take()) < 10 * NEW_TARGETS
        await TargetHistory(database).load_health([str(row["id"]) for row in page.items])
        assert read_of_runs(database.take()) < 10 * len(page.items)
