"""Logins: their sessions, and how many attempts are allowed.

A session is a chain of refresh tokens, each valid once, all of which end together. Attempts are
throttled by address and name; PostgreSQL counts them before the password is checked.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from uuid import UUID

from opsjobs.clock import Clock, uuid7
from opsjobs.model.access import Principal
from opsjobs.model.addresses import origin
from opsjobs.model.errors import TooMany, Unauthorised
from opsjobs.model.grants import principal_of
from opsjobs.model.secret import digest
from opsjobs.store import audit
from opsjobs.store.identities.session_owner import (
    FORGET_SESSIONS,
    SESSIONS_MAX,
    Known,
    check_still_proven,
)
from opsjobs.store.transaction import Connection, Database

REFRESH_PREFIX = "opsr_"
REFRESH_CHARACTERS_MAX = 200

_BEGIN = """
insert into sessions (id, user_id, expires_at) values (%s, %s,
  opsjobs_now() + make_interval(secs => %s))"""

_MAKE_ROOM = """
update sessions set ended_at = opsjobs_now(), because = 'too many' where id in (
  select id from sessions where user_id = %s and ended_at is null order by created_at desc, id desc
    offset %s)"""


_GIVE = "insert into refresh_tokens (token_sha256, session_id) values (%s, %s)"

_TAKE = """
select t.session_id, t.used_at is not null as used, s.user_id, u.name,
  s.ended_at is null and s.expires_at > opsjobs_now() and u.disabled_at is null as good
from refresh_tokens t join sessions s on s.id = t.session_id join users u on u.id = s.user_id
where t.token_sha256 = %s for update of t, s"""

_END = (
    "update sessions set ended_at = opsjobs_now(), because = %s where id = %s and ended_at is "
    "null returning user_id"
)

_WHO = """
select u.name, u.grants from sessions s join users u on u.id = s.user_id
where s.id = %s and s.ended_at is null and s.expires_at > (select opsjobs_now())
  and u.disabled_at is null"""


@dataclass(frozen=True, slots=True)
class SessionLogin:
    """A running session: its user, and the refresh token to use next."""

    session: UUID
    user: str
    refresh_token: str


class LoginSessions:
    """The logins. `kept_seconds`: the lifetime of a login, however often it is refreshed."""

    def __init__(self, database: Database, clock: Clock, *, kept_seconds: float) -> None:
        self._database = database
        self._clock = clock
        self._kept_seconds = kept_seconds

    async def begin(self, user: Known, password_hash: str | None = None) -> SessionLogin:
        """Start a login; `password_hash`: the same password, hashed with today's parameters.

        Raises Unauthorised if the user was disabled, or got another password, since it was read.
        """
        session = uuid7(self._clock.now())
        async with self._database.transaction() as connection:
            await check_still_proven(connection, user.id, user.password_hash)
            await connection.execute(FORGET_SESSIONS)
            await connection.execute(_BEGIN, [session, user.id, self._kept_seconds])
            await connection.execute(_MAKE_ROOM, [user.id, SESSIONS_MAX])
            await connection.execute(
                "update users set last_login_at = opsjobs_now(), password_hash = coalesce(%s, "
                "password_hash) where id = %s",
                [password_hash, user.id],
            )
            token = await _give(connection, session)
            # The request came without a token; its user is known only now.
            with audit.acting(
                replace(audit.actor(), name=user.name, kind="user", person=user.name)
            ):
                await audit.record(connection, "user.logged_in", "user", user.id, user.name)
        return SessionLogin(session, user.name, token)

    async def refresh(self, token: str) -> SessionLogin:
        """Exchange a refresh token for the next one. Raises Unauthorised.

        A token that is used twice was stolen; either use may be the thief's, so the login ends for
        both.
        """
        stolen = False
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_TAKE, [digest(token)])).fetchone()
            if row is None or not row["good"]:
                raise _ended()
            if row["used"]:
                stolen = True
                await connection.execute(_END, ["a refresh token came twice", row["session_id"]])
                reason = "a refresh token was used a second time"
                await audit.record(
                    connection, "login.revoked", "user", row["user_id"], row["name"], reason=reason
                )
            else:
                await connection.execute(
                    "update refresh_tokens set used_at = opsjobs_now() where token_sha256 = %s",
                    [digest(token)],
                )
                await connection.execute(
                    "update sessions set last_used_at = opsjobs_now() where id = %s",
                    [row["session_id"]],
                )
                following = await _give(connection, row["session_id"])
        if stolen:
            raise Unauthorised(
                "token_reused",
                "This refresh token was used before: the login has ended. Log in again.",
            )
        return SessionLogin(row["session_id"], row["name"], following)

    async def end(self, session: UUID) -> None:
        """Log out: all tokens of this login are refused from now on."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_END, ["logged out", session])).fetchone()
            if row is not None:
                await audit.record(connection, "user.logged_out", "user", row["user_id"])

    async def end_by_token(self, token: str) -> None:
        """Log out by the login's refresh token; an unknown one ends nothing."""
        query = "select session_id from refresh_tokens where token_sha256 = %s"
        row = await self._database.fetch_one(query, [digest(token)])
        if row is not None:
            await self.end(row["session_id"])

    async def principal(self, session: UUID) -> Principal | None:
        """Return the login's user with its current rights; None if it ended or is disabled."""
        row = await self._database.fetch_one(_WHO, [session])
        return (
            None if row is None else principal_of(row["name"], "user", row["grants"], row["name"])
        )


async def _give(connection: Connection, session: UUID) -> str:
    token = REFRESH_PREFIX + secrets.token_urlsafe(32)
    await connection.execute(_GIVE, [digest(token), session])
    return token


def _ended() -> Unauthorised:
    return Unauthorised("token_invalid", "This login has ended: log in again.")


AUDITED_MAX = 500
"""Failed logins recorded per window, of all addresses; lockouts of known names always are."""
FORGOTTEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class LockoutPolicy:
    """Maximum attempts within `window_seconds`; further ones are refused for that long.

    `of_name`: for a name from one address. `of_address`: from one address. `everywhere`: for a
    name from all addresses together; a single address never reaches this, so that no client alone
    can lock out the user of a name.
    """

    of_name: int = 10
    of_address: int = 50
    window_seconds: float = 900.0
    everywhere: int = 100


_FORGET_ATTEMPTS = """
delete from login_attempts where key in (
  select key from login_attempts where until < (select opsjobs_now()) order by until limit %s
    for update skip locked)"""

# Counted first and checked afterwards: a thousand concurrent guesses pass no more often than a
# thousand sequential ones.
_COUNT = """
insert into login_attempts as a (key, n, until) values (%(key)s, 1,
  opsjobs_now() + make_interval(secs => %(window)s))
on conflict (key) do update set
  n = case when a.until < opsjobs_now() then 1 else a.n + 1 end,
  until = case when a.until < opsjobs_now() or a.n + 1 = %(limit)s + 1
    then opsjobs_now() + make_interval(secs => %(window)s) else a.until end
returning n, extract(epoch from until - opsjobs_now())::float as seconds"""

_WELL = "delete from login_attempts where key = %s"
_LESS = "update login_attempts set n = greatest(n - 1, 0) where key = %s"


class Attempts:
    """Counts login attempts in small rows, each stored for one window.

    An address never has more rows than attempts.
    """

    def __init__(self, database: Database, lock_out: LockoutPolicy) -> None:
        self._database = database
        self._lock_out = lock_out

    async def begin(self, name: str | None, address: str | None, *, user_id: int | None) -> None:
        """Count an attempt. Raises TooMany: then the password is not checked.

        `name`: None for a login by a code, or at the OpenID Connect provider, which names no user:
        it is counted by address only.
        `user_id`: that of the user who has this name, if any. Every attempt counts as failed until
        `succeeded` is called.
        """
        refused: float | None = None
        async with self._database.transaction() as connection:
            await connection.execute(_FORGET_ATTEMPTS, [FORGOTTEN_AT_ONCE])
            # Always in one order, so that two attempts never deadlock.
            counted = [(_of_address(address), self._lock_out.of_address)]
            if name is not None:
                counted += [
                    (_of_name_from(name, address), self._lock_out.of_name),
                    (_of_name(name), self._lock_out.everywhere),
                ]
            for key, limit in counted:
                values = {"key": key, "limit": limit, "window": self._lock_out.window_seconds}
                row = await (await connection.execute(_COUNT, values)).fetchone()
                assert row is not None
                if row["n"] > limit:
                    refused = float(row["seconds"])
                    if row["n"] == limit + 1:
                        await audit.record(
                            connection,
                            "login.locked",
                            "user",
                            user_id,
                            name if user_id else None,
                            reason=_why(key),
                        )
                    break
        if refused is not None:
            seconds = max(1, round(refused))
            detail = f"There were too many attempts to log in: come back in {seconds} seconds."
            raise TooMany("login_locked", detail, retry_after_seconds=seconds)

    async def succeeded(self, name: str | None, address: str | None) -> None:
        """Reset the count of the name from this address, and subtract one from the other counts."""
        async with self._database.transaction() as connection:
            await connection.execute(_LESS, [_of_address(address)])
            if name is not None:
                await connection.execute(_WELL, [_of_name_from(name, address)])
                await connection.execute(_LESS, [_of_name(name)])

    async def failed(
        self, name: str | None, *, user_id: int | None, reason: str | None = None
    ) -> None:
        """Record a failed login, within the limit of the window; `name` None: by a code.

        A name that belongs to no user may be a mistyped password, so it is not recorded. `reason`:
        of a login at the OpenID Connect provider.
        """
        async with self._database.transaction() as connection:
            values = {
                "key": "audited",
                "limit": AUDITED_MAX,
                "window": self._lock_out.window_seconds,
            }
            row = await (await connection.execute(_COUNT, values)).fetchone()
            assert row is not None
            if row["n"] <= AUDITED_MAX:
                if reason is None and name is None:
                    reason = "the code is unknown, used or expired"
                elif reason is None:
                    reason = (
                        "the password is wrong, or the user disabled"
                        if user_id
                        else "there is no such user"
                    )
                await audit.record(
                    connection,
                    "login.failed",
                    "user",
                    user_id,
                    name if user_id else None,
                    reason=reason,
                )


def _of_name(name: str) -> str:
    return "name " + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _of_name_from(name: str, address: str | None) -> str:
    return f"{_of_name(name)} from {_of_address(address)}"


def _of_address(address: str | None) -> str:
    return f"address {origin(address)}"


def _why(key: str) -> str:
    return (
        "too many attempts from one address"
        if key.startswith("address")
        else "too many attempts for one name"
    )
