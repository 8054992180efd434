"""The traffic of a connection to PostgreSQL, counted in libpq's own trace."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg.pq import Trace

from opsjobs.store.transaction import Database


@dataclass
class Wire:
    """Numbers of `statements` sent, and of `waits` for a response before the next send."""

    statements: int = 0
    waits: int = 0


@asynccontextmanager
async def watched(database: Database) -> AsyncIterator[Wire]:
    """Count within the block; `database` has one connection, so that it carries everything."""
    assert database.options.connections == 1
    wire = Wire()
    with tempfile.TemporaryFile() as trace:
        async with database.connection() as connection:
            connection.pgconn.trace(trace.fileno())
            connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield wire
        finally:
            async with database.connection() as connection:
                connection.pgconn.untrace()
        trace.seek(0)
        _count(wire, trace.read().decode())


def _count(wire: Wire, trace: str) -> None:
    before = ""
    for line in trace.splitlines():
        match line.split("\t"):
            case ["F", _, kind, *_]:
                wire.statements += kind in ("Bind", "Query")
                # psycopg flushes after a Sync if no response came meanwhile: that is one wait.
                wire.waits += kind in ("Sync", "Query") or (kind == "Flush" and before != "Sync")
                before = kind
