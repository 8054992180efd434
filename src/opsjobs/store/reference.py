"""References: ids and uuids in paths, unique and retired names, uses, owners."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg import errors
from psycopg.rows import DictRow

from opsjobs.model import text_patterns
from opsjobs.model.errors import Conflict, FieldError, NotFound, Precondition
from opsjobs.model.execution import moment
from opsjobs.model.identity import Identity
from opsjobs.store.transaction import Connection, Database

BIGINT_MAX = (1 << 63) - 1
_ID = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Reference:
    """The meaning of a path's `{id}`: exactly one of id and uuid is set.

    In SQL: `where id = %(id)s or uuid = %(uuid)s` (a comparison with NULL is never true, so both
    indexes serve).

    >>> Reference.require("job", "7")
    Reference(id=7, uuid=None)
    """

    id: int | None
    uuid: UUID | None

    @classmethod
    def require(cls, noun: str, ref: str | int) -> Reference:
        """Return the reference that `ref` denotes. Raises NotFound for -1, 2**70 or `x`."""
        parsed = cls.parse(str(ref))
        if parsed is None:
            raise NotFound.for_ref(noun, _shorten(str(ref)))
        return parsed

    @classmethod
    def parse(cls, ref: str) -> Reference | None:
        """Return the reference that `ref` denotes; None if it cannot be one."""
        if _ID.fullmatch(ref) and int(ref) <= BIGINT_MAX:
            return cls(int(ref), None)
        if text_patterns.UUID.fullmatch(ref):
            return cls(None, UUID(ref))
        return None


def _shorten(ref: str) -> str:
    return ref if len(ref) <= 60 else f"{ref[:60]}…"


async def find(
    database: Database, noun: str, ref: str | int, select: str, alias: str = ""
) -> DictRow:
    """Return the row of this `select` that `ref` names. Raises NotFound.

    `alias`: the alias of its table, with a dot.
    """
    named = Reference.require(noun, ref)
    query = f"{select} where {alias}id = %(id)s or {alias}uuid = %(uuid)s"
    row = await database.fetch_one(query, {"id": named.id, "uuid": named.uuid})
    if row is None:
        raise NotFound.for_ref(noun, ref)
    return row


async def lock(connection: Connection, noun: str, ref: str | int, select: str) -> DictRow:
    """Return the row that `ref` names, locked until this transaction ends. Raises NotFound."""
    named = Reference.require(noun, ref)
    query = f"{select} where id = %(id)s or uuid = %(uuid)s for update"
    row = await (await connection.execute(query, {"id": named.id, "uuid": named.uuid})).fetchone()
    if row is None:
        raise NotFound.for_ref(noun, ref)
    return row


def check_basis(noun: str, ref: str | int, changed: datetime, basis: datetime | None) -> None:
    """Raise Precondition(412) if a locked object was changed after the request has read it.

    `basis`: the time of the change that was read; None if any state is replaced.
    """
    if basis is not None and changed != basis:
        detail = (
            f"The {noun} {ref} was changed by another request at the same moment. Read it "
            "again, and send the change again."
        )
        raise Precondition("stale_version", detail, status=412)


@contextmanager
def unique_name(noun: str, name: str) -> Iterator[None]:
    """Turn PostgreSQL's unique violation of a name into Conflict("name_taken")."""
    try:
        yield
    except errors.UniqueViolation as taken:
        if "name" not in (taken.diag.constraint_name or ""):
            raise
        raise name_taken(noun, name) from None


_CHANGED_WITH = {
    "target": "targets set",
    "group": "groups set",
    "job": "jobs apply",
    "schedule": "schedules set",
    "trigger": "triggers set",
    "calendar": "calendars apply",
    "credential": "credentials rotate",
    "user": "users set",
    "service": "services set",
    "webhook": "webhooks set",
}


def name_taken(noun: str, name: str) -> Conflict:
    """Return the error for a name that is taken.

    Names are unique among all objects, including those that the caller may not see.
    """
    article = "an" if noun[0] in "aeioA" else "a"
    command = _CHANGED_WITH.get(noun)
    other = (
        f"change that one (PATCH, or `opsjobs {command}`)"
        if command is not None
        else "delete that one"
    )
    detail = f"There is already {article} {noun} named {name!r}: choose another name, or {other}."
    return Conflict("name_taken", detail, errors=[FieldError("/name", detail, "name_taken")])


NAMED_MAX = 5


async def check_unused(
    connection: Connection, code: str, what: str, query: str, values: Mapping[str, object]
) -> None:
    """Raise Conflict(code) if the query finds users of an object.

    The detail consists of `what`, the first names and the remedy. The query returns `name` and the
    total number as `n`, and is bounded by `%(limit)s`.
    """
    users = await (await connection.execute(query, {**values, "limit": NAMED_MAX})).fetchall()
    if users:
        names = ", ".join(row["name"] for row in users)
        more = users[0]["n"] - len(users)
        raise Conflict(
            code, f"{what} {names}{f' and {more} more' if more else ''}: change those first."
        )


_OF = {"user": "a user's", "api_key": "an API key's", "service": "a service's"}
_SPENT = "select spent_at from spent_names where noun = %s and name = %s"


async def check_name_reserved(
    connection: Connection,
    noun: Literal["user", "api_key", "service"],
    name: str,
    *,
    reuse_name: bool,
) -> dict[str, str]:
    """Return audit fields for the name: empty if it is new. Raises Conflict("name_reserved").

    Call it after the row was inserted, so that an identity deleted concurrently is seen. With
    `reuse_name` a reserved name is accepted, and the field `reuse_name` is returned.
    """
    row = await (await connection.execute(_SPENT, [noun, name])).fetchone()
    if row is None:
        return {}
    since = moment(row["spent_at"]) or ""
    if reuse_name:
        return {"reuse_name": f"what {noun} {name} left, who is gone since {since}"}
    detail = (
        f"{name!r} was {_OF[noun]} name until {since}, and its files, schedules and executions "
        f"still refer to it. Choose another "
        "name, or set `reuse_name`, as an administrator without a scope, to inherit what it owned."
    )
    raise Conflict("name_reserved", detail, errors=[FieldError("/name", detail, "name_reserved")])


async def find_retired_labels(connection: Connection, name: str) -> Mapping[str, str] | None:
    """Return the labels of the deleted or renamed target that last had this name, or None."""
    query = "select labels from spent_names where noun = 'target' and name = %s"
    row = await (await connection.execute(query, [name])).fetchone()
    return None if row is None else row["labels"]


def owner_values(owner: Identity | None) -> dict[str, str | None]:
    """Return the values of the columns `owner` and `owner_kind`; None: of no identity."""
    if owner is None:
        return {"owner": None, "owner_kind": None}
    return {"owner": owner.name, "owner_kind": owner.kind}
