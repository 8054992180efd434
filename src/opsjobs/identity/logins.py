"""Log in with name and password, refresh tokens, log out."""

from __future__ import annotations

from dataclasses import dataclass

from opsjobs.identity.jws import UnverifiedToken
from opsjobs.identity.local_tokens import OwnTokens
from opsjobs.identity.passwords import Passwords
from opsjobs.model.errors import Unauthorised
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.session_owner import Known
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
