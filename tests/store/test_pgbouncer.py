"""A real PgBouncer in transaction mode in front of PostgreSQL, as it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from kit.ledger_fixtures import Owner, faults, launch, machines, read
from kit.postgres_proxy import pgbouncer
from opsjobs.model.errors import Unavailable
from opsjobs.model.execution import ExecutionStatus
from opsjobs.store import connections
from opsjobs.store.migrations import runner
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Lease, Workers

_LIMITS = """
select current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement,
  current_setting('idle_in_transaction_session_timeout') as idle,
  current_setting('plan_cache_mode') as plans"""
_WAITS = """
select 1 from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and not granted
  and clock_timestamp() > query_start + interval '1.2 s'"""
_SET = {"lock": "5s", "statement": "30s", "idle": "3s", "plans": "force_generic_plan"}


@asynccontextmanager
async def behind(
    database: Database, *, mode: str = "transaction", hot_verbs: bool = True, **settings: str
) -> AsyncIterator[Database]:
    """Yield the same database through a PgBouncer with two connections to it."""
    async with pgbouncer(database.options.url, mode=mode, **settings) as url:
        made = Database(DatabaseOptions(url, connections=8, hot_verbs=hot_verbs))
        await made.open()
        try:
            yield made
        finally:
            await made.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_limits_apply_to_every_transaction_and_leak_to_no_other_client(
    database: Database, mode: str
) -> None:
    async with behind(database, mode=mode) as pooled:
        async with pooled.transaction() as connection:
            assert await (await connection.execute(_LIMITS)).fetchone() == _SET
        async with pooled.manual_transaction() as connection:
            await connection.begin()
            assert await (await connection.execute(_LIMITS)).fetchone() == _SET
        async with pooled.pipelined() as connection:
            asked = await connection.execute(_LIMITS)
        assert await asked.fetchone() == _SET
        left = [await pooled.fetch_one(_LIMITS) for _ in range(8)]
        assert [row["lock"] for row in left if row is not None] == ["0"] * 8


async def test_a_worker_s_whole_day_goes_through_a_pooler(database: Database) -> None:
    """Claim, settle and launch concurrently, often enough for statements to be prepared."""
    async with behind(database) as pooled:
        executions = [await launch(pooled, machines(5, first=1 + 5 * n)) for n in range(12)]
        owners = [await Owner(pooled, f"worker-{n}").register() for n in range(3)]

        async def work(owner: Owner) -> None:
            while runs := (await owner.claim(7)).runs:
                await owner.finish(runs)

        await asyncio.gather(*(work(owner) for owner in owners))
        ends = [(await read(pooled, execution)).status for execution in executions]
        assert ends == [ExecutionStatus.COMPLETED] * 12
        prepared = await database.fetch(
            "select 1 from pg_stat_activity where application_name like '%%opsjobs%%'"
        )
        assert len(prepared) <= 2 + 1, "PgBouncer has two connections, the test one"
    assert await faults(database) == []


async def test_a_connection_that_is_accepted_and_not_served_times_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pgbouncer(database.options.url, connections=1) as url:
        first = await connections.open_connection(url)
        await first.begin()
        with monkeypatch.context() as impatient:
            impatient.setattr(connections, "DIAL_SECONDS", 0.5)
            with pytest.raises(psycopg.OperationalError):
                await connections.open_connection(url)
        await first.close()
        await (await connections.open_connection(url)).close()


async def test_moments_are_utc_whichever_connection_answers(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "do $$ begin execute format('alter database %I set timezone = %L', current_database(), "
            "'Asia/Tokyo'); end $$"
        )
    async with behind(database) as pooled:
        rows = await asyncio.gather(
            *(pooled.fetch_one("select now() as now, pg_sleep(0.05)") for _ in range(8))
        )
        assert {row["now"].utcoffset() for row in rows if row is not None} == {timedelta(0)}


async def test_a_lease_is_renewed_through_a_pooler(database: Database) -> None:
    life = Incarnation(uuid4(), "worker-1", "default", 1, 1)
    async with pgbouncer(database.options.url) as url:
        await Workers(database).register(life, lease_seconds=15)
        lease = Lease(url, life, lease_seconds=15)
        alive: Sequence[bool] = [(await lease.renew()).alive for _ in range(8)]
        await lease.close()
    assert alive == [True] * 8


async def test_a_pooler_that_loses_prepared_statements_costs_one_error_and_is_named(
    database: Database,
) -> None:
    async with behind(database, max_prepared_statements="0", hot_verbs=False) as pooled:
        failed = 0

        async def ask(n: int) -> None:
            nonlocal failed
            try:
                await pooled.fetch("select %s::int as n, pg_sleep(0.002)", [n])
            except Unavailable:
                failed += 1

        with capture_logs() as said:
            while not failed:
                await asyncio.gather(*(ask(n) for n in range(8)))
            before = failed
            for _ in range(20):
                await asyncio.gather(*(ask(n) for n in range(8)))
        assert [line["event"] for line in said if line["event"] == "prepared_statements_off"] == [
            "prepared_statements_off"
        ]
        assert failed == before


async def test_a_migration_goes_through_a_pooler_and_not_by_the_limits_of_its_role(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "do $$ begin execute format('alter database %I set statement_timeout = 1000', "
            "current_database()); end $$"
        )
    async with pgbouncer(database.options.url) as url:
        assert (await asyncio.to_thread(runner.check, url)).up_to_date
        async with database.transaction() as first:
            await first.execute(f"select pg_advisory_xact_lock({runner._LOCK})")
            upgrading = asyncio.create_task(asyncio.to_thread(runner.upgrade, url))
            while not await (await first.execute(_WAITS)).fetchall():
                await asyncio.sleep(0.1)
        assert (await upgrading).up_to_date


async def test_postgresql_is_distinguished_from_a_pooler(database: Database) -> None:
    async with database.connection() as connection:
        assert not connection.pooled
    async with behind(database) as pooled, pooled.connection() as connection:
        assert connection.pooled
    assert psycopg.pq.version() >= 170_000, (
        "older ones cannot close a prepared statement, which PgBouncer then keeps for ever"
    )
