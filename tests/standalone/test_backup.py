"""A backup of a running service, and a restore that starts nothing a second time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kit.backing_servers import AUDIT_KEY, Databases, memory, open_folder
from kit.ledger_fixtures import launch, machines
from kit.opsjobs_processes import COMMAND_SECONDS, OPSJOBS, POLL_SECONDS, UpProcess, opsjobs_up
from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.secret import Secret
from opsjobs.settings import load
from opsjobs.standalone.backup import BackupOrder, back_up
from opsjobs.standalone.backup_files import DUMP, MANIFEST
from opsjobs.standalone.postgres import Postgres
from opsjobs.standalone.restore import RestoreOrder, _load, restore
from opsjobs.standalone.stack import Stack, StackOptions
from opsjobs.store.envelope import new_key
from opsjobs.store.ledger import Ledger
from opsjobs.store.migrations import runner
from opsjobs.store.restores import Restores
from opsjobs.store.transaction import Database, DatabaseOptions
from opsjobs.store.vault.keys import find_missing_keys

AHEAD_SECONDS = 25.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder(memory()) as found:
        yield found


def test_what_ran_after_the_backup_is_not_started_again(folder: Path) -> None:
    """A schedule fires, and runs go on, between the backup and the restore of it."""
    with opsjobs_up(folder / "data", "--lab", "2") as service:
        held = _start_held(service, folder)
        name, backup = _backup_before_a_firing(service, folder)
        (folder / "leave").touch()
        assert _ended(service, held)["status"] == "completed"
        for job in ("durable", "direct"):
            execution = _execution_of(service, f"{job}/{name}")
            assert _ended(service, execution)["status"] == "completed"
        ran = sorted((folder / "witness").read_text().split())
        assert {*ran} == {"direct", "durable", "held"}
        assert ran.count("held") == 2
    said = _opsjobs(folder, "restore", str(backup), "--replace", "--yes").stderr
    assert "executions that had not ended: 1. They are paused" in said
    with opsjobs_up(folder / "data", "--lab", "2") as service:
        # The run that was active is reattached; the one that waited begins after the resume, and is
        # found, too.
        service.run_until_it_works("executions", "resume", str(held))
        assert _ended(service, held)["status"] == "completed"
        found = _execution_of(service, f"durable/{name}")
        assert _ended(service, found)["status"] == "completed"
        lost = _execution_of(service, f"direct/{name}")
        shown = _ended(service, lost)
        assert shown["status"] == "failed"
        assert "restored from a backup of" in json.dumps(shown)
        assert "it was not started again" in json.dumps(shown)
        assert lost > 1_000, "the number of an execution since the backup is not given again"
        assert sorted((folder / "witness").read_text().split()) == ran
        head = json.loads((backup / MANIFEST).read_text())["positions"]["audit_head"]
        assert service.run("audit", "verify", "--head", head).returncode == 0


def _start_held(service: UpProcess, folder: Path) -> int:
    """Launch on both machines, one after the other.

    The first command waits for the file `leave`.
    """
    command = f"while ! test -e {folder}/leave; do sleep 0.1; done; echo held >>{folder}/witness"
    begun = service.run("run", command, "-l", "lab=true", "--parallel", "1", "--detach")
    assert begun.returncode == 0, begun.stderr
    execution = int(begun.stdout)
    deadline = time.monotonic() + COMMAND_SECONDS
    while _show(service, execution)["status"] != "running":
        assert time.monotonic() < deadline, "no worker has it"
        time.sleep(POLL_SECONDS)
    return execution


def _backup_before_a_firing(service: UpProcess, folder: Path) -> tuple[str, Path]:
    """Create a backup before two schedules of one name are due.

    Returns that name, and the backup.
    """
    jobs = [
        f"""
name: {job}
targets: {{ids: [lab-2]}}
actions: [{{command: 'echo {job} >>{folder}/witness', durable: {durable}}}]
"""
        for job, durable in (("durable", "required"), ("direct", "'off'"))
    ]
    (folder / "jobs.yaml").write_text("---".join(jobs))
    service.run_until_it_works("jobs", "apply", "-f", str(folder / "jobs.yaml"))
    ahead = AHEAD_SECONDS
    while True:
        at, name = datetime.now(UTC) + timedelta(seconds=ahead), f"in-{ahead:.0f}"
        for job in ("durable", "direct"):
            options = ("--at", at.isoformat(), "--misfire", "run_once", "--misfire-window", "6h")
            made = service.run("schedules", "add", job, "--name", name, *options)
            assert made.returncode == 0, made.stderr
        backup = Path(_opsjobs(folder, "backup", str(folder / "backups")).stdout.strip())
        if datetime.now(UTC) < at:
            return name, backup
        ahead *= 2  # this machine is too busy


def _execution_of(service: UpProcess, schedule: str) -> int:
    """Return the execution of the schedule's only firing, once it is launched."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while True:
        listed = json.loads(service.run("schedules", "firings", schedule, "-o", "json").stdout)
        if listed and listed[0]["execution_id"] is not None:
            return int(listed[0]["execution_id"])
        assert time.monotonic() < deadline, listed
        time.sleep(POLL_SECONDS)


def _ended(service: UpProcess, execution: int) -> dict[str, Any]:
    """Return the execution, once it has ended."""
    service.run("executions", "follow", str(execution))
    return _show(service, execution)


def _show(service: UpProcess, execution: int) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(
        service.run("executions", "show", str(execution), "-o", "json").stdout
    )
    return shown


def _opsjobs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OPSJOBS_DATA_DIR": str(folder / "data")}
    done = subprocess.run(
        [*OPSJOBS, *arguments],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


# --- what is refused, and what is left behind


@pytest.fixture
def empty_url(databases: Databases) -> Iterator[str]:
    """Return the URL of a database without tables."""
    name = f"empty_{os.getpid()}_{time.monotonic_ns()}"
    databases._admin.execute(f"create database {name} template template0 encoding 'UTF8'".encode())
    yield databases.url_of(name)
    databases.drop(name)


def settings_of(url: str, *keys: str) -> Any:
    environment = {"DATABASE_URL": url, "ENCRYPTION_KEYS": ",".join(keys)}
    return load({name: value for name, value in environment.items() if value})


KEY = AUDIT_KEY.reveal()


@pytest.fixture
def backup(folder: Path, database_url: str) -> Path:
    """Create a backup of a database of DATABASE_URL, with its keys next to it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update opsjobs_clock set shift = '-2 h'")
    return back_up(BackupOrder(settings_of(database_url, KEY), folder, folder / "backups"), print)


def restored(url: str, folder: Path, backup: Path, *keys: str, **more: Any) -> None:
    restore(RestoreOrder(settings_of(url, *keys), folder, backup, **more), print)


def test_a_database_of_a_url_is_backed_up_and_restored(
    folder: Path, backup: Path, empty_url: str
) -> None:
    restored(empty_url, folder, backup)
    assert runner.check(empty_url).up_to_date
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select count(*) from restores").fetchone() == (1,)
    with pytest.raises(Refusal, match="has tables already"):
        restored(empty_url, folder, backup)


def test_a_dump_that_cannot_be_loaded_leaves_the_database_empty(
    folder: Path, backup: Path, empty_url: str
) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        # The name of a function of the schema is taken, in the middle of the dump.
        connection.execute("create function opsjobs_now() returns int language sql as 'select 1'")
        with pytest.raises(Unavailable, match=r"could not be loaded.*opsjobs_now"):
            restored(empty_url, folder, backup)
        tables = "select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        assert connection.execute(tables).fetchone() == (0,)


def test_a_database_of_a_killed_restore_is_refused_until_another_one_clears_it(
    folder: Path, backup: Path, empty_url: str
) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("create function of_the_user() returns int language sql as 'select 1'")
        _load(empty_url, backup / DUMP)  # killed here
        assert runner.check(empty_url).up_to_date
        assert [found.code for found in runner.inspect(empty_url)] == ["restore_not_finished"]
        with pytest.raises(Refusal, match=r"has not finished.*--replace"):
            runner.upgrade(empty_url, [AUDIT_KEY])
        with pytest.raises(Refusal, match="has not finished"):
            back_up(BackupOrder(settings_of(empty_url, KEY), folder, folder / "more"), print)
        environment = {"DATABASE_URL": empty_url, "PYTHONPATH": os.pathsep.join(sys.path)}
        with pytest.raises(Unavailable, match="has not finished"):
            Stack(StackOptions(folder / "up", port=0, environment=environment)).start()
        with pytest.raises(Refusal, match=r"an unfinished restore has loaded.*--replace"):
            restored(empty_url, folder, backup)
        restored(empty_url, folder, backup, replace=True)
        assert runner.inspect(empty_url) == []
        assert connection.execute("select count(*) from restores").fetchone() == (1,)
        assert connection.execute("select of_the_user()").fetchone() == (1,)
    with pytest.raises(Refusal, match="has tables already"):
        restored(empty_url, folder, backup, replace=True)


def test_keys_are_private_and_apart(folder: Path, backup: Path) -> None:
    keys = backup.with_name(f"{backup.name}.keys")
    assert keys.stat().st_mode & 0o777 == 0o600
    assert backup.stat().st_mode & 0o777 == 0o700
    assert f"ENCRYPTION_KEYS={KEY}" in keys.read_text().splitlines()
    for path in backup.iterdir():
        assert KEY.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_of_a_url_has_its_keys_in_the_data_folder_or_is_not_backed_up(
    folder: Path, database_url: str
) -> None:
    """`up` with DATABASE_URL creates its keys in the data folder."""
    order = BackupOrder(settings_of(database_url), folder / "data", folder / "backups")
    with pytest.raises(Refusal, match=r"key [0-9a-f]{8} is missing.*ENCRYPTION_KEYS.*--data-dir"):
        back_up(order, print)
    assert list((folder / "backups").iterdir()) == []
    (folder / "data").mkdir()
    (folder / "data" / "keys").write_text(f"{KEY}\n")
    (folder / "data" / "admin-token").write_text("opsc_of-the-tests\n")
    made = back_up(order, print)
    kept = made.with_name(f"{made.name}.keys").read_text().splitlines()
    assert {f"ENCRYPTION_KEYS={KEY}", "OPSJOBS_ADMIN_TOKEN=opsc_of-the-tests"} < {*kept}


def test_a_backup_that_tells_of_no_key_is_not_restored_without_the_keys_of_its_rows(
    folder: Path, backup: Path, empty_url: str
) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps({**manifest, "canary": None}))
    backup.with_name(f"{backup.name}.keys").unlink()
    with pytest.raises(Refusal, match=r"key [0-9a-f]{8} is missing.*--keys FILE"):
        restored(empty_url, folder, backup)
    assert [found.code for found in runner.inspect(empty_url)] == ["restore_not_finished"]
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select count(*) from restores").fetchone() == (0,)
    restored(empty_url, folder, backup, KEY, replace=True)


async def test_an_older_schema_may_lack_a_kind_of_sealed_rows(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("drop table job_triggers cascade")
    assert len(await find_missing_keys(database, [])) == 1
    assert await find_missing_keys(database, [AUDIT_KEY]) == {}


def test_a_lost_key_is_left_out_if_asked_and_the_restore_says_so(
    folder: Path, database_url: str, empty_url: str
) -> None:
    other, reported = new_key().reveal(), list[str]()
    order = BackupOrder(settings_of(database_url, other), folder, folder / "backups")
    with pytest.raises(Refusal, match=r"key [0-9a-f]{8} is missing.*--without-missing-keys"):
        back_up(order, print)
    made = back_up(replace(order, without_missing_keys=True), reported.append)
    [lost] = [line for line in reported if line.startswith("key ")]
    [(key, rows)] = json.loads((made / MANIFEST).read_text())["missing_keys"].items()
    told = f"key {key} is missing: unless it is found, what it encrypts cannot be read"
    assert lost.startswith(told)
    assert lost.endswith(f"(rows: {rows})")
    reported.clear()
    restore(RestoreOrder(settings_of(empty_url, other), folder, made), reported.append)
    assert lost in reported
    assert runner.inspect(empty_url) == []


def test_a_backup_without_any_key_is_restored_without_one(
    folder: Path, database_url: str, empty_url: str
) -> None:
    reported = list[str]()
    order = BackupOrder(settings_of(database_url), folder / "data", folder / "backups")
    made = back_up(replace(order, without_missing_keys=True), reported.append)
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert not [line for line in reported if "no secret is stored" in line]
    restored(empty_url, folder / "data", made)
    assert runner.inspect(empty_url) == []
    # The row that needs the key exists: with the key it can be read again.
    assert key_ids(empty_url, KEY) == set()
    assert len(key_ids(empty_url)) == 1


def key_ids(url: str, *keys: str) -> set[str]:
    """Return the ids of keys that the database needs besides these."""

    async def find() -> set[str]:
        database = Database(DatabaseOptions(url, connections=1))
        await database.open()
        try:
            return {*await find_missing_keys(database, [Secret(key) for key in keys])}
        finally:
            await database.close()

    return asyncio.run(find())


def test_two_restores_into_one_database_exclude_each_other(
    folder: Path, backup: Path, empty_url: str
) -> None:
    _load(empty_url, backup / DUMP)  # killed here
    said = list[str]()

    def report(line: str) -> None:
        """Restore a second time, in a process, while the first one is running."""
        if line == "what an unfinished restore had loaded was dropped":
            done = subprocess.run(
                [*OPSJOBS, "restore", str(backup), "--replace", "--yes"],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "DATABASE_URL": empty_url,
                },
                capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            said.append(done.stderr)

    restore(RestoreOrder(settings_of(empty_url), folder, backup, replace=True), report)
    [refused] = said
    assert "another restore into this database is running. Wait for its end" in refused
    assert runner.inspect(empty_url) == []
    with pytest.raises(Refusal, match="has tables already"):
        restored(empty_url, folder, backup, replace=True)


def test_the_keys_may_be_inside_if_asked(folder: Path, database_url: str, empty_url: str) -> None:
    order = BackupOrder(
        settings_of(database_url, KEY), folder, folder / "backups", keys_inside=True
    )
    made = back_up(order, print)
    assert {path.name for path in made.iterdir()} == {DUMP, MANIFEST, "keys"}
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    restored(empty_url, folder, made)


def test_wrong_keys_are_refused_before_anything_is_done(
    folder: Path, backup: Path, empty_url: str
) -> None:
    other = folder / "other.keys"
    other.write_text(f"ENCRYPTION_KEYS={new_key().reveal()}\n")
    with pytest.raises(Refusal, match=r"the keys do not open this backup.*--keys FILE"):
        restored(empty_url, folder, backup, keys_file=other)
    assert runner.check(empty_url).current is None
    backup.with_name(f"{backup.name}.keys").unlink()
    with pytest.raises(Refusal, match="the keys do not open this backup"):
        restored(empty_url, folder, backup)
    restored(empty_url, folder, backup, KEY)


def test_a_damaged_backup_is_refused(folder: Path, backup: Path, empty_url: str) -> None:
    with (backup / DUMP).open("r+b") as dump:
        dump.seek(5_000)
        dump.write(b"\0" * 16)
    with pytest.raises(Refusal, match="its SHA-256 is not the manifest's"):
        restored(empty_url, folder, backup)
    (backup / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(Refusal, match="it is damaged"):
        restored(empty_url, folder, backup)
    shutil.rmtree(backup)
    with pytest.raises(Refusal, match="is no backup"):
        restored(empty_url, folder, backup)
    assert runner.check(empty_url).current is None


@pytest.mark.parametrize(
    ("change", "words"),
    [({"revision": "9999"}, "this release knows"), ({"format": 2}, "it has the format 2")],
)
def test_a_backup_of_a_newer_release_is_refused(
    folder: Path, backup: Path, empty_url: str, change: Mapping[str, Any], words: str
) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(Refusal, match=words):
        restored(empty_url, folder, backup)


def test_a_full_disk_is_said_and_leaves_nothing(folder: Path, database_url: str) -> None:
    place = folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine cannot mount a tmpfs")
    try:
        order = BackupOrder(settings_of(database_url, KEY), folder, place)
        with pytest.raises(Refusal, match=r"No space left on device.*Nothing of it was kept"):
            back_up(order, print)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_stopped_data_folder_is_backed_up_and_replaced(folder: Path) -> None:
    data, other = folder / "data", folder / "other"
    server = Postgres(data)
    try:
        runner.upgrade(server.start(), [AUDIT_KEY])
    finally:
        server.stop()
    (data / "lock").touch()
    (data / "keys").write_text(f"{KEY}\n")
    (data / "admin-token").write_text("opsc_of-the-tests\n")
    made = back_up(BackupOrder(load({}), data, folder / "backups"), print)
    restore(RestoreOrder(load({}), other, made), print)
    assert (other / "keys").read_text() == f"{KEY}\n"
    assert (other / "admin-token").read_text() == "opsc_of-the-tests\n"
    with pytest.raises(Refusal, match="holds a database already"):
        restore(RestoreOrder(load({}), other, made), print)
    restore(RestoreOrder(load({}), other, made, replace=True), print)
    [aside] = other.glob("replaced-*")
    assert {path.name for path in aside.iterdir()} == {"pg", "keys", "admin-token"}
    assert not (other / "restoring").exists()
    with pytest.raises(Refusal, match="holds no database"):
        back_up(BackupOrder(load({}), folder / "nothing", folder / "backups"), print)


def test_keys_of_another_database_are_not_overwritten(folder: Path, backup: Path) -> None:
    """They are alone in the folder if `up` uses DATABASE_URL."""
    data, other = folder / "data", new_key().reveal()
    data.mkdir()
    (data / "lock").touch()
    (data / "keys").write_text(f"{other}\n")
    (data / "admin-token").write_text("opsc_of-the-tests\n")
    with pytest.raises(Refusal, match=r"holds keys of another database.*--replace"):
        restore(RestoreOrder(load({}), data, backup), print)
    assert (data / "keys").read_text() == f"{other}\n"
    asked = subprocess.run(
        [*OPSJOBS, "restore", str(backup), "--replace", "--data-dir", str(data)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    assert "to replace the database and the keys in" in asked.stderr
    assert (data / "keys").read_text() == f"{other}\n"
    restore(RestoreOrder(load({}), data, backup, replace=True), print)
    assert (data / "keys").read_text() == f"{KEY}\n"
    [aside] = data.glob("replaced-*")
    assert (aside / "keys").read_text() == f"{other}\n"
    assert {path.name for path in aside.iterdir()} == {"keys", "admin-token"}


def test_a_restored_database_is_not_in_place_before_its_keys(folder: Path, backup: Path) -> None:
    (folder / "data" / "keys.making").mkdir(parents=True)  # in the way of the keys
    (folder / "data" / "lock").touch()
    with pytest.raises(OSError, match=r"keys\.making"):
        restore(RestoreOrder(load({}), folder / "data", backup), print)
    assert not (folder / "data" / "pg").exists()


def test_up_makes_no_empty_database_where_a_restore_was_killed(folder: Path) -> None:
    (folder / "lock").touch()
    (folder / "restoring").mkdir()
    with pytest.raises(Refusal, match=r"was not finished\. Run `opsjobs restore` again"):
        Stack(StackOptions(folder, port=0, environment={})).start()
    assert {path.name for path in folder.iterdir()} == {"lock", "logs", "restoring"}


async def test_which_executions_may_have_run_since_is_known(database: Database) -> None:
    """Executions from before, and child executions of their actions.

    A retry is a decision of a person.
    """
    old = await launch(database, machines(1))
    now = await database.fetch_one("select opsjobs_now() as now")
    assert now is not None
    marked = await Restores(database).mark(now["now"] - timedelta(minutes=5), "a-backup")
    assert marked.open_executions == [old.id]
    new = await launch(database, machines(1))
    assert new.id > old.id + 1_000
    child = await launch(database, machines(1), parent=old.id, triggered_by=TriggeredBy.WORKFLOW)
    retry = await launch(database, machines(1), parent=old.id, triggered_by=TriggeredBy.RETRY)
    specs = await Ledger(database).load_specs([old.id, new.id, child.id, retry.id])
    assert {key for key, spec in specs.items() if spec.restored_from} == {old.id, child.id}
