"""Tokens by which other services know us: short-lived, signed with a shared secret."""

from __future__ import annotations

from uuid import uuid4

from opsjobs.clock import Clock
from opsjobs.identity.jws import sign
from opsjobs.model.secret import Secret

NAME = "job-execution"
LIFE_SECONDS = 60
_ALGORITHM = "HS256"


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
            "exp": now + LIFE_SECONDS,
            "jti": str(uuid4()),
        }
        return sign(claims, self._secret.reveal().encode(), _ALGORITHM, NAME)
