"""Throttle logins by address and name; PostgreSQL counts before the password is checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from opsjobs.model.addresses import origin
from opsjobs.model.errors import TooMany
from opsjobs.store import audit
from opsjobs.store.transaction import Database

AUDITED_MAX = 500
"""Failed logins recorded per window, of all addresses; lockouts of known names always are."""
FORGOTTEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class LockoutPolicy:
    """The numbers of attempts within `window_seconds`; further ones are refused that long.

    `of_name`: for a name from one address. `of_address`: from one address. `everywhere`: for a
    name from all addresses together; a single address never reaches this, so that no client alone
    can lock out the user of a name.
    """

    of_name: int = 10
    of_address: int = 50
    window_seconds: float = 900.0
    everywhere: int = 100


_FORGET = """
delete from login_attempts where key in (
  select key from login_attempts where until < (select opsjobs_now()) order by until limit %s for update skip locked)"""

# Counted first and checked afterwards: of a thousand concurrent guesses no more pass than of a
# thousand in a row.
_COUNT = """
insert into login_attempts as a (key, n, until) values (%(key)s, 1, opsjobs_now() + make_interval(secs => %(window)s))
on conflict (key) do update set
  n = case when a.until < opsjobs_now() then 1 else a.n + 1 end,
  until = case when a.until < opsjobs_now() or a.n + 1 = %(limit)s + 1
    then opsjobs_now() + make_interval(secs => %(window)s) else a.until end
returning n, extract(epoch from until - opsjobs_now())::float as seconds"""

_WELL = "delete from login_attempts where key = %s"
_LESS = "update login_attempts set n = greatest(n - 1, 0) where key = %s"


class Attempts:
    """Counts login attempts in small rows, each stored for one window.

    An address has no more rows than it makes attempts.
    """

    def __init__(self, database: Database, lock_out: LockoutPolicy) -> None:
        self._database = database
        self._lock_out = lock_out

    async def begin(self, name: str, address: str | None, *, user_id: int | None) -> None:
        """Count an attempt. Raises TooMany: then the password is not checked.

        `user_id`: that of the user who has this name, if any. Every attempt counts as failed until
        `succeeded` is called.
        """
        refused: float | None = None
        async with self._database.transaction() as connection:
            await connection.execute(_FORGET, [FORGOTTEN_AT_ONCE])
            # Always in one order, so that two attempts never deadlock.
            for key, limit in (
                (_of_address(address), self._lock_out.of_address),
                (_of_name_from(name, address), self._lock_out.of_name),
                (_of_name(name), self._lock_out.everywhere),
            ):
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

    async def succeeded(self, name: str, address: str | None) -> None:
        """Reset the count of the name from this address, and take one from the other counts."""
        async with self._database.transaction() as connection:
            await connection.execute(_LESS, [_of_address(address)])
            await connection.execute(_WELL, [_of_name_from(name, address)])
            await connection.execute(_LESS, [_of_name(name)])

    async def failed(self, name: str, *, user_id: int | None) -> None:
        """Record a failed login, within the limit of the window.

        A name that no user has may be a password: it is not written.
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
