"""Connections to PostgreSQL: client deadlines, server limits, reconnecting after outages.

Also classifies the errors of PostgreSQL: "unavailable, try again", or refusals and bugs that a
retry does not fix.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.abc import PQGen
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolTimeout

from opsjobs.model.errors import DiskFull, Locked, TooSlow, Unavailable

T = TypeVar("T")

STATEMENT_SECONDS = 30
LIMITS: Mapping[str, str] = {
    # A frozen client must not hold a lock forever, and no statement waits for a lock for long.
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "5s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
}
PLANNED_ONCE: Mapping[str, str] = {"plan_cache_mode": "force_generic_plan"}

ANSWER_SECONDS = STATEMENT_SECONDS + 5.0
"""Deadline of a response, longer than the server's limits: then server or network failed."""
DIAL_SECONDS = 5
"""Deadline for a host to accept the connection, and then to apply the limits."""
PING_SECONDS = 2.0
"""Deadline for an idle connection to prove that it still works."""
REDIAL_SECONDS = 0.5
"""The pause between two attempts to connect while the database is unavailable."""

NETWORK: Mapping[str, Any] = {
    "connect_timeout": DIAL_SECONDS,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Keepalives are not sent while data is unacknowledged: without this Linux would try for 15
    # minutes.
    "tcp_user_timeout": 10_000,
    # Regardless of the environment and the database: the server then reports what it cannot store,
    # and texts are decoded.
    "client_encoding": "UTF8",
}

_APPLY = """
select pg_backend_pid() = %(pid)s as direct, set_config('TimeZone', 'UTC', false),
  case when pg_backend_pid() = %(pid)s then (
    select count(set_config(name, value, false))
    from unnest(%(names)s::text[], %(values)s::text[]) as l(name, value)) end"""


def driver_url(url: str) -> str:
    """Return the libpq URL of a database URL.

    Accepts postgres://, postgresql+asyncpg:// and postgresql+psycopg://.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("postgres", "postgresql"):
        shown = urlsplit(url).scheme or "?"
        raise ValueError(
            f"DATABASE_URL begins with {shown}://, but only PostgreSQL is supported: "
            f"postgresql://user@host/name"
        )
    return f"postgresql://{rest}"


def libpq_environment(url: str) -> dict[str, str]:
    """Return the variables by which PostgreSQL's own programs reach the database of a URL.

    Unlike arguments, they are not in the list of processes.
    """
    options = psycopg.pq.Conninfo.parse(driver_url(url).encode())
    return {
        option.envvar.decode(): option.val.decode()
        for option in options
        if option.envvar and option.val
    }


class DatabaseConnection(AsyncConnection[DictRow]):
    """A connection whose responses have a deadline on the client's side.

    After the deadline the socket is shut down and the statement fails. Limits are set once after
    connecting. Behind a pooler a session is shared with others, so there each transaction sets them
    for itself (`begin`), and single statements have the limits of the role, as described in
    docs/operations/running.md.
    """

    idle_since = 0.0
    answer_seconds = ANSWER_SECONDS
    silent = False
    """True once a response has missed its deadline."""
    pooled = False
    """True if a pooler (PgBouncer) is between the client and the server."""
    _local = ""

    async def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for the server's response, for `answer_seconds` at most."""
        deadline = asyncio.get_running_loop().call_later(self.answer_seconds, self._give_up)
        try:
            return await super().wait(gen, *args, **kwargs)
        finally:
            deadline.cancel()

    def wait_longer(self, statement_seconds: float) -> None:
        """Extend the deadline for statements that may take this long.

        This lasts until the connection is returned to the pool.
        """
        self.answer_seconds = statement_seconds + ANSWER_SECONDS - STATEMENT_SECONDS

    def wait_as_usual(self) -> None:
        """Restore the usual deadline."""
        self.__dict__.pop("answer_seconds", None)

    def _give_up(self) -> None:
        self.silent = True
        self.abort()

    def abort(self) -> None:
        """Shut the socket down, so that pending statements fail at once. Does not wait."""
        with suppress(OSError, psycopg.Error):
            duplicate = socket.socket(fileno=os.dup(self.pgconn.socket))
            with duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    async def apply_limits(self, limits: Mapping[str, str]) -> None:
        """Apply these settings to the session, or behind a pooler to each transaction."""
        given = {
            "pid": self.info.backend_pid,
            "names": list(limits),
            "values": list(limits.values()),
        }
        row = await (await self.execute(_APPLY, given, prepare=False)).fetchone()
        self.pooled = row is None or not row["direct"]
        settings = (
            f"select set_config('{name}', '{value}', true)" for name, value in limits.items()
        )
        self._local = " union all ".join(settings) if self.pooled else ""

    async def begin(self) -> None:
        """Send "begin" as a statement, so that it shares a pipeline with the next statements."""
        await self.execute("begin")
        await self.apply_transaction_limits()

    async def apply_transaction_limits(self) -> None:
        """Apply the limits to a transaction that has just begun, if the session lacks them."""
        if self._local:
            await self.execute(self._local)

    async def is_alive(self, *, ask: bool) -> bool:
        """Return True if the connection works.

        Costs a round trip only if data has arrived in the meantime, or with `ask`.
        """
        if self.closed:
            return False
        if not (ask or self._has_input()):
            return True
        self.answer_seconds, usual = PING_SECONDS, self.answer_seconds
        try:
            await self.execute("")
        except psycopg.Error:
            await self.close()
            return False
        finally:
            self.answer_seconds = usual
        return True

    def _has_input(self) -> bool:
        # On an idle connection this is the server closing the session, or a closed socket; rarely a
        # notice.
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))


async def open_connection(
    url: str, *, limits: Mapping[str, str] = LIMITS, **options: Any
) -> DatabaseConnection:
    """Return a new connection in autocommit with these limits in force. Raises psycopg.Error."""
    connection = await DatabaseConnection.connect(
        driver_url(url), autocommit=True, row_factory=dict_row, **{**NETWORK, **options}
    )
    try:
        connection.answer_seconds = DIAL_SECONDS
        await connection.apply_limits(limits)
        connection.wait_as_usual()
    except BaseException:
        await connection.close()
        raise
    return connection


class Reconnector:
    """Connects for a pool.

    While the database is unavailable, one attempt at a time is made, half a second after the last.
    The pool's own back-off doubles its pauses: after an outage it could take as long again to
    reconnect as the outage lasted.
    """

    def __init__(self, dial: Callable[[], Awaitable[DatabaseConnection]]) -> None:
        self._dial = dial
        self._turn = asyncio.Lock()
        self._closing = asyncio.Event()
        self.reason: str | None = None
        """The reason why the last attempt failed; None while attempts succeed."""

    async def connect(self) -> DatabaseConnection:
        """Return a connection, however long it takes.

        Raises OperationalError once `close` was called.
        """
        while True:
            if self.reason is None and (connection := await self._try()) is not None:
                return connection
            async with self._turn:
                if self.reason is not None:
                    await self._pause()
                    if (connection := await self._try()) is not None:
                        return connection

    def close(self) -> None:
        """Stop connecting: pending and later attempts fail."""
        self._closing.set()

    async def _try(self) -> DatabaseConnection | None:
        if self._closing.is_set():
            raise psycopg.OperationalError("the pool is closed")
        try:
            connection = await self._dial()
        except psycopg.Error as failed:
            self.reason = str(failed).strip() or type(failed).__name__
            return None
        self.reason = None
        return connection

    async def _pause(self) -> None:
        jitter = random.uniform(0.8, 1.2)  # noqa: S311  not a secret
        with suppress(TimeoutError):
            async with asyncio.timeout(REDIAL_SECONDS * jitter):
                await self._closing.wait()


class PoolConnection(DatabaseConnection):
    """A connection of a psycopg pool, which connects by calling its class.

    The parameter `redial` makes the connection.
    """

    @classmethod
    async def connect(cls, *_: Any, **parameters: Any) -> Any:
        """Return a connection made by `redial`; the pool's own parameters are not used."""
        redial: Reconnector = parameters["redial"]
        return await redial.connect()


def mark_used(connection: DatabaseConnection) -> None:
    """Note that the connection was in use until now, and restore its usual deadline."""
    connection.idle_since = time.monotonic()
    connection.wait_as_usual()


RETRYABLE = (errors.DeadlockDetected, errors.SerializationFailure)
"""The transaction may succeed if it is run again at once; `Database.retry` does that."""

# Whole classes: connection exceptions, insufficient resources, operator intervention (shutdown,
# failover, cancel).
_CLASSES = ("08", "53", "57")
# A transaction that the server or a failover ended, or an I/O error of the server's disk.
_STATES = ("25P03", "25P04", "25006", "58030")
# The server responded: it was too busy, the statement was too large for its time limit, or another
# session held a lock for too long.
_TOO_SLOW = (TooSlow, "PostgreSQL ended a statement at its time limit")
_ANSWERED: Mapping[str, tuple[type[Unavailable], str]] = {
    "57014": _TOO_SLOW,
    "25P04": _TOO_SLOW,
    "55P03": (Locked, "PostgreSQL could not acquire a lock in time"),
}
# The operating system's messages for a full disk if PostgreSQL has no SQLSTATE of its own for it
# (quota, WAL, temporary files).
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")


def as_unavailable(error: psycopg.Error) -> Unavailable | None:
    """Return the error as Unavailable, or None if a retry cannot help.

    Unavailable means that PostgreSQL does not respond, or lacks a resource.
    """
    if isinstance(error, RETRYABLE):
        return None
    reason = str(error).strip()
    if isinstance(error, errors.DiskFull) or any(words in reason for words in _FULL_WORDS):
        return DiskFull(f"The disk of PostgreSQL is full: {reason}")
    if error.sqlstate is None:
        # Errors of the driver: the connection broke or was never made. Other errors without a
        # state are misuse of the driver.
        broken = isinstance(error, psycopg.OperationalError | PoolTimeout)
        return Unavailable(f"PostgreSQL does not answer: {reason}") if broken else None
    if error.sqlstate in _ANSWERED:
        kind, words = _ANSWERED[error.sqlstate]
        return kind(f"{words}: {reason}")
    if error.sqlstate[:2] in _CLASSES or error.sqlstate in _STATES:
        return Unavailable(f"PostgreSQL does not answer: {reason}")
    return None
