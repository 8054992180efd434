"""The schema grows while the service runs: what is stored stays, and the processes of the release before go on."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4, uuid5

import psycopg
import pytest
from psycopg.errors import UniqueViolation
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from kit.ledgering import STORE, Owner, faults, launch, machines, read
from kit.servers import AUDIT_KEY, Databases
from opsjobs.model.errors import Failure, Unavailable
from opsjobs.model.execution import ErrorCode, ExecutionStatus, RunError, RunStatus
from opsjobs.model.target import Target
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Claimed
from opsjobs.store.ledger.flush import Flush, parameters
from opsjobs.store.migrations import runner
from opsjobs.store.migrations.files import indexes
from opsjobs.store.transaction import Database, DatabaseOptions

VERSIONS = Path(runner.__file__).parent / "versions"
FIRST_RELEASE = (Path(__file__).parent / "first_release.sql").read_text()
SENT = dict(
    re.findall(r"^-- name: (\w+)\n(.*?)(?=^-- name|\Z)", FIRST_RELEASE, re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def first_url(databases: Databases) -> Iterator[str]:
    """The URL of a database with the schema of the first release."""
    name = f"first_{uuid4().hex}"
    with psycopg.connect(databases.url_of("postgres"), autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        with psycopg.connect(databases.url_of(name)) as connection:
            connection.execute((VERSIONS / "0001_first.sql").read_bytes())
            connection.execute("create table alembic_version (version_num varchar(32) primary key)")
            connection.execute("insert into alembic_version values ('0001')")
            connection.execute("select opsjobs_make_partitions(1)")
            connection.execute(
                """insert into targets (uuid, name, host, port, transport, platform, host_key_policy, slots)
                values (gen_random_uuid(), 'web-1', '10.0.0.1', 22, 'ssh', 'linux', 'pinned', 1)"""
            )
        yield databases.url_of(name)
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
def first(first_url: str) -> Database:
    return Database(DatabaseOptions(first_url, connections=4))


class OldWorker:
    """A worker of the first release, on a connection whose statements the server has prepared."""

    def __init__(self, url: str) -> None:
        self.id = uuid4()
        self.name = "old-worker"
        # As workers have it, one plan for all; and prepared at once, where a process has said it five times.
        self._connection = psycopg.connect(
            url,
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=0,
            options="-c plan_cache_mode=force_generic_plan",
        )
        self._connection.execute(
            "insert into workers (id, name, zone, pid, concurrency, expires_at) values (%s, %s, 'default', 1, 9, 'infinity')",
            [self.id, self.name],
        )

    def send(self, name: str, given: Any) -> list[dict[str, Any]]:
        cursor = self._connection.execute(SENT[name].encode(), given)
        return cursor.fetchall() if cursor.description else []

    def say_everything_once(self) -> None:
        """So that the server has each statement's plan."""
        self.claim(limit=0)
        self.take_over()
        self.settle(Flush(self.id, self.name, 0, ()))
        self.send("unknown", {"owner": self.id, "known": []})
        assert self.ways([1]) == ["web-1"]

    def launch(self, targets: list[Target]) -> int:
        """As an API of the first release does it; says the execution's id."""
        uuid, count = uuid4(), len(targets)
        with self._connection.transaction():
            (row,) = self.send("launch_execution", {
                "uuid": uuid, "job_id": None, "job_version": None, "number": None, "window": 50, "priority": 5, "total": count,
                "timeout_seconds": None,
            })  # fmt: skip
            of = {"id": row["id"], "uuid": uuid, "targets": [t.id for t in targets]}
            self.send("launch_spec", {
                **of, "job_name": "ad-hoc", "actions": Jsonb([{"key": "step-1", "type": "command", "command": "true"}]),
                "policy": Jsonb({}), "triggered_by": "api", "requested_by": "ada", "reason": None,
            })  # fmt: skip
            self.send("launch_runs", {
                **of, "uuids": [uuid5(uuid, t.id) for t in targets], "names": [t.name for t in targets],
                "hosts": [t.host for t in targets], "zones": [t.zone for t in targets],
            })  # fmt: skip
            self.send("launch_slots", {**of, "slots": [t.slots for t in targets]})
            self.send("admit", {"executions": [row["id"]]})
            self.send("launch_told", of)
        return int(row["id"])

    def claim(self, limit: int = 10) -> list[int]:
        with self._connection.transaction():
            seen = self.send("candidates", {"zone": "default", "floor": 0, "limit": limit})
            named = {
                "runs": [r["id"] for r in seen],
                "executions": sorted({r["execution_id"] for r in seen}),
                "targets": sorted({r["target_id"] for r in seen}),
                "owner": self.id,
                "worker": self.name,
            }
            self.send("lock", named)
            self.send("lock_free_slots", named)
            return [r["id"] for r in self.send("decide", named) if r["what"] == "claimed"]

    def take_over(self) -> list[dict[str, Any]]:
        with self._connection.transaction():
            seen = self.send("take_over_candidates", {"zone": "default", "limit": 10})
            self.send("lock", {"executions": sorted({r["execution_id"] for r in seen})})
            return self.send(
                "take_over",
                {"owner": self.id, "worker": self.name, "runs": [r["id"] for r in seen]},
            )

    def settle(self, flush: Flush) -> set[int]:
        """Says whose words were taken."""
        named = {
            "executions": [r.execution_id for r in flush.runs],
            "targets": [r.target_id for r in flush.runs],
        }
        with self._connection.transaction():
            self.send("lock", named)
            written = self.send("settle", parameters(flush))
            self.send("unpark", named)
            self.send("admit", named)
        return {row["run_id"] for row in written}

    def ways(self, targets: list[int]) -> list[str]:
        assert self.send("resolve", [targets]) == self.send("reach", [targets])
        return [row["name"] for row in self.send("reach", [targets])]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def old(first_url: str) -> Iterator[OldWorker]:
    worker = OldWorker(first_url)
    yield worker
    worker.close()


def held(rows: list[dict[str, Any]]) -> list[Claimed]:
    """What the old worker may speak for, as the kit's flushes want it."""
    return [
        Claimed(r["id"], r["uuid"], r["execution_id"], r["log_day"], r["target_id"], r["target_name"], r["position"], r["fence"],
                r["attempt"], 0, None)
        for r in rows
    ]  # fmt: skip


def of(old: OldWorker) -> list[Claimed]:
    return held(old.send("unknown", {"owner": old.id, "known": []}))


def test_the_audit_log_is_not_begun_without_keys(first_url: str) -> None:
    with pytest.raises(Failure, match="ENCRYPTION_KEYS is not set"):
        runner.upgrade(first_url)
    assert runner.check(first_url).current == "0022"
    assert runner.upgrade(first_url, [AUDIT_KEY]) == runner.upgrade(first_url), (
        "later ones need none"
    )


async def test_an_old_worker_goes_on_beside_the_new_schema(
    first: Database, first_url: str, old: OldWorker
) -> None:
    execution = old.launch(machines(3))
    before = old.claim(limit=1)
    old.say_everything_once()
    assert runner.upgrade(first_url, [AUDIT_KEY]) == runner.SchemaState(
        runner.check(first_url).head, runner.check(first_url).head
    )
    assert await faults(first) == []
    assert old.ways([1]) == ["web-1"]
    assert len(before + old.claim()) == 3
    speaker = Owner(first, old.name, id=old.id)
    runs = of(old)
    assert old.settle(speaker.flush(runs[:1], None)) == {runs[0].id}
    assert old.settle(speaker.flush(runs[1:], RunStatus.SUCCEEDED)) == {run.id for run in runs[1:]}
    assert (await Executions(first).get(execution)).counts == {"running": 1, "succeeded": 2}
    assert await faults(first) == []


async def test_what_was_stored_before_is_there_afterwards(
    first: Database, first_url: str, old: OldWorker
) -> None:
    execution = old.launch(machines(2))
    old.claim(limit=1)
    old.settle(Owner(first, old.name, id=old.id).flush(of(old)))
    runs = (
        "select id, status, owner, fence, attempt, claims, finished_at from target_runs order by id"
    )
    before = await first.fetch(runs)
    runner.upgrade(first_url, [AUDIT_KEY])
    assert await first.fetch(runs) == before
    new = Owner(first)
    await new.finish((await new.claim()).runs)
    assert (await Executions(first).get(execution)).status is ExecutionStatus.COMPLETED
    assert await faults(first) == []


async def test_what_an_old_worker_began_and_left_is_nothing_that_could_be_attached_to(
    first: Database, first_url: str, old: OldWorker
) -> None:
    runner.upgrade(first_url, [AUDIT_KEY])
    await launch(first, machines(1))
    new = await Owner(first).register()
    given_back = (await new.claim()).runs
    await new.identify(given_back, STORE)
    await new.give_back(given_back)
    assert len(old.claim()) == 1
    await Owner(first, old.name).die()
    (taken,) = await new.take_over()
    assert (taken.taken_over, taken.direct, taken.identity) == (True, True, None)
    assert await faults(first) == []


async def test_an_old_worker_ends_what_a_new_one_left(
    first: Database, first_url: str, old: OldWorker
) -> None:
    old.say_everything_once()
    runner.upgrade(first_url, [AUDIT_KEY])
    execution = await launch(first, machines(1))
    new = await Owner(first).register()
    await new.identify((await new.claim()).runs, STORE)
    await new.die()
    taken = held(old.take_over())
    lost = RunError(ErrorCode.LOST, "its worker died")
    assert old.settle(
        Owner(first, old.name, id=old.id).flush(taken, RunStatus.LOST, error=lost)
    ) == {taken[0].id}
    assert (await read(first, execution)).status is ExecutionStatus.FAILED
    assert await faults(first) == []


async def test_an_upgrade_waits_for_who_uses_a_table_without_keeping_others_waiting(
    first_url: str,
) -> None:
    waited = threading.Event()
    with psycopg.connect(first_url) as backup, psycopg.connect(first_url, autocommit=True) as other:
        backup.execute(
            "select 1 from target_runs"
        )  # a table lock until its end, as a backup holds it for hours
        upgrade = threading.Thread(
            target=lambda: (runner.upgrade(first_url, [AUDIT_KEY]), waited.set())
        )
        upgrade.start()
        _until_somebody_waits(other)
        other.execute("set lock_timeout = '5s'")
        other.execute(
            "select 1 from target_runs"
        )  # behind the upgrade in the queue, which steps aside
        assert not waited.is_set()
        backup.rollback()
        upgrade.join(90)
    assert runner.check(first_url).up_to_date


def test_an_upgrade_that_never_gets_its_turn_says_so(
    first_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TRIES", 1)
    with psycopg.connect(first_url) as backup:
        backup.execute("select 1 from target_runs")
        with pytest.raises(Unavailable, match="tables are in use"):
            runner.upgrade(first_url, [AUDIT_KEY])
    assert runner.check(first_url).current == "0001"


def test_each_migration_is_a_transaction_of_its_own_and_the_next_call_goes_on(
    first_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_TRIES", 1)
    with psycopg.connect(first_url) as holder:
        bring_to(first_url, "0006")
        holder.execute("select 1 from files")
        with pytest.raises(Unavailable, match="tables are in use"):
            runner.upgrade(first_url, [AUDIT_KEY])
        stopped_at = runner.check(first_url).current
        assert stopped_at is not None
        assert "0006" < stopped_at < runner.check(first_url).head
        with psycopg.connect(first_url) as other:
            held = "select count(*) from pg_locks where database = (select oid from pg_database where datname = current_database())"
            assert other.execute(f"{held} and mode = 'AccessExclusiveLock'").fetchone() == (0,)
    assert runner.upgrade(first_url, [AUDIT_KEY]).up_to_date


def test_a_release_leaves_the_schema_of_a_newer_one_as_it_is(first_url: str) -> None:
    """The way back from an upgrade is the old processes on the new schema: `opsjobs up` upgrades when it starts."""
    head = runner.upgrade(first_url, [AUDIT_KEY]).head
    with psycopg.connect(first_url) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    assert runner.upgrade(first_url) == runner.check(first_url) == runner.SchemaState("9999", head)
    assert runner.check(first_url).up_to_date


def test_an_index_is_built_while_rows_are_written(first_url: str) -> None:
    bring_to(first_url, BEFORE)
    insert = "insert into events (shard, type, subject) values (0, 'x.y', gen_random_uuid())"
    with psycopg.connect(first_url) as writer, psycopg.connect(first_url, autocommit=True) as other:
        writer.execute(insert)  # a build waits for its end
        upgrade = threading.Thread(
            target=lambda: runner.upgrade(first_url, [AUDIT_KEY]), daemon=True
        )
        upgrade.start()
        building = "select 1 from pg_stat_activity where datname = current_database() and query like 'create index concurrently%'"
        _until(other, f"{building} and wait_event_type = 'Lock'")
        other.execute("set lock_timeout = '1s'")
        other.execute(insert)
        assert runner.check(first_url).current == BEFORE
        writer.commit()
        upgrade.join(90)
        assert other.execute(_INVALID).fetchall() == []
    assert runner.check(first_url).up_to_date


def test_an_index_that_a_failed_build_has_left_is_built_anew(first_url: str) -> None:
    bring_to(first_url, BEFORE)
    (index, *_) = indexes(HOUSEKEEPING)
    with psycopg.connect(first_url, autocommit=True) as connection:
        connection.execute(
            "insert into events (shard, type, subject, execution_id) select 0, 'x.y', gen_random_uuid(), 7 from generate_series(1, 2)"
        )
        with pytest.raises(UniqueViolation):
            connection.execute(replace(index, unique="unique ").concurrently.encode())
        assert connection.execute(_INVALID).fetchall() == [(index.name,)]
        runner.upgrade(first_url, [AUDIT_KEY])
        assert connection.execute(_INVALID).fetchall() == []
        assert connection.execute(
            "select to_regclass(%s) is not null", [index.name]
        ).fetchone() == (True,)


def test_an_upgraded_database_has_the_indexes_of_a_new_one(
    first_url: str, databases: Databases
) -> None:
    runner.upgrade(first_url, [AUDIT_KEY])
    made = databases.create()
    try:
        of_both = []
        for url in (first_url, databases.url_of(made)):
            with psycopg.connect(url) as connection:
                of_both.append(connection.execute(_INDEXES).fetchall())
    finally:
        databases.drop(made)
    assert of_both[0] == of_both[1]
    assert len(of_both[0]) > 50


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
where schemaname = 'public' and tablename !~ '^execution_log_\\d' and tablename <> 'alembic_version' order by 1"""


# The first migration with indexes that are built concurrently, and where a database stands before it.
(HOUSEKEEPING,) = VERSIONS.glob("*_housekeeping.py")
BEFORE = f"{int(HOUSEKEEPING.name[:4]) - 1:04}"


def bring_to(url: str, revision: str) -> None:
    """Bring the database on as far as that."""
    with runner._connected(url) as connection:
        runner._run(connection, [AUDIT_KEY], revision)


def test_names_of_before_are_gathered_while_no_table_is_kept_from_anybody(first_url: str) -> None:
    """It reads the audit log, which may be long: whatever a launch needs is free meanwhile."""
    bring_to(first_url, "0021")
    with psycopg.connect(first_url) as holder, psycopg.connect(first_url, autocommit=True) as other:
        holder.execute(
            "lock table files in access exclusive mode"
        )  # the last of what it reads: there it is held up
        upgrade = threading.Thread(
            target=lambda: runner.upgrade(first_url, [AUDIT_KEY]), daemon=True
        )
        upgrade.start()
        for _ in range(100_000):
            if (kept := other.execute(KEPT_BY_WHO_WAITS_FOR_FILES).fetchone()) is not None:
                break
        holder.rollback()
        upgrade.join(90)
    assert kept == ([],)
    assert runner.check(first_url).up_to_date


KEPT_BY_WHO_WAITS_FOR_FILES = """
with locks as materialized (select * from pg_locks where database = (select oid from pg_database where datname = current_database()))
select (select coalesce(array_agg(relation::regclass::text) filter (where granted and mode in (
    'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')), '{}')
  from locks l where l.pid = w.pid and l.relation is not null)
from locks w where not w.granted and w.relation = 'files'::regclass"""


def test_no_statement_answers_with_whatever_columns_a_table_has() -> None:
    """The first release prepared `select * from targets`: a column more, and every one of its processes had failed."""
    tables = set(
        re.findall(
            r"^create table (\w+)",
            "".join(p.read_text() for p in VERSIONS.glob("*.sql")),
            re.MULTILINE,
        )
    )
    asked = re.compile(
        r"(?<!\()select (?:\w+\.)?\* from (\w+)"
    )  # within parentheses the answer is another one
    found = {
        p.name: set(asked.findall(p.read_text())) & tables
        for p in VERSIONS.parent.parent.rglob("*.py")
    }
    assert {name: those for name, those in found.items() if those} == {}


def _until_somebody_waits(connection: psycopg.Connection[Any]) -> None:
    _until(
        connection,
        "select 1 from pg_locks where not granted and relation = 'target_runs'::regclass",
    )


def _until(connection: psycopg.Connection[Any], query: str) -> None:
    for _ in range(100_000):
        if connection.execute(query.encode()).fetchone() is not None:
            return
    raise AssertionError(f"it never came to that: {query}")
