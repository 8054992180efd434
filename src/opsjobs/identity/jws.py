"""Signed tokens (JWS, compact form): strict parsing, signing, and the keys that verify.

Those keys are a shared secret, or the published keys of an issuer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.algorithms import HMACAlgorithm

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.model.errors import Unavailable
from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.token_claims import is_name, rejected
from opsjobs.model.units import describe_size
from opsjobs.telemetry.logs import log

TOKEN_BYTES_MAX = 8_192
RSA_BITS_MIN = 2_048
# Headers that name a key inside or outside the token, and extensions that are not supported.
_HEADERS_REFUSED = ("jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc")
_TYPES = ("jwt", "at+jwt", "application/jwt", "application/at+jwt")
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


class _Hmac(HMACAlgorithm):
    """HMAC without PyJWT's warning about short keys: the settings check the length once."""

    def check_key_length(self, key: bytes) -> None:
        """Do nothing."""


def _signer() -> jwt.PyJWS:
    signer = jwt.PyJWS(algorithms=[*SHARED, *BY_KEY_PAIR])
    for name, digest in zip(
        SHARED, (HMACAlgorithm.SHA256, HMACAlgorithm.SHA384, HMACAlgorithm.SHA512), strict=True
    ):
        signer.unregister_algorithm(name)
        signer.register_algorithm(name, _Hmac(digest))
    return signer


_SIGNER = _signer()


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A parsed token. Trust nothing in it until `prove` has returned."""

    text: str
    algorithm: str
    kid: str | None
    claims: Mapping[str, Any]

    @classmethod
    def read(cls, token: str) -> UnverifiedToken:
        """Parse a token.

        Raises Unauthorised if it is not a signed token or requires an unsupported verification.
        """
        # Checked before anything is decoded: a token may come from any caller.
        if len(token) > TOKEN_BYTES_MAX:
            raise rejected(f"has over {describe_size(TOKEN_BYTES_MAX)}")
        parts = token.split(".")
        if len(parts) != 3 or not all(parts[:2]):
            raise rejected("has not three parts")
        header, claims = _object(parts[0]), _object(parts[1])
        if refused := next((name for name in _HEADERS_REFUSED if name in header), None):
            raise rejected(f"has the header {refused}, which is not allowed")
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise rejected("is of another type (typ)")
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or not (kid is None or is_name(kid)):
            raise rejected("has a header that cannot be read (alg, kid)")
        return cls(token, algorithm, kid, claims)

    def prove(self, key: PublicKey | bytes, algorithms: tuple[str, ...]) -> Mapping[str, Any]:
        """Verify the signature and return the claims. Raises Unauthorised.

        `algorithms` come from the configuration and match the family of the key.
        """
        if self.algorithm not in algorithms:
            raise rejected(f"is signed by other means than {', '.join(algorithms)} (alg)")
        try:
            _SIGNER.decode_complete(self.text, key, algorithms=list(algorithms))
        except (jwt.PyJWTError, ValueError, TypeError):
            raise rejected("is not signed by a key that is good here") from None
        return self.claims


def fitting(key: PublicKey) -> tuple[str, ...]:
    """Return the algorithms for this public key; none if it is too weak or not supported."""
    match key:
        case RSAPublicKey() if key.key_size >= RSA_BITS_MIN:
            return tuple(name for name in BY_KEY_PAIR if name.startswith(("RS", "PS")))
        case EllipticCurvePublicKey() if key.curve.name in _OF_CURVE:
            return (_OF_CURVE[key.curve.name],)
        case Ed25519PublicKey():
            return ("EdDSA",)
    return ()


def sign(claims: Mapping[str, Any], key: PrivateKey | bytes, algorithm: str, kid: str) -> str:
    """Return a signed token with these claims."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _SIGNER.encode(payload, key, algorithm, {"kid": kid})


def _object(part: str) -> dict[str, Any]:
    """Decode a part of the token as a JSON object; reject ambiguous JSON."""
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        content = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (binascii.Error, ValueError, RecursionError):
        raise rejected("cannot be read") from None
    if not isinstance(content, dict):
        raise rejected("cannot be read")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is given twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(text)


# --- keys that verify: a shared secret, or the published keys of an issuer


KEYS_MAX = 100
REFETCH_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 2.0
"""Pause between fetches while there are no keys at all."""
KEPT_WITHOUT_ANSWER_SECONDS = 86_400.0
_PUBLIC_TYPES = ("RSA", "EC", "OKP")


@dataclass(frozen=True, slots=True)
class ProvingKey:
    """A key and its allowed algorithms, which are all of one family."""

    key: PublicKey | bytes
    algorithms: tuple[str, ...]


class VerificationKeys(Protocol):
    """Finds keys by their id."""

    async def find(self, kid: str | None) -> ProvingKey:
        """Return the key of this id.

        Raises Unauthorised if there is none, Unavailable if the keys cannot be fetched.
        """


class SharedSecret:
    """The secret shared by the services of the platform."""

    def __init__(self, secret: bytes, algorithm: str) -> None:
        self._key = ProvingKey(secret, (algorithm,))

    async def find(self, kid: str | None) -> ProvingKey:
        """Return the shared secret, for any id."""
        del kid
        return self._key


class PublishedKeys:
    """The keys of a JWKS document, fetched when needed.

    They are fetched again after `ttl_seconds`, and for an unknown key id at most once a minute, so
    that tokens with invented ids cause no flood. While the issuer does not respond, the last keys
    stay valid for a day. `fetch` returns the document or raises ServiceUnavailable.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Any]],
        clock: Clock,
        *,
        algorithms: Sequence[str],
        ttl_seconds: float,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._algorithms = frozenset(algorithms)
        self._ttl_seconds = ttl_seconds
        self._keys: Mapping[str | None, ProvingKey] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> ProvingKey:
        """Return the key of this id; without an id the only key, if there is exactly one."""
        # If there are keys, do not wait for a fetch in progress.
        if self._is_stale() and not (self._keys and self._lock.locked()):
            await self._refresh(self._is_stale)
        found = self._get(kid)
        if found is None and self._may_fetch():
            await self._refresh(lambda: self._get(kid) is None)
            found = self._get(kid)
        if self._fetched_at is None:
            raise Unavailable(
                "the issuer's keys (JWKS) cannot be fetched",
                detail="Tokens cannot be verified now: try again in a minute.",
            )
        if found is None:
            raise rejected("is signed by a key that the issuer does not publish (kid)")
        return found

    def _get(self, kid: str | None) -> ProvingKey | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is not None else None

    def _is_stale(self) -> bool:
        return (
            self._fetched_at is None
            or self._clock.monotonic() - self._fetched_at >= self._ttl_seconds
        )

    def _may_fetch(self) -> bool:
        pause = REFETCH_SECONDS if self._fetched_at is not None else FIRST_PAUSE_SECONDS
        return self._asked_at is None or self._clock.monotonic() - self._asked_at >= pause

    async def _refresh(self, needed: Callable[[], bool]) -> None:
        async with self._lock:
            # Another task may have fetched the keys, or failed to, while this one waited.
            if not needed() or not self._may_fetch():
                return
            self._asked_at = self._clock.monotonic()
            try:
                self._keys = _read(await self._fetch(), self._algorithms)
            except ServiceUnavailable as away:
                log.warning("jwks_fetch_failed", reason=str(away))
                self._drop_old_keys()
            else:
                self._fetched_at = self._clock.monotonic()

    def _drop_old_keys(self) -> None:
        if (
            self._fetched_at is not None
            and self._clock.monotonic() - self._fetched_at > KEPT_WITHOUT_ANSWER_SECONDS
        ):
            self._keys, self._fetched_at = {}, None


def _read(document: Any, allowed: frozenset[str]) -> dict[str | None, ProvingKey]:
    """Return the keys of the document that support an allowed algorithm.

    Raises ServiceUnavailable if it is not a JWKS or has no usable key.
    """
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > KEYS_MAX:
        raise ServiceUnavailable(f"it does not answer with a JWKS of at most {KEYS_MAX} keys")
    found: dict[str | None, ProvingKey] = {}
    for one in keys:
        if isinstance(one, dict) and (key := _key(one, allowed)) is not None:
            kid = one.get("kid")
            # Of two keys with one id the first is used.
            found.setdefault(kid if isinstance(kid, str) else None, key)
    if not found:
        raise ServiceUnavailable("its JWKS has no public key that can be used here")
    return found


def _key(jwk: Mapping[str, Any], allowed: frozenset[str]) -> ProvingKey | None:
    if jwk.get("kty") not in _PUBLIC_TYPES or jwk.get("use", "sig") != "sig":
        return None
    public = {
        name: value
        for name, value in jwk.items()
        if name not in ("d", "p", "q", "dp", "dq", "qi", "oth", "alg")
    }
    try:
        key: Any = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = tuple(a for a in fitting(key) if a in allowed and jwk.get("alg", a) == a)
    return ProvingKey(key, algorithms) if algorithms else None
