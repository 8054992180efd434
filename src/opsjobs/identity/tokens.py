"""Tokens of each kind: each is verified in exactly one way.

Callers prove themselves by tokens of local logins, of registered services and of the platform. ID
tokens prove logins at the OpenID Connect provider. Outgoing tokens prove us to other services.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID, uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from opsjobs.clock import Clock
from opsjobs.identity.jws import (
    TOKEN_BYTES_MAX,
    PublicKey,
    UnverifiedToken,
    VerificationKeys,
    fitting,
    sign,
)
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.token_issuers import AuthService
from opsjobs.model.access import Principal
from opsjobs.model.errors import FieldError, Invalid, Unauthorised, Unavailable
from opsjobs.model.identity import Identity
from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.secret import Secret
from opsjobs.model.token_claims import (
    ClaimRules,
    Claims,
    audiences_of,
    check,
    check_parties,
    check_times,
    external,
    is_name,
    rejected,
    seconds_of,
)
from opsjobs.model.units import describe_size, format_duration
from opsjobs.store.identities import IdentityStore
from opsjobs.store.identities.services import on_behalf

# --- local logins: short-lived, signed with a key of this installation


ISSUER = "opsjobs"
LOCAL_KID_PREFIX = "opsjobs/"
_ALGORITHM = "HS256"
_PURPOSE = b"opsjobs access tokens 1"


class OwnTokens:
    """Issues and verifies access tokens.

    `keys` are ENCRYPTION_KEYS, the current one first; a signing key is derived from each.
    """

    def __init__(self, keys: Sequence[Secret], clock: Clock, *, minutes: int) -> None:
        self._clock = clock
        self._seconds = minutes * 60
        derived = [hmac.digest(_raw(key), _PURPOSE, "sha256") for key in keys]
        self._keys = {
            LOCAL_KID_PREFIX + hashlib.sha256(key).hexdigest()[:12]: key for key in derived
        }
        self._current = next(iter(self._keys))

    def issue(self, session: UUID, user: str) -> tuple[str, int]:
        """Return a token of this session and its lifetime in seconds."""
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": ISSUER,
            "sub": user,
            "sid": str(session),
            "iat": now,
            "exp": now + self._seconds,
        }
        return sign(claims, self._keys[self._current], _ALGORITHM, self._current), self._seconds

    @staticmethod
    def are_meant(unproven: UnverifiedToken) -> bool:
        """Return True if the token claims to be a local access token."""
        return unproven.kid is not None and unproven.kid.startswith(LOCAL_KID_PREFIX)

    def session(self, unproven: UnverifiedToken) -> UUID:
        """Verify the token and return its session. Raises Unauthorised."""
        key = self._keys.get(unproven.kid or "")
        if key is None:
            raise rejected("is signed by a key of another installation")
        claims = unproven.prove(key, (_ALGORITHM,))
        check(
            claims, ClaimRules(ISSUER, (ISSUER,), leeway_seconds=0), self._clock.now().timestamp()
        )
        return UUID(claims["sid"])


def _raw(key: Secret) -> bytes:
    text = key.reveal().strip().rstrip("=").replace("+", "-").replace("/", "_")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- registered services, which sign with their own private key


SERVICE_KID_PREFIX = "service/"
SERVICE_LIFE_SECONDS_MAX = 300
SERVICE_LEEWAY_SECONDS = 10.0


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
        return unproven.kid is not None and unproven.kid.startswith(SERVICE_KID_PREFIX)

    async def principal(self, unproven: UnverifiedToken) -> Principal:
        """Return the service, or the service on behalf of a user. Raises Unauthorised."""
        name = (unproven.kid or "").removeprefix(SERVICE_KID_PREFIX)
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
        rules = ClaimRules(name, (self._audience,), leeway_seconds=SERVICE_LEEWAY_SECONDS)
        check(claims, rules, self._clock.now().timestamp())
        if claims.get("sub") != name:
            raise rejected("is not the service's own (sub)")
        if claims.get("iat") is None or claims["exp"] - claims["iat"] > SERVICE_LIFE_SECONDS_MAX:
            limit = format_duration(SERVICE_LIFE_SECONDS_MAX)
            raise rejected(f"is valid for more than {limit} (iat, exp)")


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


# --- the platform: verified by signature or by its Auth Service, never by both


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
            raise rejected(f"has over {describe_size(TOKEN_BYTES_MAX)}")
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


# --- ID tokens: an OpenID Connect provider states who has logged in, for our client only


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


# --- our own, for other services: short-lived, signed with a shared secret


NAME = "job-execution"
OUTGOING_LIFE_SECONDS = 60


class OutgoingTokens:
    """Signs tokens for one service (`audience`) with the secret that it shares with us."""

    def __init__(self, secret: Secret, clock: Clock, *, audience: str) -> None:
        self._secret = secret
        self._clock = clock
        self._audience = audience

    def sign(self) -> str:
        """Return a new token that is valid for a minute."""
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": NAME,
            "sub": NAME,
            "username": NAME,
            "type": "service",
            "role": "service",
            "aud": self._audience,
            "iat": now,
            "exp": now + OUTGOING_LIFE_SECONDS,
            "jti": str(uuid4()),
        }
        return sign(claims, self._secret.reveal().encode(), _ALGORITHM, NAME)
