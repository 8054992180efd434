"""Authenticate requests: each kind of token is verified in exactly one way."""

from __future__ import annotations

from dataclasses import dataclass, field

from opsjobs.clock import Clock
from opsjobs.identity.jws import TOKEN_BYTES_MAX, UnverifiedToken
from opsjobs.identity.tokens import OwnTokens, Platform, ServiceTokens
from opsjobs.model.access import Principal
from opsjobs.model.errors import Unauthorised
from opsjobs.model.token_claims import rejected
from opsjobs.model.units import describe_size
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.api_keys import TOKEN_PREFIX
from opsjobs.store.identities.cookie_sessions import COOKIE_PREFIX, CookieSession

SEEN_EVERY_SECONDS = 60.0
SEEN_MAX = 10_000


@dataclass(frozen=True, slots=True)
class RequestProof:
    """Proof of a request's caller: a bearer token, or the cookie of a session."""

    token: str = field(repr=False)
    is_cookie: bool = False


class Authenticator:
    """Verifies tokens and cookies.

    Without `platform` only this installation's tokens are accepted.
    """

    def __init__(
        self,
        people: IdentityStore,
        clock: Clock,
        *,
        own: OwnTokens,
        services: ServiceTokens,
        platform: Platform | None = None,
    ) -> None:
        self._people = people
        self._clock = clock
        self._own = own
        self._services = services
        self._platform = platform
        self._seen: dict[Principal, float] = {}
        self._kept: dict[Principal, float] = {}

    async def reauthenticate(self, proof: RequestProof) -> Principal:
        """Return the principal of a request that is still being answered. Raises as `principal`.

        It is no use of a session: an open page alone does not keep one from ending idle.
        """
        if proof.is_cookie:
            return (await self._people.cookies.find(proof.token, used=False)).principal
        return await self.principal(proof.token)

    async def session(self, cookie: str, *, used: bool = True) -> CookieSession:
        """Return the session of a cookie. Raises Unauthorised if it has ended.

        `used`: a person uses it now, so that it does not end as idle.
        """
        return await self._people.cookies.find(cookie, used=used)

    async def principal(self, token: str) -> Principal:
        """Return the bearer token's principal with its current rights.

        Raises Unauthorised, and Unavailable if the token cannot be verified now.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise rejected(f"has over {describe_size(TOKEN_BYTES_MAX)}")
        if token.startswith(COOKIE_PREFIX):
            raise rejected("is the cookie of a session: it is no bearer token")
        if token.startswith(TOKEN_PREFIX) or token.count(".") != 2:
            return await self._key(token)
        return await self._signed(token)

    async def _key(self, token: str) -> Principal:
        principal = await self._people.by_token(token)
        if principal is not None:
            return principal
        if self._platform is not None and not token.startswith(TOKEN_PREFIX):
            return await self._of_platform(token)
        raise Unauthorised("token_invalid", "The token is unknown or has expired: make a new one.")

    async def _signed(self, token: str) -> Principal:
        # An admin token may have any form, even with two dots; look it up if it is not a JWT.
        try:
            unproven = UnverifiedToken.read(token)
        except Unauthorised:
            if (principal := await self._people.by_token(token)) is not None:
                return principal
            raise
        if OwnTokens.are_meant(unproven):
            principal = await self._people.sessions.principal(self._own.session(unproven))
            if principal is None:
                raise rejected("belongs to a login that has ended")
            return principal
        if ServiceTokens.are_meant(unproven):
            return await self._services.principal(unproven)
        return await self._of_platform(token)

    async def remember(self, principal: Principal) -> None:
        """Store the rights of a platform user who may become the owner of the next change.

        Schedules and workflows continue without the user's token. Writes at most once a minute
        for each user.
        """
        if principal.kind == "external" and self._is_due(self._kept, principal):
            await self._people.remember(None, principal)
            self._note(self._kept, principal)

    async def _of_platform(self, token: str) -> Principal:
        if self._platform is None:
            raise rejected("is of an issuer that is not accepted here")
        principal = await self._platform.authenticate(token)
        # The stored rights follow the claims of the latest token.
        if self._is_due(self._seen, principal):
            await self._people.external_people.refresh(principal)
            self._note(self._seen, principal)
        return principal

    def _is_due(self, noted: dict[Principal, float], principal: Principal) -> bool:
        return (
            self._clock.monotonic() - noted.get(principal, -SEEN_EVERY_SECONDS)
            >= SEEN_EVERY_SECONDS
        )

    def _note(self, noted: dict[Principal, float], principal: Principal) -> None:
        if len(noted) >= SEEN_MAX:
            noted.clear()
        noted[principal] = self._clock.monotonic()
