"""Tokens that other services sign for themselves, with a key whose public half is registered here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from opsjobs.clock import Clock
from opsjobs.identity.jws import PublicKey, UnverifiedToken, fitting
from opsjobs.model.access import Principal
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.token_claims import ClaimRules, check, is_name, rejected
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.services import on_behalf

KID_PREFIX = "service/"
LIFE_SECONDS_MAX = 300
LEEWAY_SECONDS = 10.0


class ServiceTokens:
    """Proves them: `iss` and `sub` are the service, `aud` is us, it is good for 5 minutes at most.

    With `on_behalf_of` {kind, name} it speaks for a user, and may what both of them may.
    """

    def __init__(self, people: IdentityStore, clock: Clock, *, audience: str) -> None:
        self._people = people
        self._clock = clock
        self._audience = audience

    @staticmethod
    def are_meant(unproven: UnverifiedToken) -> bool:
        """Whether the token says that a service signed it."""
        return unproven.kid is not None and unproven.kid.startswith(KID_PREFIX)

    async def principal(self, unproven: UnverifiedToken) -> Principal:
        """The service, or the service and a user together. Raises Unauthorised."""
        name = (unproven.kid or "").removeprefix(KID_PREFIX)
        pem = await self._people.services.public_key(name)
        if pem is None:
            raise rejected("comes from a service that is not registered here, or is disabled")
        key = loaded(pem)
        claims = unproven.prove(key, fitting(key))
        self._check(claims, name)
        principal = await self._people.standing(_whose(claims, name), "service")
        if principal is None:
            raise rejected(
                "comes from a service whose maker is disabled or gone (let an administrator save it again), or speaks for somebody "
                "who may nothing here (on_behalf_of)"
            )
        return principal

    def _check(self, claims: Mapping[str, Any], name: str) -> None:
        rules = ClaimRules(name, (self._audience,), leeway_seconds=LEEWAY_SECONDS)
        check(claims, rules, self._clock.now().timestamp())
        if claims.get("sub") != name:
            raise rejected("is not the service's own (sub)")
        if claims.get("iat") is None or claims["exp"] - claims["iat"] > LIFE_SECONDS_MAX:
            raise rejected(f"is good for more than {LIFE_SECONDS_MAX} seconds (iat, exp)")


def _whose(claims: Mapping[str, Any], name: str) -> str:
    told = claims.get("on_behalf_of")
    if told is None:
        return name
    kind, user = (
        (told.get("kind", "user"), told.get("name")) if isinstance(told, dict) else (None, None)
    )
    if kind not in ("user", "external") or not is_name(user):
        raise rejected("does not say for whom it speaks (on_behalf_of)")
    return on_behalf(name, kind, user)


def loaded(pem: str) -> PublicKey:
    """The public key in a PEM. Raises Invalid for what is none, or proves nothing that is taken."""
    try:
        key: Any = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not fitting(key):
        detail = "The public_key is no PEM of an Ed25519, P-256, P-384, P-521 or RSA key (2,048 bits or more)."
        raise Invalid(
            "invalid_public_key",
            detail,
            errors=[FieldError("/public_key", detail, "invalid_public_key")],
        )
    found: PublicKey = key
    return found
