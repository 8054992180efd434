"""Access to PostgreSQL: a bounded pool of connections, and transactions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from opsjobs.model.errors import Refusal, Unavailable
from opsjobs.store.connections import (
    LIMITS,
    PLANNED_ONCE,
    RETRYABLE,
    DatabaseConnection,
    PoolConnection,
    Reconnector,
    as_unavailable,
    driver_url,
    mark_used,
    open_connection,
)
from opsjobs.telemetry.logs import log

__all__ = ["Connection", "Database", "DatabaseOptions", "driver_url"]

T = TypeVar("T")
Connection = AsyncConnection[DictRow]

RETRIES_MAX = 5
# Time after its last use for which a connection is assumed to be alive.
TRUSTED_SECONDS = 1.0
# Deadline for getting a connection, whether the pool is busy or the database unavailable.
WAIT_SECONDS = 10.0
# A connection prepares a statement after it has run it this many times.
PREPARED_AFTER = 5
# Errors of a pooler that does not keep the prepared statements of its clients apart.
_NOT_PREPARED = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """The address of the database, and the limit of connections per process."""

    url: str
    connections: int = 8
    application_name: str = "opsjobs"
    hot_verbs: bool = False
    """True for workers: their few large statements are planned once, not at every call."""


async def _used(connection: DatabaseConnection) -> None:
    mark_used(connection)


class Database:
    """A pool of connections; every operation of the store gets its transaction here."""

    def __init__(
        self, options: DatabaseOptions, *, on_retry: Callable[[], None] | None = None
    ) -> None:
        self.options = options
        self._on_retry = on_retry
        self._prepared_after: int | None = PREPARED_AFTER
        self._redial = Reconnector(self._dial)
        driver_url(options.url)
        self._pool: AsyncConnectionPool[DatabaseConnection] = AsyncConnectionPool(
            min_size=1,
            max_size=options.connections,
            open=False,
            timeout=WAIT_SECONDS,
            max_idle=60,
            kwargs={"redial": self._redial},
            connection_class=PoolConnection,
            reset=_used,
            # While the database is unavailable each missing connection occupies a pool worker;
            # returning connections requires one, too.
            num_workers=options.connections + 2,
        )

    async def open(self) -> None:
        """Start the pool.

        Connections are made on demand, so a database that is down is not an error here.
        """
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        self._redial.close()
        await self._pool.close()

    def count_connections(self, state: str) -> int:
        """Return how many connections are `open` or `idle`, or how many callers want one.

        Callable from any thread.
        """
        stats = self._pool.get_stats()
        known = {"open": "pool_size", "idle": "pool_available", "wanted": "requests_waiting"}
        return stats.get(known[state], 0)

    async def _dial(self) -> DatabaseConnection:
        return await open_connection(
            self.options.url,
            limits={**LIMITS, **(PLANNED_ONCE if self.options.hot_verbs else {})},
            application_name=self.options.application_name,
            prepare_threshold=self._prepared_after,
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[DatabaseConnection]:
        """Return a connection in autocommit, for a single read. Raises Unavailable."""
        connection = await self._take()
        try:
            async with connection:
                yield connection
        except psycopg.Error as error:
            if (away := self._classify(connection, error)) is None:
                raise
            raise away from error
        finally:
            await self._pool.putconn(connection)

    async def _take(self) -> DatabaseConnection:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                connection = await self._pool.getconn(max(until - time.monotonic(), 0.01))
            except PoolTimeout:
                reason = (
                    self._redial.reason or f"all {self.options.connections} connections are in use"
                )
                raise Unavailable(
                    f"PostgreSQL: no connection within {WAIT_SECONDS:.0f} s: {reason}"
                ) from None
            except psycopg.OperationalError as closed:
                raise Unavailable(f"PostgreSQL: {closed}") from closed
            # Workers retry failures, so they skip the check; a connection closed meanwhile is
            # detected without it.
            ask = (
                not self.options.hot_verbs
                and time.monotonic() - connection.idle_since > TRUSTED_SECONDS
            )
            try:
                works = await connection.is_alive(ask=ask)
            except BaseException:
                await self._pool.putconn(connection)
                raise
            if works:
                connection.prepare_threshold = self._prepared_after
                return connection
            await self._pool.putconn(connection)

    def _classify(self, connection: DatabaseConnection, error: psycopg.Error) -> Unavailable | None:
        if connection.silent:
            return Unavailable(
                f"PostgreSQL gave no answer within {connection.answer_seconds:.0f} s: the "
                f"connection was closed"
            )
        if connection.pooled and isinstance(error, _NOT_PREPARED):
            if self._prepared_after is not None:
                log.warning(
                    "prepared_statements_off",
                    reason="the pooler loses them: set max_prepared_statements (PgBouncer 1.21)",
                )
            self._prepared_after = (
                None  # connections in use at the same time may still fail once themselves
            )
            return Unavailable(f"the pooler lost a prepared statement: {error}")
        return as_unavailable(error)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[DatabaseConnection]:
        """Return a connection in a transaction.

        It is committed at the end of the block, and rolled back by an exception. Raises
        Unavailable.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.apply_transaction_limits()
            yield connection

    @asynccontextmanager
    async def manual_transaction(self) -> AsyncIterator[DatabaseConnection]:
        """Return a connection on which the block itself calls `begin` and sends "commit".

        So both can be pipelined with the rest. A transaction that is open at the end of the block
        is rolled back. If a statement fails, the connection is closed: psycopg assumes that
        statements skipped by a failed pipeline are prepared, so every later use of them would fail,
        too.
        """
        async with self.connection() as connection:
            try:
                yield connection
            except BaseException as failed:
                refused = (
                    isinstance(failed, Refusal)
                    and connection.info.transaction_status != TransactionStatus.INERROR
                )
                if not refused:
                    await connection.close()
                raise
            if (
                not connection.closed
                and connection.info.transaction_status != TransactionStatus.IDLE
            ):
                await connection.execute("rollback")

    @asynccontextmanager
    async def pipelined(self) -> AsyncIterator[DatabaseConnection]:
        """Return a connection in a transaction whose statements are sent at once.

        No response is awaited before the end of the block, so there is no round trip between a lock
        and the commit. Read a cursor's rows after the block: within it, reading waits for them and
        for everything sent before. A failed statement raises at the next wait, or at the end of the
        block.
        """
        # Begin and commit are sent as statements: psycopg's own transaction waits for a response
        # before it commits.
        async with self.manual_transaction() as connection, connection.pipeline():
            await connection.begin()
            yield connection
            await connection.execute("commit")

    async def retry(self, verb: Callable[[], Awaitable[T]]) -> T:
        """Return the operation's result; retry it at most 5 times after a deadlock.

        PostgreSQL breaks a deadlock by ending one of its transactions.
        """
        for attempt in range(RETRIES_MAX):
            try:
                return await verb()
            except RETRYABLE:
                if self._on_retry is not None:
                    self._on_retry()
                jitter = random.uniform(0.001, 0.02)  # noqa: S311  not a secret
                await asyncio.sleep(jitter * (attempt + 1))
        return await verb()

    async def fetch(self, query: str, parameters: Any = None) -> list[DictRow]:
        """Return all rows of one read; the caller bounds their number in the query."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def fetch_one(self, query: str, parameters: Any = None) -> DictRow | None:
        """Return the first row of one read, or None."""
        async with self.connection() as connection:
            return await (await connection.execute(query, parameters)).fetchone()
