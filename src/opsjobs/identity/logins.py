"""Log in with a name and password, or a code; refresh, confirm, log out.

The proof afterwards is a pair of tokens, or the cookie of a browser.
"""

from __future__ import annotations

from dataclasses import dataclass

from opsjobs.identity.jws import UnverifiedToken
from opsjobs.identity.passwords import Passwords
from opsjobs.identity.tokens import OwnTokens
from opsjobs.model.access import Principal
from opsjobs.model.errors import Forbidden, Unauthorised
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.cookie_sessions import BrowserClient, CookieSession
from opsjobs.store.identities.session_owner import Known, SessionOwner
from opsjobs.store.identities.sessions import REFRESH_CHARACTERS_MAX, SessionLogin


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """The tokens issued by a login or a refresh."""

    access_token: str
    refresh_token: str
    expires_in: int

    def data(self) -> dict[str, str | int]:
        """Return the response body of POST /auth/login."""
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
        }


class LoginService:
    """Logins of local users."""

    def __init__(self, people: IdentityStore, passwords: Passwords, own: OwnTokens) -> None:
        self._people = people
        self._passwords = passwords
        self._own = own

    async def log_in(self, name: str, password: str, address: str | None) -> IssuedTokens:
        """Log in with a name and a password. Raises Unauthorised and TooMany.

        Time and message of a rejection do not depend on its cause.
        """
        user, renewed_hash = await self.verify(name, password, address)
        return self._issue(await self._people.sessions.begin(user, renewed_hash))

    async def verify(
        self, name: str, password: str, address: str | None
    ) -> tuple[Known, str | None]:
        """Return the user of this name and password. Raises Unauthorised and TooMany.

        Also return a new hash of the password if the stored one has outdated parameters.
        """
        user = await self._people.users.find_for_login(name)
        await self.prove(name, user, password, address)
        assert user is not None, "prove() accepts no password for an unknown user"
        await self._people.attempts.succeeded(name, address)
        stale = self._passwords.is_outdated(user.password_hash)
        return user, await self._passwords.hashed(password) if stale else None

    async def prove(
        self, name: str, user: Known | None, password: str, address: str | None
    ) -> None:
        """Check a password.

        Raises Unauthorised if it is wrong or the user is disabled, TooMany if throttled.
        """
        user_id = None if user is None else user.id
        await self._people.attempts.begin(name, address, user_id=user_id)
        right = await self._passwords.verify(None if user is None else user.password_hash, password)
        if not right or user is None or user.disabled:
            await self._people.attempts.failed(name, user_id=user_id)
            raise Unauthorised(
                "login_failed", "The name or the password is wrong, or the user is disabled."
            )

    async def refresh(self, refresh_token: str) -> IssuedTokens:
        """Return new tokens for a refresh token.

        Raises Unauthorised if the token is invalid. Reuse of a refresh token ends the login.
        """
        if len(refresh_token) > REFRESH_CHARACTERS_MAX:
            raise Unauthorised("token_invalid", "This login has ended: log in again.")
        return self._issue(await self._people.sessions.refresh(refresh_token))

    async def log_out(self, token: str) -> None:
        """End the login of this access token; do nothing for other kinds of tokens."""
        if token.count(".") == 2 and OwnTokens.are_meant(unproven := UnverifiedToken.read(token)):
            await self._people.sessions.end(self._own.session(unproven))

    def _issue(self, login: SessionLogin) -> IssuedTokens:
        token, seconds = self._own.issue(login.session, login.user)
        return IssuedTokens(token, login.refresh_token, seconds)


# --- browsers


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
