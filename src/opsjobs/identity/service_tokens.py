"""Tokens that registered services sign with their own private key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from opsjobs.clock import Clock
from opsjobs.identity.jws import PublicKey, UnverifiedToken, fitting
from opsjobs.model.access import Principal
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.identity import Identity
from opsjobs.model.token_claims import ClaimRules, check, is_name, rejected
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.services import on_behalf

KID_PREFIX = "service/"
LIFE_SECONDS_MAX = 300
LEEWAY_SECONDS = 10.0


class ServiceTokens:
    """Verifies tokens of services.

    `iss` and `sub` are the service, `aud` is this installation, the lifetime is at most 5 minutes.
    With `on_behalf_of` {kind, name} the token has only the rights that both service and user have.
    """

    def __init__(self, people: IdentityStore, clock: Clock, *, audience: str) -> None:
        self._people = people
        self._clock = clock
        self._audience = audience

    @staticmethod
    def are_meant(unproven: UnverifiedToken) -> bool:
        """Return True if the token claims to be signed by a service."""
        return unproven.kid is not None and unproven.kid.startswith(KID_PREFIX)

    async def principal(self, unproven: UnverifiedToken) -> Principal:
        """Return the service, or the service on behalf of a user. Raises Unauthorised."""
        name = (unproven.kid or "").removeprefix(KID_PREFIX)
        pem = await self._people.services.public_key(name)
        if pem is None:
            raise rejected("is of a service that is not registered or is disabled")
        key = load_public_key(pem)
        claims = unproven.prove(key, fitting(key))
        self._check(claims, name)
        principal = await self._people.current_principal(
            Identity("service", _acting_name(claims, name))
        )
        if principal is None:
            raise rejected(
                "is of a service whose owner is disabled or deleted (let an administrator save it "
                "again), or names a user without rights here (on_behalf_of)"
            )
        return principal

    def _check(self, claims: Mapping[str, Any], name: str) -> None:
        rules = ClaimRules(name, (self._audience,), leeway_seconds=LEEWAY_SECONDS)
        check(claims, rules, self._clock.now().timestamp())
        if claims.get("sub") != name:
            raise rejected("is not the service's own (sub)")
        if claims.get("iat") is None or claims["exp"] - claims["iat"] > LIFE_SECONDS_MAX:
            raise rejected(f"is good for more than {LIFE_SECONDS_MAX} seconds (iat, exp)")


def _acting_name(claims: Mapping[str, Any], name: str) -> str:
    claim = claims.get("on_behalf_of")
    if claim is None:
        return name
    kind, user = (
        (claim.get("kind", "user"), claim.get("name")) if isinstance(claim, dict) else (None, None)
    )
    if kind not in ("user", "external") or not is_name(user):
        raise rejected("has an invalid on_behalf_of")
    return on_behalf(name, kind, user)


def load_public_key(pem: str) -> PublicKey:
    """Return the public key in a PEM. Raises Invalid if there is none or it is not supported."""
    try:
        key: Any = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not fitting(key):
        detail = (
            "The public_key is not a PEM of an Ed25519, P-256, P-384, P-521 or RSA key "
            "(2,048 bits or more)."
        )
        raise Invalid(
            "invalid_public_key",
            detail,
            errors=[FieldError("/public_key", detail, "invalid_public_key")],
        )
    found: PublicKey = key
    return found
