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

from opsjobs.api.token_bucket import Buckets
from opsjobs.clock import Clock
from opsjobs.model.client_origin import origin
from opsjobs.model.errors import TooMany, Unauthorised, Unavailable

ORIGINS_MAX = 10_000
TOKENS_MAX = 10_000
AT_ONCE_MAX = 50
"""Open requests without a token per origin: their bodies are read, and no caller is known."""
DOUBTED_MAX = 4
"""Tokens that are verified at a time for one origin that is over its limit."""


class UnauthenticatedLimiter:
    """Limiter of requests without a valid token.

    `a_second`: the limit per origin (an IPv4 address, an IPv6 /64); 0: no limit.
    """

    def __init__(self, a_second: int, clock: Clock) -> None:
        self._a_second = a_second
        self._buckets: Buckets[str] = Buckets(a_second, clock, kept=ORIGINS_MAX)
        self._open: Counter[str] = Counter()
        # Token refreshes have their own limit: requests to the other open routes do not use it up.
        self._going_on: Buckets[str] = Buckets(a_second, clock, kept=ORIGINS_MAX)
        self._going_on_open: Counter[str] = Counter()
        self._doubted: Counter[str] = Counter()
        # Digests of tokens that were valid at their last use, in the order of their first use.
        self._good: dict[bytes, None] = {}

    @contextmanager
    def at_a_door(self, address: str | None, *, goes_on: bool = False) -> Iterator[None]:
        """Count a request that needs no token, as a context around it. Raises TooMany.

        `goes_on`: the request refreshes an existing login.
        """
        where = origin(address)
        is_open, buckets = (
            (self._going_on_open, self._going_on) if goes_on else (self._open, self._buckets)
        )
        if self._a_second and is_open[where] >= AT_ONCE_MAX:
            detail = f"From {where} {AT_ONCE_MAX} requests without a token are open already: let one end first."
            raise TooMany("too_many_requests", detail, retry_after_seconds=1)
        if early := buckets.take(where):
            raise self._too_many(where, early)
        with _counted(is_open, where):
            yield

    def is_too_fast(self, address: str | None) -> bool:
        """Count a request and return True if its origin is over the limit; for probes.

        The request itself is never refused.
        """
        return self._buckets.take(origin(address)) > 0

    def without_token(self, address: str | None) -> None:
        """Count a request that needs a token and has none. Raises TooMany."""
        where = origin(address)
        if early := self._buckets.take(where):
            raise self._too_many(where, early)

    @contextmanager
    def judging(self, address: str | None, token: str) -> Iterator[None]:
        """Count the verification of a token, as a context around it.

        The token counts as invalid until it proves valid, or until it could not be verified
        (Unavailable). Raises TooMany for an invalid token beyond the limit. A token beyond the
        limit is refused without verification only if DOUBTED_MAX others of the same origin are
        being verified.
        """
        digest = _digest(token)
        if digest in self._good:
            with self._forgotten_if_bad(digest):
                yield
            return
        where = origin(address)
        # A valid token must pass, whatever others send from its address: so it is verified even if
        # the origin is over its limit.
        early = self._buckets.take(where)
        if early and self._doubted[where] >= DOUBTED_MAX:
            raise self._too_many(where, early)
        try:
            with (
                self._forgotten_if_bad(digest),
                _counted(self._doubted, where) if early else nullcontext(),
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
    def _forgotten_if_bad(self, digest: bytes) -> Iterator[None]:
        try:
            yield
        except Unauthorised:
            self._good.pop(digest, None)
            raise

    def _remember(self, digest: bytes) -> None:
        if digest not in self._good and len(self._good) >= TOKENS_MAX:
            del self._good[next(iter(self._good))]
        self._good[digest] = None

    def _too_many(self, where: str, early: float) -> TooMany:
        detail = (
            f"From {where} come more than {self._a_second} requests a second without a good token "
            "(OPSJOBS_UNAUTHENTICATED_RATE_LIMIT): send a good token, or ask less often."
        )
        return TooMany("too_many_requests", detail, retry_after_seconds=math.ceil(early))


@contextmanager
def _counted(among: Counter[str], where: str) -> Iterator[None]:
    among[where] += 1
    try:
        yield
    finally:
        among[where] -= 1
        if not among[where]:
            del among[where]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
