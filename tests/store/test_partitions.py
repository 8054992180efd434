"""Partitions of the log are repaired, whatever prevented their creation."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from psycopg import errors

from kit.ledger_fixtures import launch, machines
from opsjobs.store.connections import DatabaseConnection
from opsjobs.store.execution_log import DAYS_AHEAD, ExecutionLog, Partitions
from opsjobs.store.transaction import Database, DatabaseOptions


async def turn(database: Database, days: int) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "update opsjobs_clock set shift = shift + make_interval(days => %s)", [days]
        )


async def today(database: Database) -> date:
    row = await database.fetch_one("select (opsjobs_now() at time zone 'UTC')::date as day")
    assert row is not None
    day: date = row["day"]
    return day


async def astray(database: Database) -> int:
    row = await database.fetch_one("select count(*) as n from execution_log_default")
    assert row is not None
    return int(row["n"])


async def make_all(database: Database) -> int:
    partitions = Partitions(database)
    return sum([await partitions.make(day) for day in await partitions.find_missing()])


async def test_rows_without_a_partition_are_moved_to_one_of_their_day(database: Database) -> None:
    await turn(database, DAYS_AHEAD + 1)
    first = await launch(database, machines(1))
    await turn(database, 1)
    second = await launch(database, machines(2))
    before = [await ExecutionLog(database).read(e.id) for e in (first, second)]
    assert await astray(database) == sum(map(len, before)) > 0
    wanted = await Partitions(database).find_missing()
    now = await today(database)
    assert wanted == [*(now + timedelta(n) for n in range(DAYS_AHEAD + 1)), now - timedelta(1)]
    assert await make_all(database) == DAYS_AHEAD + 2
    assert await astray(database) == 0
    assert [await ExecutionLog(database).read(e.id) for e in (first, second)] == before
    assert await Partitions(database).find_missing() == []
    await launch(database, machines(1))
    assert await astray(database) == 0


async def test_moving_many_rows_may_take_longer_than_other_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await turn(database, DAYS_AHEAD + 1)
    await launch(database, machines(1))
    async with database.connection() as connection:
        await connection.execute(
            """create function slow() returns trigger language plpgsql as $$ begin perform
              pg_sleep(0.6); return old; end $$;
               create trigger slow before delete on execution_log_default for each row
                 execute function slow()"""
        )
    extend = DatabaseConnection.wait_longer

    def wait_longer(connection: DatabaseConnection, statement_seconds: float) -> None:
        # Not earlier: any other statement may take its time.
        monkeypatch.setattr(DatabaseConnection, "answer_seconds", 0.5)
        extend(connection, statement_seconds)

    monkeypatch.setattr(DatabaseConnection, "wait_longer", wait_longer)
    mover = Database(DatabaseOptions(database.options.url, connections=1))
    await mover.open()
    try:
        assert await Partitions(mover).make(await today(database))
        async with mover.connection() as connection:
            assert connection.answer_seconds == 0.5
    finally:
        await mover.close()
    assert await astray(database) == 0


async def test_a_partition_that_cannot_be_made_stops_no_other(database: Database) -> None:
    await turn(database, DAYS_AHEAD + 1)
    await launch(database, machines(1))
    partitions = Partitions(database)
    broken, *others = await partitions.find_missing()
    async with database.connection() as connection:
        await connection.execute(
            f"create table execution_log_{broken:%Y%m%d} (in_the_way int)".encode()
        )
    with pytest.raises(errors.DuplicateTable):
        await partitions.make(broken)
    assert all([await partitions.make(day) for day in others])
    assert await partitions.find_missing() == [broken]
    async with database.connection() as connection:
        await connection.execute(f"drop table execution_log_{broken:%Y%m%d}".encode())
    assert await make_all(database) == 1
    assert await astray(database) == 0


async def test_rows_that_come_after_their_day_was_dropped_are_deleted(database: Database) -> None:
    execution = await launch(database, machines(1))
    day = await today(database)
    async with database.transaction() as connection:
        await connection.execute(
            f"alter table execution_log detach partition execution_log_{day:%Y%m%d}".encode()
        )
        await connection.execute(f"drop table execution_log_{day:%Y%m%d}".encode())
        await connection.execute("insert into dropped_log_days (log_day) values (%s)", [day])
        await connection.execute(
            "insert into execution_log (log_day, execution_id, seq, event) values (%s, %s, 9, "
            "'status')",
            [day, execution.id],
        )
    await turn(database, 1)
    assert day in await Partitions(database).find_missing()
    await make_all(database)
    assert await astray(database) == 0
    assert day not in await Partitions(database).find_missing()


async def test_attaching_a_partition_waits_only_briefly_for_readers(database: Database) -> None:
    await turn(database, 1)
    partitions = Partitions(database)
    (day,) = await partitions.find_missing()
    async with database.transaction() as reader:
        await reader.execute("select count(*) from execution_log")
        assert not await partitions.make(day)
    assert await partitions.make(day)
    assert not await partitions.make(day)


async def test_a_read_of_the_log_locks_the_partition_of_its_day_alone(database: Database) -> None:
    execution = await launch(database, machines(1))
    day = f"execution_log_{await today(database):%Y%m%d}"
    others = await database.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = "
        "'execution_log'::regclass and inhrelid <> %s::regclass",
        [day],
    )
    journal = ExecutionLog(database)
    async with database.transaction() as held:
        await held.execute(
            f"lock table {', '.join(row['name'] for row in others)} in access exclusive mode".encode()
        )
        for _ in range(8):  # the last of them are prepared
            assert len(await journal.read(execution.id)) == 1
            assert [len(page) async for page in journal.output(execution.id)] == []
            assert await journal.read_states(execution.id, after=0, upto=9, limit=9) == []
