"""Signed tokens (JWS, compact form): strict parsing, signing, and verification with a key."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.algorithms import HMACAlgorithm

from opsjobs.model.jwt_algorithms import BY_KEY_PAIR, SHARED
from opsjobs.model.token_claims import is_name, rejected

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
            raise rejected(f"has over {TOKEN_BYTES_MAX} bytes")
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
