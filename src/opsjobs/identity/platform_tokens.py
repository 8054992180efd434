"""Tokens of the platform: verified by signature or by its Auth Service, never by both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.identity.jws import TOKEN_BYTES_MAX, UnverifiedToken
from opsjobs.identity.verification_keys import VerificationKeys
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.token_issuers import AuthService
from opsjobs.model.access import Principal
from opsjobs.model.errors import Unavailable
from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.token_claims import ClaimRules, check, external, rejected

KEPT_MAX = 10_000


class Platform(Protocol):
    """Verifies tokens of the platform."""

    async def authenticate(self, token: str) -> Principal:
        """Return the token's principal. Raises Unauthorised and Unavailable."""


class SignedTokens:
    """Verifies tokens by the platform's signature."""

    def __init__(self, keys: VerificationKeys, rules: ClaimRules, clock: Clock) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock

    async def authenticate(self, token: str) -> Principal:
        """Return the token's principal."""
        unproven = UnverifiedToken.read(token)
        key = await self._keys.find(unproven.kid)
        claims = unproven.prove(key.key, key.algorithms)
        check(claims, self._rules, self._clock.now().timestamp())
        return external(claims, self._rules)


@dataclass(frozen=True, slots=True)
class _Introspection:
    claims: Mapping[str, Any] | None
    until: float
    at: float


class IntrospectedTokens:
    """Verifies tokens by the Auth Service; its responses are cached for `kept_seconds`."""

    def __init__(
        self, service: AuthService, rules: ClaimRules, clock: Clock, *, kept_seconds: float
    ) -> None:
        self._service = service
        self._rules = replace(rules, issuer=None, audiences=(), needs_exp=False)
        self._clock = clock
        self._kept_seconds = kept_seconds
        self._answers: dict[bytes, _Introspection] = {}

    async def authenticate(self, token: str) -> Principal:
        """Return the token's principal.

        Expired tokens and tokens with an unsupported algorithm are rejected without a request.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise rejected(f"has over {TOKEN_BYTES_MAX} bytes")
        if token.count(".") == 2:
            self._look(UnverifiedToken.read(token))
        answer = await self._ask(token)
        if answer.claims is None:
            raise rejected("is not accepted by the Auth Service")
        check(answer.claims, self._rules, self._clock.now().timestamp())
        # The response is dated from the time of the request, however old the token is.
        return replace(external(answer.claims, self._rules), issued_at=answer.at)

    def _look(self, unproven: UnverifiedToken) -> None:
        if unproven.algorithm not in SHARED + BY_KEY_PAIR:
            raise rejected("is not signed (alg)")
        check(unproven.claims, self._rules, self._clock.now().timestamp())

    async def _ask(self, token: str) -> _Introspection:
        name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        now = self._clock.monotonic()
        answer = self._answers.get(name)
        if answer is not None and now < answer.until:
            return answer
        at = self._clock.now().timestamp()
        try:
            claims = await self._service.validate(token)
        except ServiceUnavailable as away:
            raise Unavailable(
                str(away), detail="The Auth Service does not answer: tokens cannot be verified now."
            ) from None
        if len(self._answers) >= KEPT_MAX:
            self._answers.clear()
        self._answers[name] = _Introspection(claims, now + self._kept_seconds, at)
        return self._answers[name]
