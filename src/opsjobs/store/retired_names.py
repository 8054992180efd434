"""Names of deleted identities and targets: reserved, because records still refer to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from opsjobs.model.errors import Conflict, FieldError
from opsjobs.model.execution import moment
from opsjobs.store.transaction import Connection

_OF = {"user": "a user's", "api_key": "an API key's", "service": "a service's"}
_SPENT = "select spent_at from spent_names where noun = %s and name = %s"


async def check_name(
    connection: Connection,
    noun: Literal["user", "api_key", "service"],
    name: str,
    *,
    reuse_name: bool,
) -> dict[str, str]:
    """Return audit fields for the name: empty if it is new. Raises Conflict("name_reserved").

    Call it after the row was inserted, so that an identity deleted at the same moment is seen. With
    `reuse_name` a reserved name is accepted, and the field `reuse_name` is returned.
    """
    row = await (await connection.execute(_SPENT, [noun, name])).fetchone()
    if row is None:
        return {}
    since = moment(row["spent_at"]) or ""
    if reuse_name:
        return {"reuse_name": f"what {noun} {name} left, who is gone since {since}"}
    detail = (
        f"{name!r} was {_OF[noun]} name until {since}, and its files, schedules and executions still refer to it. Choose another "
        "name, or set `reuse_name`, as an administrator without a scope, to inherit what it owned."
    )
    raise Conflict("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


async def labels_of_target(connection: Connection, name: str) -> Mapping[str, str] | None:
    """Return the labels of the deleted or renamed target that last had this name, or None."""
    query = "select labels from spent_names where noun = 'target' and name = %s"
    row = await (await connection.execute(query, [name])).fetchone()
    return None if row is None else row["labels"]
