"""Write the audit log.

Each row is written in the transaction of the change it records, so neither exists without the
other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypedDict

from psycopg.types.json import Jsonb

from opsjobs.model.access import Principal, Requester
from opsjobs.store.transaction import Connection, Database

SYSTEM = "opsjobs"
SYSTEM_KIND = "system"
# A change that is larger than this is recorded only by its size and hash.
CHANGE_BYTES = 16 << 10
# Times, and fields that are derived from the others: left out of `before` and `after`.
_LEFT_OUT = frozenset({"id", "uuid", "status", "created_at", "updated_at", "created_by"})


@dataclass(frozen=True, slots=True)
class Actor:
    """The principal that acts, and the address it acts from.

    `kind` is the kind of a principal, or `system` for actions of opsjobs itself.
    """

    name: str
    kind: str
    person: str | None = None
    address: str | None = None
    request_id: str | None = None
    makers: tuple[str, ...] = ()

    @classmethod
    def from_principal(
        cls, principal: Principal, *, address: str | None = None, request_id: str | None = None
    ) -> Actor:
        """Return the actor for a principal in one request."""
        return cls(
            principal.name, principal.kind, principal.person, address, request_id, principal.makers
        )


_SYSTEM = Actor(SYSTEM, SYSTEM_KIND)
_ACTOR: ContextVar[Actor] = ContextVar("opsjobs_actor", default=_SYSTEM)

_RECORD = """
insert into audit_log (actor, actor_kind, person, address, request_id, action, thing, thing_id,
  thing_name, before, after, reason)
values (%(actor)s, %(kind)s, %(person)s, %(address)s, %(request_id)s, %(action)s, %(thing)s, %(id)s,
  %(name)s, %(before)s,
        %(after)s, %(reason)s)"""


class AuditChange(TypedDict):
    """An object before and after a change."""

    before: dict[str, Any]
    after: dict[str, Any]


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Attribute audit records inside, in this task and the tasks it starts, to this actor."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def actor() -> Actor:
    """Return the current actor."""
    return _ACTOR.get()


def requester() -> Requester | None:
    """Return the current actor with the person behind it; None if opsjobs acts on its own."""
    who = actor()
    return (
        None if who.kind == SYSTEM_KIND else Requester(who.name, who.kind, who.person, who.makers)
    )


def written_by() -> Jsonb | None:
    """Return the requester as stored with the objects it writes, which it may not approve."""
    who = requester()
    return None if who is None else Jsonb(who.data())


async def record(
    connection: Connection,
    action: str,
    thing: str,
    thing_id: int | str | None,
    name: str | None = None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Record the current actor and the action, in the transaction that performs the action.

    If the record cannot be written, the action is not performed. `action` is `noun.verb`, as in
    `credential.rotated`. `before` and `after` must not contain secrets, and may leave out equal
    fields. Of a change of more than 16 KiB, only the size and the hash are stored.
    """
    await connection.execute(
        _RECORD, _row(action, thing, thing_id, name, before=before, after=after, reason=reason)
    )


async def note(
    database: Database,
    action: str,
    thing: str,
    thing_id: int | str | None,
    name: str | None = None,
    **change: Any,
) -> None:
    """Record an action that changes nothing in PostgreSQL; call it before the action.

    `change`: `before`, `after` and `reason`, as of `record`.
    """
    async with database.transaction() as connection:
        await record(connection, action, thing, thing_id, name, **change)


async def record_many(
    connection: Connection,
    action: str,
    thing: str,
    things: Iterable[tuple[int | str, str, Mapping[str, Any]]],
) -> None:
    """Record many objects that were created at once, each with its id, name and new state."""
    rows = [_row(action, thing, thing_id, name, after=after) for thing_id, name, after in things]
    async with connection.cursor() as cursor:
        await cursor.executemany(_RECORD, rows)


def _row(
    action: str,
    thing: str,
    thing_id: int | str | None,
    name: str | None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    who = actor()
    return {
        "actor": who.name,
        "kind": who.kind,
        "person": who.person,
        "address": who.address,
        "request_id": who.request_id,
        "action": action,
        "thing": thing,
        "id": None if thing_id is None else str(thing_id),
        "name": name,
        "before": _to_json(before),
        "after": _to_json(after),
        "reason": reason,
    }


def describe(thing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of an object for its audit row, without times and derived fields."""
    return {name: value for name, value in thing.items() if name not in _LEFT_OUT}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> AuditChange:
    """Return `before` and `after` for `record`: the fields in which two descriptions differ.

    >>> changes({"port": 22, "zone": "a"}, {"port": 2222, "zone": "a"})
    {'before': {'port': 22}, 'after': {'port': 2222}}
    """
    before, after = describe(old), describe(new)
    different = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {
        "before": {name: before[name] for name in different if name in before},
        "after": {name: after[name] for name in different if name in after},
    }


def _to_json(change: Mapping[str, Any] | None) -> Jsonb | None:
    if change is None:
        return None
    text = json.dumps(change)
    if len(text) > CHANGE_BYTES:
        return Jsonb({"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return Jsonb(dict(change))
