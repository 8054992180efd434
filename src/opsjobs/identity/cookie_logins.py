"""Logins of browsers, by a password or a code of one use, and their confirmation."""

from __future__ import annotations

from opsjobs.identity.logins import LoginService
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, Unauthorised
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.cookie_sessions import BrowserClient, CookieSession
from opsjobs.store.identities.session_owner import SessionOwner

PASSWORD = "password"  # noqa: S105  the name of a kind of proof
CODE = "code"


class CookieLogins:
    """Logins whose only proof is a cookie afterwards. Each begins a session of its own."""

    def __init__(self, people: IdentityStore, logins: LoginService) -> None:
        self._people = people
        self._logins = logins

    async def log_in(self, name: str, password: str, client: BrowserClient) -> str:
        """Log in with a name and a password; return the cookie. Raises as LoginService.log_in."""
        user, renewed_hash = await self._logins.verify(name, password, client.address)
        owner = SessionOwner(
            "user", user.id, user.name, user.name, password_hash=user.password_hash
        )
        return await self._people.cookies.begin(
            owner, client, how=PASSWORD, password_hash=renewed_hash
        )

    async def log_in_by_code(self, code: str, client: BrowserClient) -> str:
        """Log in with a code; return the cookie. Raises Unauthorised and TooMany."""
        owner = await self._redeem(code, client.address)
        return await self._people.cookies.begin(owner, client, how=CODE)

    async def confirm(
        self,
        session: CookieSession,
        address: str | None,
        *,
        password: str | None = None,
        code: str | None = None,
    ) -> CookieSession:
        """Prove again who the caller is, by its password or a new code of its own.

        Raises Unauthorised and TooMany as a login, Forbidden for a code or password of another.
        """
        caller = session.principal
        if password is not None:
            if caller.kind == "external":
                raise Forbidden(
                    "no_password",
                    f"{caller.name} has no password here. Confirm by a new login at the OpenID "
                    "Connect provider: open /api/v1/auth/oidc?confirm=true in the same browser.",
                )
            if caller.kind != "user":
                raise Forbidden(
                    "no_password",
                    f"{caller.name} has no password here: only local users have one. "
                    "Confirm with a code of `opsjobs console --print`.",
                )
            await self._logins.verify(caller.name, password, address)
            return await self._people.cookies.confirm(session, how=PASSWORD)
        owner = await self._redeem(code or "", address)
        if not _is_owner(caller, owner):
            detail = f"This code belongs to another caller than {caller.name}. Make one of its own."
            raise Forbidden("not_your_code", detail)
        return await self._people.cookies.confirm(session, how=CODE)

    async def _redeem(self, code: str, address: str | None) -> SessionOwner:
        await self._people.attempts.begin(None, address, user_id=None)
        owner = await self._people.cookies.redeem(code)
        if owner is None:
            await self._people.attempts.failed(None, user_id=None)
            raise Unauthorised(
                "login_failed",
                "The code is unknown, was used before, or has expired. "
                "Make a new one with `opsjobs console`.",
            )
        await self._people.attempts.succeeded(None, address)
        return owner


def _is_owner(caller: Principal, owner: SessionOwner) -> bool:
    return (caller.kind, caller.name) == (owner.thing, owner.name)
