"""Idempotency keys: the first response, stored in its transaction and kept for 24 hours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from psycopg import errors
from psycopg.types.json import Jsonb

from opsjobs.model.errors import Conflict, FieldError, Invalid
from opsjobs.store.connections import LIMITS
from opsjobs.store.transaction import Connection, Database

T = TypeVar("T")
KEPT_HOURS = 24
WAIT_MS = 300
# Rows that one statement deletes at most.
DELETED_ROWS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that may be repeated: unique by principal, route (method and path) and key."""

    principal: str
    route: str
    key: str
    body_sha256: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The stored response to the first request."""

    status: int
    location: str | None
    body: Mapping[str, Any]


_DELETE_OLD = """
delete from idempotency_keys where ctid = any(array(
  select ctid from idempotency_keys where created_at < (select opsjobs_now()) - interval '24 hours'
  order by created_at limit %s)) returning 1"""

_FORGET = """
delete from idempotency_keys where principal = %s and route = %s and key = %s
and created_at < (select opsjobs_now()) - make_interval(hours => %s)"""

# Not "to default": that is the setting of the role, not of the session.
_USUAL_WAIT = "set local lock_timeout = '{}'".format(LIMITS["lock_timeout"])

_BEGIN = """
insert into idempotency_keys (principal, route, key, body_sha256) values (%s, %s, %s, %s)
on conflict (principal, route, key) do nothing returning true as ours"""

_READ = (
    "select body_sha256, status, location, answer from idempotency_keys where principal = %s "
    "and route = %s and key = %s"
)


async def once(
    database: Database,
    request: IdempotentRequest | None,
    verb: Callable[[Connection], Awaitable[T]],
    to_answer: Callable[[T], Answer],
    *,
    pipelined: bool = False,
) -> T | Answer:
    """Run the verb and store its response in one transaction; or return the first response.

    `to_answer`: returns the response to a result of the verb (`created_at` if it has created an
    object). `pipelined`: the verb's statements are sent without waiting for each other's results
    (Database.pipelined). Raises the exceptions of `begin` and of the verb; then nothing is done or
    stored. After a deadlock, all of it is repeated.
    """

    async def run_verb() -> T | Answer:
        async with database.pipelined() if pipelined else database.transaction() as connection:
            if request is not None and (before := await begin(connection, request)) is not None:
                return before
            done = await verb(connection)
            if request is not None:
                answer = to_answer(done)
                await record(connection, request, answer.status, answer.location, answer.body)
            return done

    return await database.retry(run_verb)


async def begin(connection: Connection, request: IdempotentRequest) -> Answer | None:
    """Return None if this request is the first (then call `record`), else the first response.

    Waits at most 300 ms while the first request is being done in another transaction. Raises
    Conflict("idempotency_in_progress") after that, Invalid("idempotency_mismatch") if the key was
    used with another body.
    """
    name = [request.principal, request.route, request.key]
    try:
        await connection.execute(f"set local lock_timeout = '{WAIT_MS}ms'")
        await connection.execute(_FORGET, [*name, KEPT_HOURS])
        ours = await (await connection.execute(_BEGIN, [*name, request.body_sha256])).fetchone()
        await connection.execute(_USUAL_WAIT)
    except errors.LockNotAvailable:
        raise _in_progress() from None
    if ours:
        return None
    row = await (await connection.execute(_READ, name)).fetchone()
    if row is None or row["status"] is None:
        raise _in_progress()
    if row["body_sha256"] != request.body_sha256:
        detail = (
            f"The Idempotency-Key {request.key!r} was used with another body: take a new key "
            f"for a new request."
        )
        raise Invalid(
            "idempotency_mismatch",
            detail,
            errors=[FieldError("", detail, "header:Idempotency-Key")],
        )
    return Answer(row["status"], row["location"], row["answer"])


class _Shown(Protocol):
    @property
    def id(self) -> int: ...

    def data(self) -> dict[str, Any]: ...


def created_at(path: str) -> Callable[[_Shown], Answer]:
    """Return the function that answers 201 with a created object, which is at `path`/{id}."""
    return lambda made: Answer(201, f"{path}/{made.id}", made.data())


async def find_answer(database: Database, request: IdempotentRequest) -> Answer | None:
    """Return the first response, if it is committed and kept. Bodies are not compared."""
    row = await database.fetch_one(
        f"{_READ} and created_at > (select opsjobs_now()) - make_interval(hours => %s)",
        [request.principal, request.route, request.key, KEPT_HOURS],
    )
    if row is None or row["status"] is None:
        return None
    return Answer(row["status"], row["location"], row["answer"])


async def record(
    connection: Connection,
    request: IdempotentRequest,
    status: int,
    location: str | None,
    body: Mapping[str, Any],
) -> None:
    """Store the response; it becomes visible with the caller's commit, or never."""
    await connection.execute(
        "update idempotency_keys set status = %s, location = %s, answer = %s where principal = %s "
        "and route = %s and key = %s",
        [status, location, Jsonb(dict(body)), request.principal, request.route, request.key],
    )


def _in_progress() -> Conflict:
    detail = (
        "The first request with this Idempotency-Key is still being done: ask again in a second."
    )
    return Conflict("idempotency_in_progress", detail)


async def delete_old_keys(database: Database) -> int:
    """Delete some idempotency keys that are older than a day; return how many."""
    return len(await database.fetch(_DELETE_OLD, [DELETED_ROWS_MAX]))
