"""The platform's own tokens: proven by their signature, or asked about at its Auth Service, but never both ways."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.identity.jws import BY_KEY_PAIR, SHARED, TOKEN_BYTES_MAX, UnverifiedToken
from opsjobs.identity.verification_keys import VerificationKeys
from opsjobs.integrations.auth_service import AuthService
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.model.access import Principal
from opsjobs.model.errors import Unavailable
from opsjobs.model.token_claims import ClaimRules, check, external, rejected

KEPT_MAX = 10_000


class Platform(Protocol):
    """Who judges tokens that are not ours."""

    async def judge(self, token: str) -> Principal:
        """Whose it is. Raises Unauthorised, and Unavailable where nobody can say now."""


class SignedTokens:
    """Tokens that are good because the platform signed them."""

    def __init__(self, keys: VerificationKeys, rules: ClaimRules, clock: Clock) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock

    async def judge(self, token: str) -> Principal:
        """Whose it is."""
        unproven = UnverifiedToken.read(token)
        key = await self._keys.of(unproven.kid)
        claims = unproven.prove(key.key, key.algorithms)
        check(claims, self._rules, self._clock.now().timestamp())
        return external(claims, self._rules)


@dataclass(frozen=True, slots=True)
class _Said:
    claims: Mapping[str, Any] | None
    until: float
    at: float


class IntrospectedTokens:
    """Tokens that are good because the Auth Service says so, each time anew but for `kept_seconds`."""

    def __init__(
        self, service: AuthService, rules: ClaimRules, clock: Clock, *, kept_seconds: float
    ) -> None:
        self._service = service
        self._rules = replace(rules, issuer=None, audiences=(), needs_exp=False)
        self._clock = clock
        self._kept_seconds = kept_seconds
        self._said: dict[bytes, _Said] = {}

    async def judge(self, token: str) -> Principal:
        """Whose it is; a token that says itself that it is over, or how it is not to be judged, is not asked about."""
        if len(token) > TOKEN_BYTES_MAX:
            raise rejected(f"has over {TOKEN_BYTES_MAX} bytes")
        if token.count(".") == 2:
            self._look(UnverifiedToken.read(token))
        said = await self._ask(token)
        if said.claims is None:
            raise rejected("is not good, says the Auth Service")
        check(said.claims, self._rules, self._clock.now().timestamp())
        # What the Auth Service says is true when it says it, however old the token is.
        return replace(external(said.claims, self._rules), issued_at=said.at)

    def _look(self, unproven: UnverifiedToken) -> None:
        if unproven.algorithm not in SHARED + BY_KEY_PAIR:
            raise rejected("is not signed (alg)")
        check(unproven.claims, self._rules, self._clock.now().timestamp())

    async def _ask(self, token: str) -> _Said:
        name, now = (
            hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(),
            self._clock.monotonic(),
        )
        said = self._said.get(name)
        if said is not None and now < said.until:
            return said
        at = self._clock.now().timestamp()
        try:
            claims = await self._service.validate(token)
        except ServiceUnavailable as away:
            raise Unavailable(
                str(away), told="The Auth Service does not answer: no token can be judged now."
            ) from None
        if len(self._said) >= KEPT_MAX:
            self._said.clear()
        self._said[name] = _Said(claims, now + self._kept_seconds, at)
        return self._said[name]
