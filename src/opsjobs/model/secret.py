"""Values that must never be printed, and key-encryption keys as text.

Of a key there are its encoding, and its public id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass


class Secret:
    """A text that only `reveal` returns: `repr`, `str` and formatting return `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself; call it as late as possible and store the result nowhere."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled: it would lie in the open")


@dataclass(frozen=True, slots=True)
class JobSecret:
    """The reference of a secret parameter to a credential; a worker decrypts it for a run.

    `credential_id` is None until a launch has looked the name up."""

    credential: str
    credential_id: str | None = None


def is_secret(value: object) -> bool:
    """Return True if a parameter's value must not be shown."""
    return isinstance(value, Secret | JobSecret)


def digest(token: str) -> bytes:
    """Return the hash by which a token, a cookie or a code is stored.

    A plain hash is enough: each is 256 random bits, not a chosen word."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


KEY_BYTES = 32
KEY_ID_CHARACTERS = 8


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a key in base64, in either alphabet, with or without padding.

    Raises ValueError, without the key's text."""
    bare = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        raw = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"not {KEY_BYTES} bytes in base64url")
    return raw


def encode_key(raw: bytes) -> str:
    """Return a key in the encoding of ENCRYPTION_KEYS."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def key_id(raw: bytes) -> str:
    """Return the id of a key: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(raw).hexdigest()[:KEY_ID_CHARACTERS]


def derive_key(raw: bytes, purpose: bytes) -> bytes:
    """Derive a 32-byte key for one purpose: HKDF-SHA-256 (RFC 5869) without salt.

    `purpose` is its `info`."""
    extracted = hmac.digest(bytes(KEY_BYTES), raw, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")
