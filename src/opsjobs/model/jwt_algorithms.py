"""Accepted signature algorithms of tokens, by the family of their key (RFC 7518, 8037)."""

from __future__ import annotations

SHARED = ("HS256", "HS384", "HS512")
"""Algorithms with a shared secret."""

BY_KEY_PAIR = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Algorithms with a public and a private key."""
