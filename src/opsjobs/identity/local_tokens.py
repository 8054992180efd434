"""Access tokens of local logins: short-lived, signed with a key of this installation."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from uuid import UUID

from opsjobs.clock import Clock
from opsjobs.identity.jws import UnverifiedToken, sign
from opsjobs.model.secret import Secret
from opsjobs.model.token_claims import ClaimRules, check, rejected

ISSUER = "opsjobs"
KID_PREFIX = "opsjobs/"
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
        self._keys = {KID_PREFIX + hashlib.sha256(key).hexdigest()[:12]: key for key in derived}
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
        return unproven.kid is not None and unproven.kid.startswith(KID_PREFIX)

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
