"""Where the keys come from that platform tokens are proven with: one shared secret, or the public keys that an issuer publishes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from opsjobs.clock import Clock
from opsjobs.identity.jws import PublicKey, fitting
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.model.errors import Unavailable
from opsjobs.model.token_claims import rejected
from opsjobs.telemetry import log

KEYS_MAX = 100
REFETCH_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 2.0
"""As long as there are no keys at all."""
KEPT_WITHOUT_ANSWER_SECONDS = 86_400.0
_PUBLIC_TYPES = ("RSA", "EC", "OKP")


@dataclass(frozen=True, slots=True)
class ProvingKey:
    """A key, and the algorithms that it may prove: never of both families."""

    key: PublicKey | bytes
    algorithms: tuple[str, ...]


class VerificationKeys(Protocol):
    """Who knows keys by their id."""

    async def of(self, kid: str | None) -> ProvingKey:
        """The key that a token names. Raises Unauthorised where there is none, Unavailable where that cannot be known."""


class SharedSecret:
    """The one secret that the platform's services share."""

    def __init__(self, secret: bytes, algorithm: str) -> None:
        self._key = ProvingKey(secret, (algorithm,))

    async def of(self, kid: str | None) -> ProvingKey:
        """Always the one."""
        del kid
        return self._key


class PublishedKeys:
    """The keys of a JWKS document: fetched when first needed, again when `ttl_seconds` old or when a key is asked for that is new.

    The second at most once a minute, whoever sends tokens with invented ids. While the issuer is away the last keys stay good,
    for a day. `fetch` brings the document, or raises Away.
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

    async def of(self, kid: str | None) -> ProvingKey:
        """The key of this id; a token without one is taken where there is only one key."""
        # Whoever has keys does not wait for somebody else's fetch.
        if self._old() and not (self._keys and self._lock.locked()):
            await self._refresh(self._old)
        found = self._found(kid)
        if found is None and self._may_ask():
            await self._refresh(lambda: self._found(kid) is None)
            found = self._found(kid)
        if self._fetched_at is None:
            raise Unavailable(
                "the issuer's keys (JWKS) cannot be had",
                told="Tokens cannot be judged now: try again in a minute.",
            )
        if found is None:
            raise rejected("is signed by a key that the issuer does not publish (kid)")
        return found

    def _found(self, kid: str | None) -> ProvingKey | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is not None else None

    def _old(self) -> bool:
        return (
            self._fetched_at is None
            or self._clock.monotonic() - self._fetched_at >= self._ttl_seconds
        )

    def _may_ask(self) -> bool:
        pause = REFETCH_SECONDS if self._fetched_at is not None else FIRST_PAUSE_SECONDS
        return self._asked_at is None or self._clock.monotonic() - self._asked_at >= pause

    async def _refresh(self, needed: Callable[[], bool]) -> None:
        async with self._lock:
            # Who waited for the lock finds that it was done meanwhile, or that it failed a moment ago.
            if not needed() or not self._may_ask():
                return
            self._asked_at = self._clock.monotonic()
            try:
                self._keys = _read(await self._fetch(), self._algorithms)
            except ServiceUnavailable as away:
                log.warning("jwks_away", reason=str(away))
                self._let_go()
            else:
                self._fetched_at = self._clock.monotonic()

    def _let_go(self) -> None:
        if (
            self._fetched_at is not None
            and self._clock.monotonic() - self._fetched_at > KEPT_WITHOUT_ANSWER_SECONDS
        ):
            self._keys, self._fetched_at = {}, None


def _read(document: Any, allowed: frozenset[str]) -> dict[str | None, ProvingKey]:
    """The keys of the document that can prove a token by an allowed algorithm. Raises Away where it is none, or holds none."""
    told = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(told, list) or len(told) > KEYS_MAX:
        raise ServiceUnavailable(f"it does not answer with a JWKS of at most {KEYS_MAX} keys")
    found: dict[str | None, ProvingKey] = {}
    for one in told:
        if isinstance(one, dict) and (key := _key(one, allowed)) is not None:
            kid = one.get("kid")
            # Two keys of one id: nobody can say which is meant, so the first stays.
            found.setdefault(kid if isinstance(kid, str) else None, key)
    if not found:
        raise ServiceUnavailable("its JWKS has no public key that can be used here")
    return found


def _key(told: Mapping[str, Any], allowed: frozenset[str]) -> ProvingKey | None:
    if told.get("kty") not in _PUBLIC_TYPES or told.get("use", "sig") != "sig":
        return None
    public = {
        name: value
        for name, value in told.items()
        if name not in ("d", "p", "q", "dp", "dq", "qi", "oth", "alg")
    }
    try:
        key: Any = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = tuple(a for a in fitting(key) if a in allowed and told.get("alg", a) == a)
    return ProvingKey(key, algorithms) if algorithms else None
