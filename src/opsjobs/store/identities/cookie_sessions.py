"""Sessions of browsers: a cookie is their only proof, and a code of one use may begin one.

A session belongs to a user, to an API key, or to a person of the OpenID Connect provider, with the
rights that the provider gave. Cookies and codes are stored by their hashes only.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from opsjobs.clock import Clock, uuid7
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, NotFound, Unauthorised
from opsjobs.model.execution import moment
from opsjobs.model.grants import principal_of
from opsjobs.model.identity import Identity
from opsjobs.model.secret import digest
from opsjobs.store import audit
from opsjobs.store.identities.session_owner import (
    CONFIRMED_SECONDS,
    FORGET_SESSIONS,
    SESSIONS_MAX,
    ExternalPerson,
    SessionOwner,
    check_still_proven,
)
from opsjobs.store.transaction import Connection, Database

COOKIE_PREFIX = "opss_"
COOKIE_CHARACTERS_MAX = 200
CODE_SECONDS = 60
CODES_MAX = 10
"""Unused codes of one user or API key at a time; a further one replaces the oldest."""
CODE_CHARACTERS_MAX = 200
AGENT_CHARACTERS_MAX = 200
OIDC = "oidc"
"""The proof of a login at the OpenID Connect provider, in the audit log."""
USE_NOTED_EVERY_SECONDS = 60.0
"""A use is noted once in this time, or in a tenth of the idle time if that is shorter."""

_USER = "select id, name, name as person from users where name = %s and disabled_at is null"
_USER_BY_ID = """
select id, name, name as person, password_hash from users where id = %s and disabled_at is null
"""
_KEY = "select id, name, person, token_sha256 as key_sha256 from api_keys where name = %s"
_KEY_BY_HASH = (
    "select id, name, person, token_sha256 as key_sha256 from api_keys where token_sha256 = %s"
)

_BEGIN = """
insert into sessions (id, user_id, key_sha256, issuer, subject, external_name, display_name, email,
  roles, grants, issued_at, logout_url, cookie_sha256, confirmed_at, expires_at, address, agent)
values (%(id)s, %(user_id)s, %(key_sha256)s, %(issuer)s, %(subject)s, %(external_name)s,
  %(display_name)s, %(email)s, %(roles)s, %(grants)s, %(issued_at)s, %(logout_url)s, %(cookie)s,
  opsjobs_now() - make_interval(secs => %(proof_age)s),
  opsjobs_now() + make_interval(secs => %(kept)s), %(address)s, %(agent)s)"""

_MAKE_ROOM = """
update sessions set ended_at = opsjobs_now(), because = 'too many' where id in (
  select id from sessions
  where (user_id = %(user_id)s or key_sha256 = %(key_sha256)s or external_name = %(external_name)s)
    and ended_at is null
  order by created_at desc, id desc offset %(most)s)"""

_FIND = """
select s.id, s.created_at, s.expires_at, s.confirmed_at, s.key_sha256, u.name,
  coalesce(u.grants, s.grants) as grants, s.issuer, s.subject, s.external_name, s.display_name,
  s.email, s.roles, s.issued_at, s.logout_url,
  s.confirmed_at > (select opsjobs_now()) - make_interval(secs => %(confirmed)s) as is_confirmed,
  s.last_used_at < (select opsjobs_now()) - make_interval(secs => %(noted)s) as unnoted
from sessions s left join users u on u.id = s.user_id and u.disabled_at is null
where s.cookie_sha256 = %(cookie)s and s.ended_at is null
  and s.expires_at > (select opsjobs_now())
  and s.last_used_at > (select opsjobs_now()) - make_interval(secs => %(idle)s)
  and (s.user_id is null or u.id is not null) and (s.subject is null or s.issuer = %(issuer)s)"""

_FACTS = ("id", "created_at", "expires_at", "confirmed_at", "is_confirmed")

_USED = "update sessions set last_used_at = opsjobs_now() where id = %s returning id"

_CONFIRM = """
update sessions set confirmed_at = opsjobs_now() where id = %s and ended_at is null
returning confirmed_at"""

# The latest claims of a person hold in all sessions of that person, also in those by an older name.
_REFRESH_PERSON = """
update sessions set external_name = %(external_name)s, display_name = %(display_name)s,
  email = %(email)s, roles = %(roles)s, grants = %(grants)s, issued_at = %(issued_at)s
where issuer = %(issuer)s and subject = %(subject)s
  and ended_at is null and (issued_at is null or issued_at <= %(issued_at)s)"""

# Sessions with later claims stay.
_END_PERSON = """
update sessions set ended_at = opsjobs_now(), because = 'no permission'
where issuer = %(issuer)s and subject = %(subject)s and ended_at is null
  and (issued_at is null or issued_at <= %(issued_at)s) returning id"""

_CONFIRM_PERSON = """
update sessions set confirmed_at = opsjobs_now()
where id = %(session)s and ended_at is null and issuer = %(issuer)s and subject = %(subject)s
returning id"""

_END = """
with ended as (
  update sessions set ended_at = opsjobs_now(), because = 'logged out'
  where {chosen} and ended_at is null returning user_id, key_sha256, subject, external_name
)
select case when e.subject is not null then 'external' when u.id is null then 'api_key'
    else 'user' end as thing,
  coalesce(u.id::text, k.id::text, e.subject) as id,
  coalesce(u.name, k.name, e.external_name) as name,
  coalesce(u.name, k.person, e.external_name) as person
from ended e left join users u on u.id = e.user_id
  left join api_keys k on k.token_sha256 = e.key_sha256"""

_END_BY_COOKIE = _END.format(chosen="cookie_sha256 = %s")
_END_BY_ID = _END.format(chosen="id = %s")

_FORGET_CODES = """
delete from login_codes where expires_at < (select opsjobs_now()) or code_sha256 in (
  select code_sha256 from login_codes where user_id = %(user_id)s or key_sha256 = %(key_sha256)s
  order by expires_at desc offset %(most)s)"""

_ADD_CODE = """
insert into login_codes (code_sha256, user_id, key_sha256, expires_at)
values (%(code)s, %(user_id)s, %(key_sha256)s,
  opsjobs_now() + make_interval(secs => %(seconds)s))"""

_TAKE_CODE = """
delete from login_codes where code_sha256 = %s
returning user_id, key_sha256, expires_at > (select opsjobs_now()) as good"""

_RUNNING_OF = """
from sessions s left join users u on u.id = s.user_id
  left join api_keys k on k.token_sha256 = s.key_sha256
where s.ended_at is null and s.expires_at > (select opsjobs_now())
  and (s.cookie_sha256 is null
    or s.last_used_at > (select opsjobs_now()) - make_interval(secs => %(idle)s))
  and case %(kind)s when 'user' then u.name = %(name)s when 'api_key' then k.name = %(name)s
    when 'external' then s.external_name = %(name)s end"""

_LIST = f"""
select s.id, s.cookie_sha256 is not null as browser, s.created_at, s.last_used_at, s.expires_at,
  s.address, s.agent {_RUNNING_OF} order by s.last_used_at desc, s.id desc"""

_END_THESE = f"""
with chosen as (
  select s.id, coalesce(u.id::text, k.id::text, s.subject) as owner_id {_RUNNING_OF} and {{chosen}}
)
update sessions s set ended_at = opsjobs_now(), because = 'ended by hand'
from chosen c where s.id = c.id and s.ended_at is null returning c.owner_id"""
_END_LOGIN = _END_THESE.format(chosen="s.id = %(id)s")
_END_OTHERS = _END_THESE.format(chosen="s.id is distinct from %(kept)s")

_HAS_USERS = "select exists (select from users where disabled_at is null) as found"


@dataclass(frozen=True, slots=True)
class CookieSession:
    """A running session of a browser, with the current rights of its owner."""

    id: UUID
    principal: Principal
    created_at: datetime
    expires_at: datetime
    confirmed_at: datetime
    is_confirmed: bool
    """True if the last proof is so fresh that sensitive changes need no other one."""
    external: ExternalPerson | None = None

    @property
    def confirmed_until(self) -> datetime:
        """The time from which sensitive changes need a new proof."""
        return self.confirmed_at + timedelta(seconds=CONFIRMED_SECONDS)


@dataclass(frozen=True, slots=True)
class BrowserClient:
    """The client that logs in, as its session is listed."""

    address: str | None
    agent: str | None


@dataclass(frozen=True, slots=True)
class LoginView:
    """A running login of an identity: `browser` with a cookie, else with tokens."""

    id: UUID
    browser: bool
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    address: str | None
    agent: str | None

    def data(self) -> dict[str, Any]:
        """Return an item of GET /auth/sessions."""
        return {
            "id": str(self.id),
            "kind": "browser" if self.browser else "tokens",
            "created_at": moment(self.created_at),
            "last_used_at": moment(self.last_used_at),
            "expires_at": moment(self.expires_at),
            "address": self.address,
            "agent": self.agent,
        }


class CookieSessions:
    """The sessions of browsers.

    `kept_seconds`: the lifetime of a session. `idle_seconds`: how long it lasts unused.
    `key_principal`: returns the current rights of the API key with this hash of its token.
    `issuer`: the OpenID Connect provider whose people may have sessions, for at most
    `external_seconds`; None if there is none.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        key_principal: Callable[[bytes], Awaitable[Principal | None]],
        *,
        kept_seconds: float,
        idle_seconds: float,
        issuer: str | None = None,
        external_seconds: float | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._key_principal = key_principal
        self.kept_seconds = kept_seconds
        self.idle_seconds = idle_seconds
        self._noted_seconds = min(USE_NOTED_EVERY_SECONDS, idle_seconds / 10)
        self._issuer = issuer
        self.external_seconds = min(kept_seconds, external_seconds or kept_seconds)

    async def begin(
        self,
        owner: SessionOwner,
        client: BrowserClient,
        *,
        how: str,
        password_hash: str | None = None,
    ) -> str:
        """Start a session and return its cookie, which nothing else has.

        `how`: the proof, for the audit log. `password_hash`: the same password, hashed with today's
        parameters. Raises Unauthorised if the user was disabled, or got another password, since
        its proof.
        """
        cookie = COOKIE_PREFIX + secrets.token_urlsafe(32)
        values = {
            **owner.values(),
            "id": uuid7(self._clock.now()),
            "cookie": digest(cookie),
            "kept": self.kept_seconds if owner.external is None else self.external_seconds,
            "proof_age": owner.proof_age_seconds,
            "address": client.address,
            "agent": client.agent and client.agent[:AGENT_CHARACTERS_MAX],
            "most": SESSIONS_MAX,
        }
        async with self._database.transaction() as connection:
            if isinstance(owner.id, int) and owner.thing == "user":
                await check_still_proven(connection, owner.id, owner.password_hash or "")
            await connection.execute(FORGET_SESSIONS)
            await connection.execute(_BEGIN, values)
            if owner.external is not None:
                await connection.execute(_REFRESH_PERSON, values)
            await connection.execute(_MAKE_ROOM, values)
            if owner.thing == "user":
                await connection.execute(
                    "update users set last_login_at = opsjobs_now(), password_hash = "
                    "coalesce(%s, password_hash) where id = %s",
                    [password_hash, owner.id],
                )
            await _record_by(connection, owner, f"{owner.thing}.logged_in", how)
        return cookie

    async def find(self, cookie: str, *, used: bool = True) -> CookieSession:
        """Return the session of a cookie. Raises Unauthorised if it is unknown or has ended.

        `used`: the caller uses it now, so that it does not end as idle.
        """
        if not cookie.startswith(COOKIE_PREFIX) or len(cookie) > COOKIE_CHARACTERS_MAX:
            raise _ended()
        values = {
            "cookie": digest(cookie),
            "noted": self._noted_seconds,
            "idle": self.idle_seconds,
            "confirmed": CONFIRMED_SECONDS,
            "issuer": self._issuer,
        }
        row = await self._database.fetch_one(_FIND, values)
        if row is None:
            raise _ended()
        external = None if row["subject"] is None else ExternalPerson.of_session(row)
        principal = await self._principal(row) if external is None else external.principal
        if principal is None:
            raise _ended()
        if used and row["unnoted"]:
            # One write per minute and session at the most, not per request.
            await self._database.fetch(_USED, [row["id"]])
        facts = {name: row[name] for name in _FACTS}
        return CookieSession(principal=principal, external=external, **facts)

    async def _principal(self, row: Mapping[str, Any]) -> Principal | None:
        if row["key_sha256"] is not None:
            return await self._key_principal(row["key_sha256"])
        return principal_of(row["name"], "user", row["grants"], row["name"])

    async def confirm(self, session: CookieSession, *, how: str) -> CookieSession:
        """Record that the caller has proven again who it is. Raises Unauthorised if it ended."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_CONFIRM, [session.id])).fetchone()
            if row is None:
                raise _ended()
            await audit.record(connection, "login.confirmed", "login", str(session.id), reason=how)
        return replace(session, confirmed_at=row["confirmed_at"], is_confirmed=True)

    async def confirm_person(self, session: UUID, person: ExternalPerson) -> bool:
        """Record that the person of a session has logged in again at the provider.

        Return False if the session is that of another person, or has ended.
        """
        values = {**person.values(), "session": session}
        owner = SessionOwner.of_person(person)
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_CONFIRM_PERSON, values)).fetchone()
            if row is None:
                return False
            await connection.execute(_REFRESH_PERSON, values)
            acting = replace(audit.actor(), name=owner.name, kind=owner.thing, person=owner.person)
            with audit.acting(acting):
                await audit.record(
                    connection, "login.confirmed", "login", str(session), reason=OIDC
                )
        return True

    async def end_person(self, person: ExternalPerson) -> None:
        """End all sessions of a person whose claims give no permission any more."""
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(_END_PERSON, person.values())).fetchall()
            if rows:
                reason = f"{len(rows)} sessions: the claims give no permission"
                owner = SessionOwner.of_person(person)
                await _record_by(connection, owner, "login.ended", reason)

    async def end(self, cookie: str) -> None:
        """End the session of a cookie; an unknown one ends nothing."""
        if len(cookie) <= COOKIE_CHARACTERS_MAX:
            await self._end(_END_BY_COOKIE, digest(cookie))

    async def end_replaced(self, session: UUID) -> None:
        """End the session that a new login in the same browser replaces."""
        await self._end(_END_BY_ID, session)

    async def _end(self, statement: str, key: bytes | UUID) -> None:
        async with self._database.transaction() as connection:
            row = await (await connection.execute(statement, [key])).fetchone()
            if row is not None and row["id"] is not None:
                owner = SessionOwner(**row)
                await _record_by(connection, owner, f"{owner.thing}.logged_out", None)

    async def create_code(self, principal: Principal) -> str:
        """Return a code that begins one session of this user or API key, within CODE_SECONDS.

        Raises Forbidden for other callers.
        """
        code = secrets.token_urlsafe(32)
        async with self._database.transaction() as connection:
            owner = await _owner_of(connection, principal)
            values = {
                **owner.values(),
                "code": digest(code),
                "seconds": CODE_SECONDS,
                "most": CODES_MAX - 1,
            }
            await connection.execute(_FORGET_CODES, values)
            await connection.execute(_ADD_CODE, values)
            await audit.record(connection, "login.code_created", owner.thing, owner.id, owner.name)
        return code

    async def redeem(self, code: str) -> SessionOwner | None:
        """Use up a code and return its owner; None if it is unknown or expired, or its owner is."""
        if len(code) > CODE_CHARACTERS_MAX:
            return None
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_TAKE_CODE, [digest(code)])).fetchone()
            if row is None or not row["good"]:
                return None
            if row["key_sha256"] is None:
                return await _owner(connection, "user", _USER_BY_ID, row["user_id"])
            owner = await _owner(connection, "api_key", _KEY_BY_HASH, row["key_sha256"])
        return owner if owner and await self._key_principal(row["key_sha256"]) else None

    async def list(self, identity: Identity) -> Sequence[LoginView]:
        """Return the logins of an identity that have not ended, the last used one first."""
        values = self._values(identity)
        return [LoginView(**row) for row in await self._database.fetch(_LIST, values)]

    async def end_login(self, id: UUID, identity: Identity) -> None:
        """End one login of an identity. Raises NotFound if it has ended or is another's."""
        values = {"id": id, **self._values(identity)}
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_END_LOGIN, values)).fetchone()
            if row is None:
                raise NotFound.for_ref("session", id)
            await audit.record(
                connection, "login.ended", identity.kind, row["owner_id"], identity.name,
                reason=f"session {id}",
            )  # fmt: skip

    async def end_others(self, kept: UUID | None, identity: Identity) -> int:
        """End all logins of an identity but one; return how many."""
        values = {"kept": kept, **self._values(identity)}
        async with self._database.transaction() as connection:
            rows = await (await connection.execute(_END_OTHERS, values)).fetchall()
            if rows:
                await audit.record(
                    connection, "login.ended", identity.kind, rows[0]["owner_id"], identity.name,
                    reason=f"{len(rows)} sessions",
                )  # fmt: skip
        return len(rows)

    def _values(self, identity: Identity) -> dict[str, object]:
        return {"name": identity.name, "kind": identity.kind, "idle": self.idle_seconds}

    async def has_users(self) -> bool:
        """Return True if there is a user who can log in with a password."""
        row = await self._database.fetch_one(_HAS_USERS)
        return row is not None and bool(row["found"])


async def _owner_of(connection: Connection, principal: Principal) -> SessionOwner:
    owner = None
    if principal.kind == "user":
        owner = await _owner(connection, "user", _USER, principal.name)
    elif principal.kind == "api_key":
        owner = await _owner(connection, "api_key", _KEY, principal.name)
    if owner is None:
        detail = (
            f"{principal.name} is of the kind {principal.kind}: only users and API keys get a "
            "code. Log in to the console in another way."
        )
        raise Forbidden("no_code", detail)
    return owner


async def _owner(
    connection: Connection, thing: Literal["user", "api_key"], query: str, ref: object
) -> SessionOwner | None:
    row = await (await connection.execute(query, [ref])).fetchone()
    return None if row is None else SessionOwner(thing=thing, **row)


async def _record_by(
    connection: Connection, owner: SessionOwner, action: str, reason: str | None
) -> None:
    """Record an action of the owner, whose request came without a token."""
    acting = replace(audit.actor(), name=owner.name, kind=owner.thing, person=owner.person)
    with audit.acting(acting):
        await audit.record(connection, action, owner.thing, owner.id, owner.name, reason=reason)


def _ended() -> Unauthorised:
    return Unauthorised("session_ended", "This session has ended: log in again.")
