"""ID tokens: an OpenID Connect provider states who has logged in, for our client only."""

from __future__ import annotations

import secrets

from opsjobs.clock import Clock
from opsjobs.identity.jws import UnverifiedToken
from opsjobs.identity.verification_keys import VerificationKeys
from opsjobs.model.errors import Unauthorised
from opsjobs.model.token_claims import (
    ClaimRules,
    Claims,
    audiences_of,
    check_parties,
    check_times,
    rejected,
    seconds_of,
)


class ClockDiffers(Exception):
    """A token that was issued just now is already old, or not valid yet."""


class IdTokens:
    """Verifies ID tokens. `rules`: the issuer, and the client's id as the only audience."""

    def __init__(self, keys: VerificationKeys, rules: ClaimRules, clock: Clock) -> None:
        assert rules.issuer is not None, "an ID token is of one issuer"
        assert len(rules.audiences) == 1, "an ID token is for one client"
        self._keys = keys
        self._rules = rules
        self._clock = clock

    async def verify(self, text: str, nonce: str) -> Claims:
        """Return the claims of the token that answers the login with this nonce.

        Raises Unauthorised, ClockDiffers if only its times are wrong, and Unavailable.
        """
        unproven = UnverifiedToken.read(text)
        key = await self._keys.find(unproven.kid)
        claims = unproven.prove(key.key, key.algorithms)
        check_parties(claims, self._rules)
        self._check_client(claims)
        given = claims.get("nonce")
        if not isinstance(given, str) or not secrets.compare_digest(
            given.encode("utf-8", "surrogatepass"), nonce.encode()
        ):
            raise rejected("answers another login (nonce)")
        if any(seconds_of(claims, name) is None for name in ("exp", "iat")):
            raise rejected("does not say when it was issued and until when it is good (iat, exp)")
        try:
            check_times(claims, self._rules, self._clock.now().timestamp())
        except Unauthorised as old:
            raise ClockDiffers(old.detail) from None
        return claims

    def _check_client(self, claims: Claims) -> None:
        client, party = self._rules.audiences[0], claims.get("azp")
        if party is not None and party != client:
            raise rejected("was issued to another client (azp)")
        if party is None and len(audiences_of(claims)) > 1:
            raise rejected("is for several audiences, and names no client (azp)")
