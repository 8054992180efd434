"""Refuse to delete or rename a thing that is in use."""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs.model.errors import Conflict
from opsjobs.store.transaction import Connection

NAMED_MAX = 5


async def check_unused(
    connection: Connection, code: str, what: str, query: str, values: Mapping[str, object]
) -> None:
    """Raise Conflict(code) if the query finds users of a thing.

    The detail is `what`, the first names and what to do. The query returns `name`, and `n` for how
    many there are in all, and is bounded by `%(limit)s`.
    """
    users = await (await connection.execute(query, {**values, "limit": NAMED_MAX})).fetchall()
    if users:
        names = ", ".join(row["name"] for row in users)
        more = users[0]["n"] - len(users)
        raise Conflict(
            code, f"{what} {names}{f' and {more} more' if more else ''}: change those first."
        )
