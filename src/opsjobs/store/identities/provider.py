"""The OpenID Connect provider: logins that browsers have begun at it, and its people.

Each login is finished once. The people who have logged in are known by their sessions.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from opsjobs.model.addresses import origin
from opsjobs.model.execution import moment
from opsjobs.model.secret import digest
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.transaction import Database

LOGIN_COOKIE_PREFIX = "opsl_"
LOGIN_SECONDS = 300
UNFINISHED_MAX = 100
"""Unfinished logins from one address at a time; a further one replaces the oldest."""
STATE_CHARACTERS_MAX = 200

_FORGET = """
delete from oidc_logins where state_sha256 in (
  select state_sha256 from oidc_logins where expires_at < (select opsjobs_now())
  order by expires_at limit 1000)"""

_MAKE_ROOM = """
delete from oidc_logins where state_sha256 in (
  select state_sha256 from oidc_logins where origin = %s order by created_at desc offset %s)"""

_ADD = """
insert into oidc_logins (state_sha256, browser_sha256, path, confirms, session_id, origin,
  expires_at)
values (%(state)s, %(browser)s, %(path)s, %(confirms)s, %(session_id)s, %(origin)s,
  opsjobs_now() + make_interval(secs => %(seconds)s))"""

_LOCK = "select browser_sha256 from oidc_logins where state_sha256 = %s for update"

_TAKE = """
delete from oidc_logins where state_sha256 = %s
returning path, confirms, session_id, created_at, expires_at > (select opsjobs_now()) as good"""


class NotTaken(StrEnum):
    """Reasons why the answer of the provider belongs to no login."""

    UNKNOWN = "unknown"
    """The state is unknown, was used before, or has expired."""
    OTHER_BROWSER = "other browser"
    """Another browser began the login, or this one has lost its cookie."""


@dataclass(frozen=True, slots=True)
class BegunLogin:
    """A login that waits for the answer of the provider."""

    path: str
    """The page of the console to come back to."""
    confirms: bool
    """True if it proves again who is there, in the same session."""
    session_id: UUID | None
    created_at: datetime


class OidcLoginStore:
    """The logins in progress. State and cookie are stored by their hashes only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self,
        state: str,
        browser: str,
        path: str,
        address: str | None,
        *,
        session_id: UUID | None,
        confirms: bool,
    ) -> None:
        """Record that a browser begins a login, which it must finish in LOGIN_SECONDS."""
        values = {
            "state": digest(state),
            "browser": digest(browser),
            "path": path,
            "confirms": confirms,
            "session_id": session_id,
            "origin": origin(address),
            "seconds": LOGIN_SECONDS,
        }
        async with self._database.transaction() as connection:
            await connection.execute(_FORGET)
            await connection.execute(_MAKE_ROOM, [values["origin"], UNFINISHED_MAX - 1])
            await connection.execute(_ADD, values)

    async def take(self, state: str, browser: str) -> BegunLogin | NotTaken:
        """Return the login of this state and end it; another browser ends nothing."""
        if not state or len(state) > STATE_CHARACTERS_MAX:
            return NotTaken.UNKNOWN
        async with self._database.transaction() as connection:
            key = digest(state)
            found = await (await connection.execute(_LOCK, [key])).fetchone()
            if found is None:
                return NotTaken.UNKNOWN
            if not secrets.compare_digest(digest(browser), bytes(found["browser_sha256"])):
                return NotTaken.OTHER_BROWSER
            row = await (await connection.execute(_TAKE, [key])).fetchone()
            assert row is not None, "the row is locked"
            good = row.pop("good")
        return BegunLogin(**row) if good else NotTaken.UNKNOWN


# The latest claims of a person count, as in sessions. A person has no id of its own: it is made of
# the issuer's identifier.
PEOPLE = Listing(
    """
select ('x' || left(md5(subject), 15))::bit(60)::bigint as id, external_name as name, display_name,
  email, issuer, subject, grants, logins, last_seen_at
from (
  select distinct on (subject) issuer, subject, external_name, display_name, email, grants,
    count(*) filter (where ended_at is null and expires_at > (select opsjobs_now())
      and last_used_at > (select opsjobs_now()) - make_interval(secs => %(idle)s))
      over (partition by subject) as logins,
    max(last_used_at) over (partition by subject) as last_seen_at
  from sessions where issuer = %(issuer)s
  order by subject, issued_at desc nulls last, created_at desc) p""",
    {
        "name": ListColumn("text", sort=True, natural=True),
        "last_seen_at": ListColumn("moment", sort=True),
    },
    default_sort="name",
    keyed=False,
    search=("name", "display_name", "email"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the provider, with the rights of its latest login."""

    name: str
    display_name: str | None
    email: str | None
    issuer: str
    subject: str
    """The person's identifier at the issuer."""
    grants: Sequence[Mapping[str, Any]]
    """As a session keeps them: each with the roles that it came from."""
    logins: int
    """The number of its sessions that have not ended."""
    last_seen_at: datetime

    def data(self) -> dict[str, Any]:
        """Return an item of GET /external-people."""
        return {
            "name": self.name,
            "display_name": self.display_name,
            "email": self.email,
            "issuer": self.issuer,
            "subject": self.subject,
            "grants": [shown for grant in self.grants for shown in _render_grant(grant)],
            "logins": self.logins,
            "last_seen_at": moment(self.last_seen_at),
        }


def _render_grant(grant: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the roles of a grant; its permissions, if it came from none."""
    roles, scope = grant["roles"], grant["scope"]
    if roles:
        return [{"role": role, "permissions": [], "scope": scope} for role in roles]
    return [{"role": None, "permissions": grant["permissions"], "scope": scope}]


class People:
    """The people of `issuer`, None if there is no provider. `idle_seconds`: as of sessions."""

    def __init__(self, database: Database, *, issuer: str | None, idle_seconds: float) -> None:
        self._database = database
        self._values = {"issuer": issuer, "idle": idle_seconds}

    async def list(self, request: PageRequest) -> Page[Person]:
        """Return people whose sessions are still kept: a day longer than the last one lasts."""
        page = await PEOPLE.page(self._database, request, self._values)
        return page.map(_person)


def _person(row: Mapping[str, Any]) -> Person:
    return Person(**{name: value for name, value in row.items() if name != "id"})
