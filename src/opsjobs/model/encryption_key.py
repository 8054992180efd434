"""Key-encryption keys as text: how one is spelt, and what it is called where it must not be shown."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

KEY_BYTES = 32
KEY_ID_CHARACTERS = 8


def decoded(text: str) -> bytes:
    """The 32 bytes of a key in base64, of either alphabet and with or without padding. Raises ValueError, without the text."""
    bare = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        raw = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"not {KEY_BYTES} bytes in base64url")
    return raw


def encoded(raw: bytes) -> str:
    """The text of a key, as ENCRYPTION_KEYS spells it."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def key_id(raw: bytes) -> str:
    """The name of a key: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(raw).hexdigest()[:KEY_ID_CHARACTERS]


def derived(raw: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose, made of this one: HKDF-SHA-256 (RFC 5869) without salt; `purpose` is its `info`."""
    extracted = hmac.digest(bytes(KEY_BYTES), raw, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")
