"""Rate limit for requests without a valid token, per client address.

Requests are counted in the memory of this process, before any look-up. A caller with a valid token
is not counted, whatever others send from the same address. To establish that, its token is
verified even if the address is over its limit: then a few tokens at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from opsjobs.api.token_bucket import TokenBuckets
from opsjobs.clock import Clock
from opsjobs.model.client_origin import origin
from opsjobs.model.errors import TooMany, Unauthorised, Unavailable

ORIGINS_MAX = 10_000
TOKENS_MAX = 10_000
AT_ONCE_MAX = 50
"""Open requests without a token per origin: their bodies are read, and no caller is known."""
VERIFIED_AT_ONCE_MAX = 4
"""Tokens that are verified at a time for one origin that is over its limit."""


class UnauthenticatedLimiter:
    """Limiter of requests without a valid token.

    `a_second`: the limit per origin (an IPv4 address, an IPv6 /64); 0: no limit.
    """

    def __init__(self, a_second: int, clock: Clock) -> None:
        self._a_second = a_second
        self._buckets: TokenBuckets[str] = TokenBuckets(a_second, clock, kept=ORIGINS_MAX)
        self._open: Counter[str] = Counter()
        # Token refreshes have their own limit: requests to the other open routes do not use it up.
        self._refresh_buckets: TokenBuckets[str] = TokenBuckets(a_second, clock, kept=ORIGINS_MAX)
        self._open_refreshes: Counter[str] = Counter()
        self._verifying: Counter[str] = Counter()
        # Digests of tokens that were valid at their last use, in the order of their first use.
        self._valid: dict[bytes, None] = {}

    @contextmanager
    def open_request(self, address: str | None, *, is_refresh: bool = False) -> Iterator[None]:
        """Count a request that needs no token, as a context around it. Raises TooMany.

        `is_refresh`: the request refreshes an existing login.
        """
        where = origin(address)
        is_open, buckets = (
            (self._open_refreshes, self._refresh_buckets)
            if is_refresh
            else (self._open, self._buckets)
        )
        if self._a_second and is_open[where] >= AT_ONCE_MAX:
            detail = (
                f"{where} has {AT_ONCE_MAX} open requests without a token, which is the limit. "
                "Wait until one of them has ended."
            )
            raise TooMany("too_many_requests", detail, retry_after_seconds=1)
        if early := buckets.take(where):
            raise self._too_many(where, early)
        with _count_open(is_open, where):
            yield

    def is_too_fast(self, address: str | None) -> bool:
        """Count a request and return True if its origin is over the limit; for probes.

        The request itself is never refused.
        """
        return self._buckets.take(origin(address)) > 0

    def count_missing_token(self, address: str | None) -> None:
        """Count a request that needs a token and has none. Raises TooMany."""
        where = origin(address)
        if early := self._buckets.take(where):
            raise self._too_many(where, early)

    @contextmanager
    def verifying(self, address: str | None, token: str) -> Iterator[None]:
        """Count the verification of a token, as a context around it.

        The token counts as invalid until it proves valid, or until it could not be verified
        (Unavailable). Raises TooMany for an invalid token beyond the limit. A token beyond the
        limit is refused without verification only if VERIFIED_AT_ONCE_MAX others of the same
        origin are being verified.
        """
        digest = _digest(token)
        if digest in self._valid:
            with self._forget_if_invalid(digest):
                yield
            return
        where = origin(address)
        # A valid token must pass, whatever others send from its address: so it is verified even if
        # the origin is over its limit.
        early = self._buckets.take(where)
        if early and self._verifying[where] >= VERIFIED_AT_ONCE_MAX:
            raise self._too_many(where, early)
        try:
            with (
                self._forget_if_invalid(digest),
                _count_open(self._verifying, where) if early else nullcontext(),
            ):
                yield
        except Unauthorised:
            if early:
                raise self._too_many(where, early) from None
            raise
        except Unavailable:
            if not early:
                self._buckets.give_back(where)
            raise
        if not early:
            self._buckets.give_back(where)
        self._remember(digest)

    @contextmanager
    def _forget_if_invalid(self, digest: bytes) -> Iterator[None]:
        try:
            yield
        except Unauthorised:
            self._valid.pop(digest, None)
            raise

    def _remember(self, digest: bytes) -> None:
        if digest not in self._valid and len(self._valid) >= TOKENS_MAX:
            del self._valid[next(iter(self._valid))]
        self._valid[digest] = None

    def _too_many(self, where: str, early: float) -> TooMany:
        detail = (
            f"{where} sends more than {self._a_second} requests a second without a valid token "
            "(OPSJOBS_UNAUTHENTICATED_RATE_LIMIT). Send a valid token, or fewer requests."
        )
        return TooMany("too_many_requests", detail, retry_after_seconds=math.ceil(early))


@contextmanager
def _count_open(among: Counter[str], where: str) -> Iterator[None]:
    among[where] += 1
    try:
        yield
    finally:
        among[where] -= 1
        if not among[where]:
            del among[where]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
