"""Who wrote what an execution runs: the versions of its jobs, and the schedule that fired it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.approval import Author, Requester
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

_WROTE = load_statement(__file__, "authors")


async def authors_of(connection: Connection, execution_id: int) -> list[Author]:
    """All of them, at most 1,000; what a release before this one has stored names them without the person behind them."""
    rows = await (await connection.execute(_WROTE, {"execution": execution_id})).fetchall()
    return [_author(row) for row in rows]


def _author(row: Mapping[str, Any]) -> Author:
    return Author(Requester(**row["author"]), row["wrote"])
