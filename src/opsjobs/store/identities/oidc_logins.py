"""Logins that browsers have begun at the OpenID Connect provider; each is finished once."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from opsjobs.model.addresses import origin
from opsjobs.model.secret import digest
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
