"""Faults of a database or of the keys are found at start, and reported with a remedy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from structlog.testing import capture_logs

from kit import backing_servers
from kit.backing_servers import AUDIT_KEY
from kit.migrations import Versions
from opsjobs.clock import SystemClock
from opsjobs.engine.background.status import Inspection
from opsjobs.model.errors import DiskFull, Refusal
from opsjobs.store.envelope import new_key
from opsjobs.store.migrations import runner
from opsjobs.store.system_status import Complaint, Fitness
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.keys import KeyRotation
from store.test_vault import password


@contextmanager
def made(databases: backing_servers.Databases, encoding: str) -> Iterator[str]:
    """Return the URL of an empty database with this encoding."""
    name = f"in_{encoding.lower()}"
    locale = "template template0 encoding '{}' locale 'C' locale_provider libc"
    databases._admin.execute(f"create database {name} {locale.format(encoding)}".encode())
    yield databases.url_of(name)
    databases.drop(name)


@asynccontextmanager
async def role(database: Database, *rights: str) -> AsyncIterator[str]:
    """Return the URL of the database as a role that only has these rights."""
    async with database.connection() as admin:
        await admin.execute("create role clerk")
        try:
            for right in (
                "revoke create on schema public from public",
                "grant usage on schema public to clerk",
                *rights,
            ):
                await admin.execute(right.encode())
            yield f"{database.options.url}&options={quote('-c role=clerk')}"
        finally:
            await admin.execute("drop owned by clerk")
            await admin.execute("drop role clerk")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    databases: backing_servers.Databases, encoding: str
) -> None:
    with made(databases, encoding) as url:
        (complaint,) = runner.inspect(url)
        assert (complaint.code, complaint.fatal) == ("database_encoding", True)
        assert f"has the encoding {encoding}" in complaint.detail
        with pytest.raises(Refusal, match="Create one with UTF8"):
            runner.upgrade(url, [AUDIT_KEY])
        assert runner.check(url).current is None


async def test_a_role_that_may_not_create_is_refused_before_anything_is_done(
    database: Database,
) -> None:
    async with role(database) as url:
        with pytest.raises(Refusal, match="grant create on schema public to clerk"):
            runner.upgrade(url, [AUDIT_KEY])


async def test_a_role_that_does_not_own_the_tables_is_refused_the_upgrade(
    database: Database, versions: Versions
) -> None:
    versions.add("alter table targets add column colour text;")
    everything = "grant select, insert, update, delete on all tables in schema public to clerk"
    async with role(database, "grant create on schema public to clerk", everything) as url:
        with pytest.raises(Refusal, match="lacks a right that the upgrade needs: must be owner of"):
            runner.upgrade(url, [AUDIT_KEY])


async def test_each_right_that_is_missing_at_run_time_is_named(database: Database) -> None:
    reading = "grant select on all tables in schema public to clerk"
    writing = "grant insert, update, delete on all tables in schema public to clerk"
    create, owner = "grant create on schema public to clerk", "grant opsjobs to clerk"
    for rights, found in (
        ((), [False, True, False]),
        ((create,), [True, False]),
        ((create, reading), [True, False]),
        ((create, reading, writing), [False]),
        ((create, owner), []),
    ):
        async with role(database, *rights) as url:
            complaints = runner.inspect(url)
            assert [complaint.fatal for complaint in complaints] == found, rights
            assert all(
                complaint.code == "database_rights" and "grant " in complaint.detail
                for complaint in complaints
            )


async def test_a_search_path_without_a_schema_is_named(database: Database) -> None:
    url = f"{database.options.url}&options={quote('-c search_path=nowhere')}"
    (complaint,) = runner.inspect(url)
    assert (complaint.code, complaint.fatal) == ("database_schema", True)


async def test_a_database_as_it_should_be_has_no_complaint(database: Database) -> None:
    fitness = Fitness(database, KeyRotation(database, [AUDIT_KEY]))
    assert [*await fitness.faults(), *await fitness.space(), *await fitness.secrets()] == []


async def test_secrets_under_keys_that_are_not_given_are_counted(database: Database) -> None:
    ours, other = new_key(), new_key()
    vault = Vault(database, [ours], SystemClock())
    for name in ("ada", "ben"):
        await vault.create(password(name))
    (complaint,) = await Fitness(database, KeyRotation(database, [other, AUDIT_KEY])).secrets()
    assert (complaint.code, complaint.fatal) == ("secrets_not_readable", False)
    assert "2 credentials" in complaint.detail
    assert await Fitness(database, KeyRotation(database, [other, ours, AUDIT_KEY])).secrets() == []


async def test_each_complaint_is_logged_once_and_so_is_its_end(database: Database) -> None:
    inspection = Inspection(
        Fitness(database, KeyRotation(database, [new_key()])), SystemClock(), space=True
    )
    with capture_logs() as said:
        for _ in range(3):
            await inspection.run_once()
        assert [line["code"] for line in said] == ["secrets_not_readable"]
        inspection._secrets = ()
        await inspection.run_once()
    assert [line["event"] for line in said] == ["service_check_failed", "service_check_recovered"]


async def test_a_count_that_takes_too_long_is_not_repeated_with_each_look(
    database: Database,
) -> None:
    inspection = Inspection(Fitness(database, KeyRotation(database, [AUDIT_KEY])), SystemClock())
    async with database.connection() as connection:
        await connection.execute("alter table credentials rename to credentials_gone")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await inspection.run_once()
    await inspection.run_once()
    assert inspection.complaints == []


async def test_a_full_disk_is_found_and_its_end_too() -> None:
    with backing_servers.open_folder() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", str(folder)], check=False
        )
        if mounted.returncode:
            pytest.skip("this machine cannot mount a tmpfs")
        server = backing_servers.make_postgres(
            folder, {**backing_servers.CARELESS, "wal_recycle": "off"}
        )
        try:
            await full_and_free_again(server.start(), folder)
        finally:
            server.stop(5)
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def full_and_free_again(url: str, folder: Path) -> None:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create table heap (text text)")
    database = Database(DatabaseOptions(url, connections=2))
    fitness = Fitness(database, KeyRotation(database, [AUDIT_KEY]))
    await database.open()
    try:
        assert await fitness.space() == []
        ballast = folder / "ballast"
        # Some space is left for the transaction log: without any the server would stop.
        free = os.statvfs(folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (256 << 10))
        assert await fitness.space() == [Complaint("database_disk_full", DiskFull("").detail)]
        with pytest.raises(DiskFull, match="No space left on device"):
            await database.fetch(
                "insert into heap select repeat('x', 900) from generate_series(1, 2000) returning 1"
            )
        ballast.unlink()
        assert await fitness.space() == []
    finally:
        await database.close()
