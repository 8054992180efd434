"""How often may be asked from one address without a good token: counted in the memory of this process, before anything is looked up.

Who has a good token is no stranger: he is not counted here, whatever others do from his address.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from opsjobs.api.buckets import Buckets
from opsjobs.clock import Clock
from opsjobs.model.failures import TooMany
from opsjobs.model.origin import origin

ORIGINS_MAX = 10_000
TOKENS_MAX = 10_000
AT_ONCE_MAX = 50
"""Requests without a token that one origin may have open: their bodies are read, and nobody answers for them."""


class Strangers:
    """`a_second`: requests without a good token from one origin (an IPv4 address, an IPv6 /64); 0 = no limit."""

    def __init__(self, a_second: int, clock: Clock) -> None:
        self._a_second = a_second
        self._buckets: Buckets[str] = Buckets(a_second, clock, kept=ORIGINS_MAX)
        self._open: Counter[str] = Counter()
        # Digests of tokens that were good when they came last, in the order of their first use.
        self._good: dict[bytes, None] = {}

    @contextmanager
    def at_a_door(self, address: str | None) -> Iterator[None]:
        """Around a request that needs no token. Raises TooMany."""
        where = origin(address)
        if self._a_second and self._open[where] >= AT_ONCE_MAX:
            detail = f"From {where} {AT_ONCE_MAX} requests without a token are open already: let one end first."
            raise TooMany("too_many_requests", detail, retry_after_seconds=1)
        self._take(where)
        self._open[where] += 1
        try:
            yield
        finally:
            self._open[where] -= 1
            if not self._open[where]:
                del self._open[where]

    def is_too_fast(self, address: str | None) -> bool:
        """Whether another one from there would be one too many; this one is counted, and is never refused (probes)."""
        return self._buckets.take(origin(address)) > 0

    def begin(self, address: str | None, token: str | None) -> None:
        """Before a token is judged: it is counted as a bad one until it proves good. Raises TooMany: then it is not judged."""
        if token is None or _digest(token) not in self._good:
            self._take(origin(address))

    def proved_good(self, address: str | None, token: str) -> None:
        """It is not counted, and will not be again."""
        if (digest := _digest(token)) in self._good:
            return
        self._buckets.give_back(origin(address))
        if len(self._good) >= TOKENS_MAX:
            del self._good[next(iter(self._good))]
        self._good[digest] = None

    def was_not_judged(self, address: str | None, token: str) -> None:
        """Nobody could say whether it is good: it is not counted."""
        if _digest(token) not in self._good:
            self._buckets.give_back(origin(address))

    def proved_bad(self, token: str) -> None:
        """It was good once, perhaps: from now on it is counted as any other."""
        self._good.pop(_digest(token), None)

    def _take(self, where: str) -> None:
        if early := self._buckets.take(where):
            detail = (
                f"From {where} come more than {self._a_second} requests a second without a good token "
                "(OPSJOBS_STRANGER_RATE_LIMIT): send a good token, or ask less often."
            )
            raise TooMany("too_many_requests", detail, retry_after_seconds=math.ceil(early))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
