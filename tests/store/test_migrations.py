"""The schema grows while the service runs: data is kept, and running processes continue.

The migrations after the baseline are made by the tests.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.errors import UniqueViolation

from kit.backing_servers import AUDIT_KEY, Databases
from kit.ledger_fixtures import Owner, faults, launch, machines, read
from kit.migrations import Versions
from kit.ports import free_port
from kit.postgres_proxy import over_tcp
from opsjobs.model.errors import Failure, Refusal, Unavailable
from opsjobs.model.execution import ExecutionStatus
from opsjobs.store.migrations import runner
from opsjobs.store.migrations.files import indexes
from opsjobs.store.system_status import HEAD
from opsjobs.store.transaction import Database, DatabaseOptions

FIRST_ADDED, SECOND_ADDED = f"{int(HEAD) + 1:04}", f"{int(HEAD) + 2:04}"
BASELINE = runner.VERSIONS / "0073_baseline.sql"
STORE = Path(runner.__file__).parent.parent
# The two kinds of steps: in the migration's transaction, and concurrently before it.
COLUMN = "alter table target_runs add column colour text;"
INDEX = "create index events_subject on events (subject);"
EVENT = (
    "insert into events (shard, type, subject) values (0, 'x.y', "
    "'01890a5d-ac96-774b-bcce-b302099a8057')"
)


@pytest.fixture
def empty_url(databases: Databases) -> Iterator[str]:
    """Return the URL of a database without any table."""
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(databases.url_of("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        yield databases.url_of(name)
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
def url(database_url: str) -> str:
    """Return the URL of a database with the schema of this release."""
    return database_url


@pytest.fixture
def database(url: str) -> Database:
    """Return a pool of one connection: a prepared statement is used again."""
    return Database(DatabaseOptions(url, connections=1, hot_verbs=True))


def test_the_audit_log_is_not_begun_without_keys(empty_url: str) -> None:
    with pytest.raises(Failure, match="ENCRYPTION_KEYS is not set"):
        runner.upgrade(empty_url)
    assert runner.check(empty_url).current is None
    assert runner.upgrade(empty_url, [AUDIT_KEY]) == runner.upgrade(empty_url), (
        "later ones need none"
    )


async def test_a_worker_goes_on_while_every_table_gets_a_column(
    versions: Versions, url: str, database: Database
) -> None:
    """Its statements are prepared: one that names no columns would fail from then on."""
    worker = await Owner(database).register()
    first, second = await launch(database, machines(3)), await launch(database, machines(2))
    for _ in range(8):  # psycopg prepares a statement that it sent five times
        await worker.give_back((await worker.claim(limit=1)).runs)
    held = (await worker.claim(limit=1)).runs
    prepared = await database.fetch("select count(*) as n from pg_prepared_statements")
    assert prepared[0]["n"] > 5
    versions.add("\n".join(f"alter table {table} add column colour text;" for table in TABLES))
    assert runner.upgrade(url).current == FIRST_ADDED
    await worker.finish(held)
    for _ in range(4):
        await worker.finish((await worker.claim(limit=1)).runs)
    for execution in (first, second):
        assert (await read(database, execution)).status is ExecutionStatus.COMPLETED
    assert await faults(database) == []


async def test_an_upgrade_changes_no_stored_row(
    versions: Versions, url: str, database: Database
) -> None:
    await launch(database, machines(2))
    await (await Owner(database).register()).claim(limit=1)
    runs = (
        "select id, status, owner, fence, attempt, claims, finished_at from target_runs order by id"
    )
    before = await database.fetch(runs)
    versions.add(COLUMN, INDEX)
    runner.upgrade(url)
    assert await database.fetch(runs) == before
    assert len(before) == 2


def test_an_upgrade_waits_for_a_table_in_use_without_blocking_others(
    versions: Versions, url: str
) -> None:
    versions.add(COLUMN)
    waited = threading.Event()
    with psycopg.connect(url) as backup, psycopg.connect(url, autocommit=True) as other:
        backup.execute(
            "select 1 from target_runs"
        )  # a table lock until the end of its transaction; a backup holds one for hours
        upgrade = threading.Thread(target=lambda: (runner.upgrade(url), waited.set()))
        upgrade.start()
        _until(
            other,
            "select 1 from pg_locks where not granted and relation = 'target_runs'::regclass",
        )
        other.execute("set lock_timeout = '20s'")
        other.execute(
            "select 1 from target_runs"
        )  # behind the upgrade in the queue, which gives way
        assert not waited.is_set()
        backup.rollback()
        upgrade.join(90)
    assert runner.check(url).up_to_date


def test_an_upgrade_that_never_gets_its_turn_says_so(
    versions: Versions, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TRIES", 1)
    versions.add(COLUMN)
    with psycopg.connect(url) as backup:
        backup.execute("select 1 from target_runs")
        with pytest.raises(Unavailable, match="tables are in use"):
            runner.upgrade(url)
    assert runner.check(url).current == HEAD


def test_each_migration_is_a_transaction_of_its_own_and_the_next_call_goes_on(
    versions: Versions, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TRIES", 1)
    versions.add(COLUMN)
    versions.add(
        "alter table jobs add column colour text; alter table files add column colour text;"
    )
    with psycopg.connect(url) as holder:
        holder.execute("select 1 from files")
        with pytest.raises(Unavailable, match="tables are in use"):
            runner.upgrade(url)
        assert runner.check(url).current == FIRST_ADDED
        with psycopg.connect(url) as other:
            held = (
                "select count(*) from pg_locks where database = (select oid from pg_database "
                "where datname = current_database())"
            )
            assert other.execute(f"{held} and mode = 'AccessExclusiveLock'").fetchone() == (0,)
            coloured = (
                "select table_name from information_schema.columns where column_name = 'colour'"
            )
            assert other.execute(coloured).fetchall() == [("target_runs",)]
    assert runner.upgrade(url).current == SECOND_ADDED


def test_a_database_of_a_revision_that_no_release_had_is_refused(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("update alembic_version set version_num = '0039'")
    assert not runner.check(url).up_to_date
    with pytest.raises(Refusal, match="revision 0039") as refused:
        runner.upgrade(url)
    assert refused.value.code == "database_unknown_revision"
    assert runner.check(url).current == "0039"


def test_a_new_database_is_made_completely_or_not_at_all(
    versions: Versions, empty_url: str
) -> None:
    broken = versions.add("alter table no_such_table add column colour text;")
    with pytest.raises(psycopg.errors.UndefinedTable):
        runner.upgrade(empty_url, [AUDIT_KEY])
    with psycopg.connect(empty_url) as connection:
        tables = "select count(*) from pg_tables where schemaname = 'public'"
        assert connection.execute(tables).fetchone() == (0,)
    broken.with_suffix(".sql").write_text(COLUMN)
    assert runner.upgrade(empty_url, [AUDIT_KEY]).current == FIRST_ADDED


def test_a_release_leaves_the_schema_of_a_newer_one_as_it_is(url: str) -> None:
    """To go back from an upgrade, run the old processes on the new schema.

    `opsjobs up` upgrades when it starts.
    """
    head = runner.check(url).head
    with psycopg.connect(url) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    assert runner.upgrade(url) == runner.check(url) == runner.SchemaState("9999", head)
    assert runner.check(url).up_to_date


def test_an_index_is_built_while_rows_are_written(versions: Versions, url: str) -> None:
    versions.add(COLUMN, INDEX)
    with psycopg.connect(url) as writer, psycopg.connect(url, autocommit=True) as other:
        writer.execute(EVENT)  # a build waits for its end
        upgrade = threading.Thread(target=lambda: runner.upgrade(url), daemon=True)
        upgrade.start()
        building = (
            "select 1 from pg_stat_activity where datname = current_database() and query "
            "like 'create index concurrently%'"
        )
        _until(other, f"{building} and wait_event_type = 'Lock'")
        other.execute("set lock_timeout = '1s'")
        other.execute(EVENT)
        assert runner.check(url).current == HEAD
        writer.commit()
        upgrade.join(90)
        assert other.execute(_INVALID).fetchall() == []
    assert runner.check(url).up_to_date


def test_an_index_that_a_failed_build_has_left_is_built_anew(versions: Versions, url: str) -> None:
    (index,) = indexes(versions.add(COLUMN, INDEX))
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(EVENT)
        with pytest.raises(UniqueViolation):
            connection.execute(replace(index, unique="unique ").concurrently.encode())
        assert connection.execute(_INVALID).fetchall() == [(index.name,)]
        runner.upgrade(url)
        assert connection.execute(_INVALID).fetchall() == []
        assert connection.execute(
            "select to_regclass(%s) is not null", [index.name]
        ).fetchone() == (True,)


def test_an_upgraded_database_has_the_indexes_of_a_new_one(
    versions: Versions, url: str, empty_url: str
) -> None:
    versions.add(COLUMN, INDEX)
    versions.add(
        "drop index targets_host;", "create index target_runs_coloured on target_runs (colour);"
    )
    runner.upgrade(url)
    runner.upgrade(empty_url, [AUDIT_KEY])
    of_both = []
    for each in (url, empty_url):
        with psycopg.connect(each) as connection:
            of_both.append(connection.execute(_INDEXES).fetchall())
    assert of_both[0] == of_both[1]
    assert len(of_both[0]) > 50
    assert any("events_subject" in definition for (definition,) in of_both[0])


def test_a_file_of_indexes_holds_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "0099_x.indexes.sql").write_text(
        "create index a on b (c);\n-- why;\ncreate unique index d on e (f) where g;"
    )
    found = indexes(tmp_path / "0099_x.py")
    assert [i.concurrently for i in found] == [
        "create index concurrently a on b (c)",
        "create unique index concurrently d on e (f) where g",
    ]
    (tmp_path / "0099_x.indexes.sql").write_text("alter table a add column b int;")
    with pytest.raises(ValueError, match="may hold"):
        indexes(tmp_path / "0099_x.py")


_INVALID = "select indexrelid::regclass::text from pg_index where not indisvalid"
_INDEXES = """
select indexdef from pg_indexes
where schemaname = 'public' and tablename !~ '^execution_log_\\d' and tablename <> 'alembic_version'
  order by 1"""

TABLES = re.findall(r"^create table (\w+) \(", BASELINE.read_text(), re.MULTILINE)


def test_no_statement_answers_with_whatever_columns_a_table_has() -> None:
    """A prepared `select * from targets` fails in every process once the table gets a column."""
    asked = re.compile(
        r"(?<!\()select (?:\w+\.)?\* from (\w+)"
    )  # within parentheses the result is another one
    found = {
        p.name: set(asked.findall(p.read_text())) & set(TABLES)
        for pattern in ("*.py", "sql/*.sql")
        for p in STORE.rglob(pattern)
    }
    assert {name: those for name, those in found.items() if those} == {}
    assert len(TABLES) > 40


def _until(connection: psycopg.Connection[Any], query: str) -> None:
    deadline = time.monotonic() + 90
    while connection.execute(query.encode()).fetchone() is None:
        assert time.monotonic() < deadline, f"it never came to that: {query}"
        time.sleep(0.001)


async def test_a_url_with_several_hosts_finds_the_one_that_answers(url: str) -> None:
    async with over_tcp(url) as (_, tcp):
        port, name = re.findall(r":(\d+)/(\w+)", tcp)[0]
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{port}"
        several = f"postgresql://opsjobs@{hosts}/{name}?sslmode=disable&target_session_attrs=any"
        state = await asyncio.to_thread(runner.upgrade, several)
    assert state.current == HEAD
