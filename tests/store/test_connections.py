"""Connections to PostgreSQL: client deadlines, server limits, reconnecting after outages."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from kit.postgres_proxy import over_tcp
from opsjobs.model.errors import Unavailable
from opsjobs.store import connections, transaction
from opsjobs.store.connections import DatabaseConnection, Reconnector, open_connection
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.workers import Incarnation, Lease, Workers

_IN_FORCE = """
select current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement,
  current_setting('idle_in_transaction_session_timeout') as idle,
  current_setting('TimeZone') as zone,
  current_setting('plan_cache_mode') as plans"""


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is asked whether it is alive, however long it was idle."""
    monkeypatch.setattr(transaction, "TRUSTED_SECONDS", 3_600.0)


@pytest.mark.usefixtures("trusting")
async def test_a_statement_without_an_answer_ends_at_the_client_deadline(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        over_tcp(database.options.url) as (proxy, url),
        opened(url, connections=1) as through,
    ):
        assert await through.fetch("select 1 as one") == [{"one": 1}]
        proxy.silence_all()
        with monkeypatch.context() as impatient:
            impatient.setattr(DatabaseConnection, "answer_seconds", 0.3)
            with pytest.raises(Unavailable, match="gave no answer"):
                await through.fetch("select 2 as two")
        assert await through.fetch("select 3 as three") == [{"three": 3}], (
            "the next one goes over a new connection"
        )


@pytest.mark.usefixtures("trusting")
async def test_a_cancelled_transaction_does_not_wait_for_a_silent_server(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        over_tcp(database.options.url) as (proxy, url),
        opened(url, connections=1) as through,
    ):
        await through.fetch("select 1")
        proxy.silence_all()
        with monkeypatch.context() as impatient:
            impatient.setattr(DatabaseConnection, "answer_seconds", 0.3)
            asking = asyncio.create_task(through.fetch("select 2"))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises((asyncio.CancelledError, Unavailable)):
                await asking
        assert await through.fetch("select 3 as three") == [{"three": 3}]


async def test_every_connection_has_a_tcp_user_timeout_of_seconds(database: Database) -> None:
    life = Incarnation(uuid4(), "worker-1", "default", 1, 1)
    await Workers(database).register(life, lease_seconds=15)
    async with over_tcp(database.options.url) as (_, url), opened(url) as through:
        lease = Lease(url, life, lease_seconds=15)
        await lease.renew()
        assert lease._connection is not None
        async with through.connection() as pooled:
            found = [_user_timeout(pooled), _user_timeout(lease._connection)]
        await lease.close()
    assert found == [10_000, 10_000]


def _user_timeout(connection: psycopg.AsyncConnection[object]) -> int:
    with socket.socket(fileno=socket.dup(connection.fileno())) as line:
        return line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


async def test_a_pool_hands_out_no_connection_that_postgresql_has_closed(
    database: Database,
) -> None:
    options = replace(database.options, connections=1, hot_verbs=True)
    worker = Database(options)
    await worker.open()
    try:
        for _ in range(3):
            row = await worker.fetch_one("select pg_backend_pid() as pid")
            assert row is not None
            await database.fetch("select pg_terminate_backend(%s, 20000)", [row["pid"]])
    finally:
        await worker.close()


async def test_a_pool_notices_the_end_of_an_outage_at_once(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(connections, "REDIAL_SECONDS", 0.01)
    failures = 0

    async def try_to() -> DatabaseConnection:
        nonlocal failures
        if failures < 200:
            failures += 1
            raise psycopg.OperationalError("connection refused")
        return await open_connection(database.options.url)

    redial = Reconnector(try_to)
    # If the pauses doubled without a limit, the twentieth alone would be three hours.
    made = await asyncio.gather(*(redial.connect() for _ in range(5)))
    assert (len(made), failures, redial.reason) == (5, 200, None)
    for connection in made:
        await connection.close()


async def test_during_an_outage_a_pool_makes_one_connection_attempt_at_a_time() -> None:
    at_work, most, asked = 0, 0, 0

    async def try_to() -> DatabaseConnection:
        nonlocal at_work, most, asked
        at_work, asked = at_work + 1, asked + 1
        most = max(most, at_work) if asked > 10 else most
        await asyncio.sleep(0)
        at_work -= 1
        raise psycopg.OperationalError("connection refused")

    redial = Reconnector(try_to)
    dialling = [asyncio.create_task(redial.connect()) for _ in range(10)]
    while asked < 12:
        await asyncio.sleep(0.01)
    redial.close()
    ended = await asyncio.gather(*dialling, return_exceptions=True)
    assert most == 1
    assert all(isinstance(end, psycopg.OperationalError) for end in ended)


async def test_a_connection_timeout_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "WAIT_SECONDS", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"postgresql://opsjobs@127.0.0.1:{deaf.getsockname()[1]}/opsjobs"
        async with opened(url) as nowhere:
            async with asyncio.timeout(60):
                while nowhere._redial.reason is None:
                    await asyncio.sleep(0.01)
            with pytest.raises(Unavailable, match="Connection refused"):
                await nowhere.fetch("select 1")


async def test_a_timeout_of_a_busy_pool_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database.options.url, connections=1) as small, small.connection():
        monkeypatch.setattr(transaction, "WAIT_SECONDS", 0.3)
        with pytest.raises(Unavailable, match="all 1 connections are in use"):
            await small.fetch("select 1")


async def test_limits_are_in_force_without_startup_options(database: Database) -> None:
    row = await database.fetch_one(_IN_FORCE)
    assert row == {"lock": "5s", "statement": "30s", "idle": "3s", "zone": "UTC", "plans": "auto"}
    async with opened(database.options.url, hot_verbs=True) as worker:
        assert await worker.fetch_one(_IN_FORCE) == {**row, "plans": "force_generic_plan"}


def opened(url: str, *, connections: int = 4, hot_verbs: bool = False) -> Opened:
    """Yield a Database of this URL."""
    return Opened(Database(DatabaseOptions(url, connections=connections, hot_verbs=hot_verbs)))


class Opened:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def __aenter__(self) -> Database:
        await self._database.open()
        return self._database

    async def __aexit__(self, *_: object) -> None:
        await self._database.close()
