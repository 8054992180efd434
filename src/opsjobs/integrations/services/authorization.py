"""Authentication of our requests: the header of each mode of `<NAME>_SERVICE_AUTH`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.model.secret import Secret

REFRESH_EARLY_SECONDS = 30.0
TOKEN_SECONDS_MAX = 3_600.0
TOKEN_CHARACTERS_MAX = 8_192


class ServiceAuth(Protocol):
    """Authenticates our requests to one service."""

    async def headers(self) -> Mapping[str, str]:
        """Return the headers of a request. Raises ServiceUnavailable if there is no token now."""

    def renew(self, *, older_than: float = 0.0) -> bool:
        """Drop a token that the service rejected; return True if a new one is worth a try.

        A token that we have for less than `older_than` seconds is kept.
        """


class StaticHeader:
    """The same header for every request: a bearer token or an API key; none without a secret."""

    def __init__(self, name: str = "", secret: Secret | None = None, *, prefix: str = "") -> None:
        self._name = name
        self._secret = secret
        self._prefix = prefix

    async def headers(self) -> Mapping[str, str]:
        """Return the header."""
        if self._secret is None:
            return {}
        return {self._name: self._prefix + self._secret.reveal()}

    def renew(self, *, older_than: float = 0.0) -> bool:  # noqa: ARG002  as in the protocol
        """Return False: there is no other secret."""
        return False


class SignedToken:
    """A short-lived token that we sign ourselves, a new one for each request."""

    def __init__(self, sign: Callable[[], str]) -> None:
        self._sign = sign

    async def headers(self) -> Mapping[str, str]:
        """Return the header with a new token."""
        return {"authorization": f"Bearer {self._sign()}"}

    def renew(self, *, older_than: float = 0.0) -> bool:  # noqa: ARG002  as in the protocol
        """Return False: another token would be rejected, too."""
        return False


class ClientCredentials:
    """A token from the platform's token endpoint (OAuth 2.0 client credentials), cached.

    `request` asks the endpoint and returns its JSON, or raises ServiceUnavailable; concurrent
    requests share one token.
    """

    def __init__(self, request: Callable[[], Awaitable[Any]], clock: Clock) -> None:
        self._request = request
        self._clock = clock
        self._token: Secret | None = None
        self._until = 0.0
        self._got_at = float("-inf")
        self._lock = asyncio.Lock()

    async def headers(self) -> Mapping[str, str]:
        """Return the header with the cached token or a new one."""
        async with self._lock:
            if self._token is None or self._clock.monotonic() >= self._until:
                answer = await self._request()
                try:
                    self._token, seconds = parse_token(answer)
                except ValueError as wrong:
                    raise ServiceUnavailable(f"the token endpoint: {wrong}") from None
                self._got_at = self._clock.monotonic()
                self._until = self._got_at + seconds
            return {"authorization": f"Bearer {self._token.reveal()}"}

    def renew(self, *, older_than: float = 0.0) -> bool:
        """Drop the token, so that the next request asks for a new one."""
        if self._clock.monotonic() - self._got_at < older_than:
            return False
        had, self._token = self._token is not None, None
        return had


def parse_token(answer: Any) -> tuple[Secret, float]:
    """Return the token of a token endpoint's answer, and for how many seconds it may be kept.

    Raises ValueError.
    """
    found = answer if isinstance(answer, dict) else {}
    token, seconds = found.get("access_token"), found.get("expires_in", 60)
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise ValueError("its answer has no access_token")
    if len(token) > TOKEN_CHARACTERS_MAX or str(found.get("token_type", "bearer")).lower() != (
        "bearer"
    ):
        raise ValueError("its access_token is no bearer token of at most 8192 characters")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError("its expires_in is no number of seconds")
    return Secret(token), max(0.0, min(float(seconds), TOKEN_SECONDS_MAX) - REFRESH_EARLY_SECONDS)
