"""Bring a database to the schema of this release, whoever else tries at the same moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from opsjobs.model.failures import Unavailable
from opsjobs.model.secret import Secret
from opsjobs.store.journal import PARTITION_DAYS_AHEAD
from opsjobs.store.transaction import driver_url

_LOCK = 0x6F70736A6F6273  # "opsjobs"; any number would do as long as it never changes
_LOCK_SECONDS = 1
_TRIES = 30
_BUSY = (LockNotAvailable, DeadlockDetected)
# Where a transaction ends, when an older database is brought on: 0026 reads the audit log, however long it is, and would keep tables
# from everybody meanwhile that are altered until here.
_FIRST = "0025"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The database's revision, this release's, and whether they are the same."""

    current: str | None
    head: str

    @property
    def up_to_date(self) -> bool:
        """True where nothing is left to do."""
        return self.current == self.head


def upgrade(url: str, keys: Sequence[Secret] = ()) -> SchemaState:
    """Run what is missing and make the log's partitions, alone: a second caller waits. Idempotent.

    `keys`: ENCRYPTION_KEYS, with which the audit log is signed at its beginning. Old processes may go on meanwhile. Raises Unavailable
    where a table is in use for too long without a pause, Failure where the keys are needed and none is given.
    """
    for _ in range(_TRIES):
        try:
            return _upgrade(url, keys)
        except (OperationalError, *_BUSY) as failed:
            busy = failed.orig if isinstance(failed, OperationalError) else failed
            if not isinstance(busy, _BUSY):
                raise
    raise Unavailable(f"the schema was left as it is, because its tables are in use: {busy}; try again") from busy


def _upgrade(url: str, keys: Sequence[Secret]) -> SchemaState:
    with _connected(url) as connection:
        with _alone(connection):
            # A new database is made whole or not at all.
            if (current := _state(connection).current) is not None and current < _FIRST:
                _run(connection, keys, _FIRST)
        with _alone(connection):
            _run(connection, keys, "head")
            _choose_compression(connection)
            state = _state(connection)
            connection.exec_driver_sql(f"select opsjobs_make_partitions({PARTITION_DAYS_AHEAD})")
    return state


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    with connection.begin():
        connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
        # Whoever comes after a table lock that waits, waits, too: the service stands still for so long, not for a whole backup.
        connection.exec_driver_sql(f"set local lock_timeout = '{_LOCK_SECONDS}s'")
        yield


def _run(connection: Connection, keys: Sequence[Secret], revision: str) -> None:
    configuration = _configuration()
    configuration.attributes.update(connection=connection, keys=keys)
    command.upgrade(configuration, revision)


def check(url: str) -> SchemaState:
    """Where the database stands, changing nothing."""
    with _connected(url) as connection:
        return _state(connection)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(driver_url(url).replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    try:
        connection = engine.connect()
    except OperationalError as away:
        raise Unavailable(f"PostgreSQL does not answer: {str(away.orig).strip()}") from away
    with connection:
        yield connection


def _choose_compression(connection: Connection) -> None:
    # lz4 stores 390 MB/s, no compression 360, the default pglz 78 (measured); not every build of PostgreSQL has lz4.
    lz4 = connection.exec_driver_sql(
        "select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'"
    ).scalar()
    how = "set compression lz4" if lz4 else "set storage external"
    connection.exec_driver_sql(f"alter table execution_log alter column data {how}")


def _configuration() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    return configuration


def _state(connection: Connection) -> SchemaState:
    head = ScriptDirectory.from_config(_configuration()).get_current_head()
    assert head is not None
    return SchemaState(MigrationContext.configure(connection).get_current_revision(), head)
