"""Key-encryption keys as text: their encoding, and their public ids."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

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
