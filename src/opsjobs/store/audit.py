"""The audit log as it is written: a row in the transaction of what it tells, so that one is never without the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from opsjobs.model.access import Principal
from opsjobs.store.transaction import Connection

SYSTEM = "opsjobs"
SYSTEM_KIND = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does what is being done, and from where. `kind`: of a principal, or `system` for what opsjobs does by itself."""

    name: str
    kind: str
    person: str | None = None
    address: str | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, principal: Principal, *, address: str | None = None, request_id: str | None = None) -> Actor:
        """A principal in one request."""
        return cls(principal.name, principal.kind, principal.person, address, request_id)


_SYSTEM = Actor(SYSTEM, SYSTEM_KIND)
_ACTOR: ContextVar[Actor] = ContextVar("opsjobs_actor", default=_SYSTEM)

_RECORD = """
insert into audit_log (actor, actor_kind, person, address, request_id, action, thing, thing_id, thing_name, before, after, reason)
values (%(actor)s, %(kind)s, %(person)s, %(address)s, %(request_id)s, %(action)s, %(thing)s, %(id)s, %(name)s, %(before)s,
        %(after)s, %(reason)s)"""


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """What is recorded inside, in this task and in what it starts, was done by this actor."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


def actor() -> Actor:
    """Who acts just now."""
    return _ACTOR.get()


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
    """Write down who does this, in the transaction that does it: where it cannot be written, it is not done.

    `action` is `noun.verb` as in `credential.rotated`; `before` and `after` hold no secrets, and what both have alike may be left out.
    """
    who = actor()
    values = {
        "actor": who.name,
        "kind": who.kind,
        "person": who.person,
        "address": who.address,
        "request_id": who.request_id,
        "action": action,
        "thing": thing,
        "id": None if thing_id is None else str(thing_id),
        "name": name,
        "before": None if before is None else Jsonb(dict(before)),
        "after": None if after is None else Jsonb(dict(after)),
        "reason": reason,
    }
    await connection.execute(_RECORD, values)
