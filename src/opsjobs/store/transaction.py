"""The one way to PostgreSQL: a bounded pool, and transactions that a verb opens itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from opsjobs.model.failures import Refusal, Unavailable

T = TypeVar("T")
Connection = AsyncConnection[DictRow]

# A frozen client must not hold a lock for ever, and nobody waits for one for long (10-ledger.md rule 10).
SESSION_OPTIONS = "-c idle_in_transaction_session_timeout=3s -c lock_timeout=5s -c statement_timeout=30s -c timezone=UTC"
PLANNED_ONCE = " -c plan_cache_mode=force_generic_plan"
# A transaction that PostgreSQL or a failover took from us: not committed, and not the statement's fault.
TAKEN_AWAY = (errors.IdleInTransactionSessionTimeout, errors.ReadOnlySqlTransaction)
REPEATABLE = (errors.DeadlockDetected, errors.SerializationFailure)
REPEATS_AT_MOST = 5
# How long a connection that was just used is taken to be alive.
TRUSTED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Where the database is and how many connections one process may hold."""

    url: str
    connections: int = 8
    application_name: str = "opsjobs"
    hot_verbs: bool = False
    """True for workers: their few large statements are planned once, not at every call."""


def driver_url(url: str) -> str:
    """A libpq URL of any spelling that people use: postgres://, postgresql+asyncpg://, postgresql+psycopg://."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgres", "postgresql"):
        shown = urlsplit(url).scheme or "?"
        raise ValueError(f"DATABASE_URL begins with {shown}://, but only PostgreSQL is supported: postgresql://user@host/name")
    return f"postgresql://{rest}"


class _Pooled(AsyncConnection[DictRow]):
    """A connection that knows since when it lies idle."""

    idle_since = 0.0


async def _used(connection: _Pooled) -> None:
    connection.idle_since = time.monotonic()


async def _check(connection: _Pooled) -> None:
    """A question costs a round trip: only what lay idle for a while is asked whether it still lives."""
    if time.monotonic() - connection.idle_since > TRUSTED_SECONDS:
        await AsyncConnectionPool.check_connection(connection)


class Database:
    """A pool of connections; every verb of the store takes its transaction from here."""

    def __init__(self, options: DatabaseOptions, *, repeated: Callable[[], None] | None = None) -> None:
        self.options = options
        self._repeated = repeated
        self._pool: AsyncConnectionPool[_Pooled] = AsyncConnectionPool(
            driver_url(options.url),
            min_size=1,
            max_size=options.connections,
            open=False,
            timeout=10,
            max_idle=60,
            kwargs={
                "row_factory": dict_row,
                "autocommit": True,
                "application_name": options.application_name,
                "options": SESSION_OPTIONS + (PLANNED_ONCE if options.hot_verbs else ""),
                "connect_timeout": 5,
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
            connection_class=_Pooled,
            reset=_used,
            # After a restart of PostgreSQL every pooled connection is broken: nobody is to get one. Workers repeat anyway.
            check=None if options.hot_verbs else _check,
        )

    async def open(self) -> None:
        """Start the pool; connections come when they are needed, so a database that is down is no error here."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for a single read. Raises Unavailable."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (PoolTimeout, psycopg.OperationalError, *TAKEN_AWAY) as away:
            if isinstance(away, REPEATABLE):
                raise
            raise Unavailable(f"PostgreSQL does not answer: {str(away).strip()}") from away

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception. Raises Unavailable."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[Connection]:
        """A connection on which the block itself sends "begin" and "commit", so that it can pipeline them with the rest.

        What is still open at the end of the block is rolled back. Where a statement fails, the connection is closed: of statements
        that a failed pipeline has skipped psycopg believes that they are prepared, so that every later one would fail, too.
        """
        async with self.connection() as connection:
            try:
                yield connection
            except BaseException as failed:
                refused = isinstance(failed, Refusal) and connection.info.transaction_status != TransactionStatus.INERROR
                if not refused:
                    await connection.close()
                raise
            if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.execute("rollback")

    @asynccontextmanager
    async def pipelined(self) -> AsyncIterator[Connection]:
        """One transaction whose statements are all sent before any answer is awaited.

        Between a lock and the commit there is then no round trip. Read a cursor's rows after the block: within it that waits for
        them, and for all that was sent before. A statement that fails is told by what is awaited next, or by the end of the block.
        """
        # Begin and commit are statements like the others: psycopg's own transaction waits for an answer before it commits.
        async with self.begun() as connection, connection.pipeline():
            await connection.execute("begin")
            yield connection
            await connection.execute("commit")

    async def repeat(self, verb: Callable[[], Awaitable[T]]) -> T:
        """The verb's answer, run again where PostgreSQL broke a deadlock by ending it; at most 5 times."""
        for attempt in range(REPEATS_AT_MOST):
            try:
                return await verb()
            except REPEATABLE:
                if self._repeated is not None:
                    self._repeated()
                await asyncio.sleep(random.uniform(0.001, 0.02) * (attempt + 1))  # noqa: S311  jitter
        return await verb()

    async def fetch(self, query: str, parameters: Any = None) -> list[DictRow]:
        """All rows of one read; the caller bounds their number in the query."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def fetch_one(self, query: str, parameters: Any = None) -> DictRow | None:
        """The first row of one read, or None."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters)).fetchone()
