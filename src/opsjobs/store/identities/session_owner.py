"""Owners of sessions: users, API keys, and people of the OpenID Connect provider.

Also what the logins with tokens and those with cookies have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from opsjobs.model.access import Grant, Principal, Scope
from opsjobs.model.errors import Unauthorised
from opsjobs.model.grants import scope_text
from opsjobs.store.transaction import Connection

SESSIONS_MAX = 50
"""Logins of one user at a time; a further one ends the oldest."""
CONFIRMED_SECONDS = 600
"""Time after a login, or a confirmation, in which sensitive changes need no new proof."""

# Ended sessions are kept for a day, in which the reuse of their tokens is reported as such.
FORGET_SESSIONS = """
delete from sessions where id in (
  select id from sessions where coalesce(ended_at,
    expires_at) < (select opsjobs_now()) - interval '1 day' limit 100)"""

_STILL_PROVEN = """
select from users where id = %s and password_hash = %s and disabled_at is null for update"""


@dataclass(frozen=True, slots=True)
class Known:
    """The data of a user that a login needs."""

    id: int
    uuid: UUID
    name: str
    password_hash: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class ExternalPerson:
    """A person that the OpenID Connect provider has logged in, with the rights of the claims."""

    issuer: str
    subject: str
    """The person's identifier at the issuer."""
    principal: Principal
    display_name: str | None = None
    email: str | None = None
    logout_url: str | None = None
    """The address at which a browser also logs out at the issuer."""
    proof_age_seconds: float | None = field(default=None, compare=False)
    """The age of the person's last proof; None if the issuer does not state it."""

    @classmethod
    def of_session(cls, row: Mapping[str, Any]) -> ExternalPerson:
        """Return the person of a session's row."""
        name = row["external_name"]
        grants, roles = _read_grants(row["grants"]), tuple(row["roles"])
        principal = Principal(name, "external", grants, roles, name, issued_at=row["issued_at"])
        facts = {key: row[key] for key in ("display_name", "email", "logout_url")}
        return cls(row["issuer"], row["subject"], principal, **facts)

    def values(self) -> dict[str, Any]:
        """Return the columns of the person."""
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "external_name": self.principal.name,
            "display_name": self.display_name,
            "email": self.email,
            "roles": list(self.principal.roles),
            "grants": Jsonb(_dump_grants(self.principal.grants)),
            "issued_at": self.principal.issued_at,
            "logout_url": self.logout_url,
        }


_NO_PERSON = dict.fromkeys(
    (
        *("issuer", "subject", "external_name", "display_name", "email", "roles", "grants"),
        *("issued_at", "logout_url"),
    )
)


@dataclass(frozen=True, slots=True)
class SessionOwner:
    """The user, the API key, or the person of the provider that a session belongs to."""

    thing: Literal["user", "api_key", "external"]
    id: int | str
    """The identifier at the issuer, for a person of the provider."""
    name: str
    person: str | None
    key_sha256: bytes | None = None
    password_hash: str | None = field(default=None, repr=False)
    """That of a user when it proved who it is."""
    external: ExternalPerson | None = None

    @classmethod
    def of_person(cls, person: ExternalPerson) -> SessionOwner:
        """Return the owner for a person of the provider."""
        name = person.principal.name
        return cls(thing="external", id=person.subject, name=name, person=name, external=person)

    def values(self) -> dict[str, Any]:
        """Return the columns that name the owner."""
        return {
            "user_id": self.id if self.thing == "user" else None,
            "key_sha256": self.key_sha256,
            **(_NO_PERSON if self.external is None else self.external.values()),
        }

    @property
    def proof_age_seconds(self) -> float:
        """The age of the owner's last proof; too high if that is unknown."""
        if self.external is None:
            return 0.0
        age = self.external.proof_age_seconds
        return CONFIRMED_SECONDS if age is None else min(age, CONFIRMED_SECONDS)


def _dump_grants(grants: Iterable[Grant]) -> list[dict[str, Any]]:
    """Return grants with the roles that they came from: a role counts within its scope only."""
    return [
        {
            "permissions": sorted(grant.permissions),
            "scope": scope_text(grant.scope),
            "roles": list(grant.roles),
        }
        for grant in grants
    ]


def _read_grants(kept: Iterable[Mapping[str, Any]]) -> tuple[Grant, ...]:
    return tuple(
        Grant(frozenset(one["permissions"]), Scope.parse(one["scope"]), tuple(one["roles"]))
        for one in kept
    )


async def check_still_proven(connection: Connection, user_id: int, password_hash: str) -> None:
    """Lock a user until the end of the transaction, so that what ends its logins waits.

    Raises Unauthorised if it is disabled or gone, or no longer has this hash of its password.
    """
    found = await connection.execute(_STILL_PROVEN, [user_id, password_hash])
    if await found.fetchone() is None:
        raise Unauthorised(
            "login_failed",
            "The user was changed during this login: it is disabled or has another password. "
            "Log in again.",
        )
