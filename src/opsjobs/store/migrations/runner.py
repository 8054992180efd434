"""Upgrade a database to the schema of this release; concurrent upgrades wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, LockNotAvailable
from psycopg.rows import dict_row
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.model.secret import Secret
from opsjobs.store.connections import NETWORK, driver_url
from opsjobs.store.execution_log import DAYS_AHEAD, MAKE, WANTED
from opsjobs.store.migrations.files import Index, indexes
from opsjobs.store.restores import NOT_FINISHED, UNFINISHED
from opsjobs.store.system_status import FACTS, Complaint, find_complaints

VERSIONS = Path(__file__).parent / "versions"

_LOCK = 0x6F70736A6F6273  # "opsjobs"; any number is possible as long as it never changes
_LOCK_SECONDS = 1
_TRIES = 30
_BUSY = (LockNotAvailable, DeadlockDetected)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revisions of the database and of this release."""

    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        """True if no migration is missing; a newer release's schema is compatible, too."""
        return self.current is not None and self.current >= self.head


def upgrade(url: str, keys: Sequence[Secret] = (), *, restoring: bool = False) -> SchemaState:
    """Run missing migrations and create the log's partitions, exclusively. Idempotent.

    A concurrent caller waits. A new database is created completely or not at all. An existing one
    is upgraded migration by migration, each in its own transaction; after a failure the next
    call continues there. Old processes may run meanwhile. `keys`: ENCRYPTION_KEYS, with which the
    start of the audit log is signed. `restoring`: the caller is the restore that has not finished.
    Raises Unavailable if a table is in use for too long without a pause, Failure if the keys are
    needed and none is given, Refusal if the database or the role's rights do not allow it, if a
    restore has not finished, or if no release had the database's revision.
    """
    with _fit(url, restoring=restoring), _alone(url), _connected(url) as connection:
        if check(url).current is None:
            _insist(partial(_run, connection, keys, "head"))
        while (migration := _next(check(url))) is not None:
            for index in indexes(migration.path):
                _insist(partial(_build, url, index))
            _insist(partial(_run, connection, keys, migration.revision))
        _insist(partial(_choose_compression, connection))
        for day in _days(connection):
            _insist(partial(_make_partition, connection, day))
        return check(url)


@contextmanager
def _fit(url: str, *, restoring: bool) -> Iterator[None]:
    """Refuse a database that does not support the schema, and report a missing right by name."""
    if complaints := inspect(url, upgrading=True, restoring=restoring):
        raise Refusal(complaints[0].code, " ".join(complaint.detail for complaint in complaints))
    try:
        yield
    except (ProgrammingError, InsufficientPrivilege) as denied:
        cause = denied.orig if isinstance(denied, ProgrammingError) else denied
        if not isinstance(cause, InsufficientPrivilege):
            raise
        detail = (
            f"The role of DATABASE_URL lacks a right that the upgrade needs: {cause}. "
            "Upgrade as the role that owns the tables, or: grant OWNER to ROLE."
        )
        raise Refusal("database_rights", detail) from denied


def inspect(url: str, *, upgrading: bool = False, restoring: bool = False) -> list[Complaint]:
    """Return the problems of the database and the role's rights. Raises Unavailable.

    Nothing is changed.
    """
    with _driver(url) as connection:
        facts = connection.cursor(row_factory=dict_row).execute(FACTS.encode()).fetchone()
        assert facts is not None
        marker = connection.execute("select to_regclass(%s)", [UNFINISHED]).fetchone()
        if marker != (None,) and not restoring:
            return [Complaint("restore_not_finished", NOT_FINISHED, fatal=True)]
        return find_complaints(facts, upgrading=upgrading)


def _insist(step: Callable[[], None]) -> None:
    """Repeat the step while its tables are in use. Raises Unavailable after the last try."""
    for _ in range(_TRIES):
        try:
            return step()
        except (OperationalError, *_BUSY) as failed:
            busy = failed.orig if isinstance(failed, OperationalError) else failed
            if not isinstance(busy, _BUSY):
                raise
    raise Unavailable(
        f"the schema was left as it is, because its tables are in use: {busy}; try again"
    ) from busy


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Hold the lock of upgrades on a separate connection.

    Its transaction stays open meanwhile. It must not have a snapshot, or index builds would wait
    for it forever: hence no parameters, which would leave a portal open.
    """
    with _driver(url) as guard, guard.transaction():
        # A role may have limits meant for the service's short statements; an upgrade takes longer.
        for limit in ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout"):
            guard.execute(f"set local {limit} = 0".encode())
        guard.execute(f"select pg_advisory_xact_lock({_LOCK})".encode())
        yield


def _run(connection: Connection, keys: Sequence[Secret], revision: str) -> None:
    configuration = _configuration()
    configuration.attributes.update(connection=connection, keys=keys)
    with _transaction(connection):
        command.upgrade(configuration, revision)


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    with connection.begin():
        # Statements queue behind a waiting table lock: the service is blocked for this time only,
        # and not for a whole backup.
        connection.exec_driver_sql(f"set local lock_timeout = '{_LOCK_SECONDS}s'")
        connection.exec_driver_sql("set local statement_timeout = 0")
        connection.exec_driver_sql("set local idle_in_transaction_session_timeout = 0")
        yield


def _build(url: str, index: Index) -> None:
    """Build the index while rows are read and written; rebuild one that a failed build left.

    It waits for older transactions, such as a backup's, and blocks none.
    """
    with _driver(url) as connection:
        connection.execute("set lock_timeout = 0")
        connection.execute("set statement_timeout = 0")
        found = connection.execute(
            "select indisvalid from pg_index where indexrelid = to_regclass(%s)", [index.name]
        ).fetchone()
        if found == (True,):
            return
        if found is not None:
            connection.execute(f"drop index concurrently {index.name}".encode())
        connection.execute(index.concurrently.encode())


def _days(connection: Connection) -> Sequence[date]:
    with connection.begin():
        return connection.exec_driver_sql(WANTED, {"ahead": DAYS_AHEAD}).scalars().all()


def _make_partition(connection: Connection, day: date) -> None:
    with _transaction(connection):
        connection.exec_driver_sql(MAKE, {"day": day})


def check(url: str) -> SchemaState:
    """Return the database's state, changing nothing."""
    with _connected(url) as connection:
        return _state(connection)


@contextmanager
def _driver(url: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        connection = psycopg.connect(driver_url(url), autocommit=True, **NETWORK)
    except psycopg.OperationalError as away:
        raise Unavailable(f"PostgreSQL does not answer: {str(away).strip()}") from away
    with connection:
        yield connection


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    # libpq reads the URL, not SQLAlchemy, which knows no list of hosts.
    engine = create_engine(
        "postgresql+psycopg://",
        poolclass=NullPool,
        creator=lambda: psycopg.connect(driver_url(url), **NETWORK),
    )
    try:
        connection = engine.connect()
    except OperationalError as away:
        raise Unavailable(f"PostgreSQL does not answer: {str(away.orig).strip()}") from away
    with connection:
        yield connection


def _choose_compression(connection: Connection) -> None:
    # lz4 stores 390 MB/s, no compression 360, the default pglz 78 (measured); not every build of
    # PostgreSQL has lz4.
    with _transaction(connection):
        lz4 = connection.exec_driver_sql(
            "select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'"
        ).scalar()
        chosen = connection.exec_driver_sql(
            f"select {'attcompression' if lz4 else 'attstorage'} from pg_attribute "
            "where attrelid = 'execution_log'::regclass and attname = 'data'"
        ).scalar()
        if chosen != ("l" if lz4 else "e"):  # it locks the log
            how = "set compression lz4" if lz4 else "set storage external"
            connection.exec_driver_sql(f"alter table execution_log alter column data {how}")


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.set_main_option("version_locations", str(VERSIONS))
    configuration.set_main_option("path_separator", "newline")
    return configuration


def _state(connection: Connection) -> SchemaState:
    head = ScriptDirectory.from_config(_configuration()).get_current_head()
    assert head is not None
    return SchemaState(MigrationContext.configure(connection).get_current_revision(), head)


def _next(state: SchemaState) -> Script | None:
    if state.current is None or state.up_to_date:
        return None
    scripts = ScriptDirectory.from_config(_configuration())
    try:
        return list(scripts.iterate_revisions(state.head, state.current))[-1]
    except RevisionError as error:
        detail = (
            f"The database has revision {state.current}, which no release had: it was made by a "
            "version in development. Use a new database, or another data folder."
        )
        raise Refusal("database_unknown_revision", detail) from error
