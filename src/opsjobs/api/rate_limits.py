"""Rate limits per caller, and per client address for requests without a valid token.

Also the limit of streams and downloads per caller.

They are token buckets in the memory of this process and need no Redis. A request is counted before
its body is read and before any look-up. A caller with a valid token is not counted by address,
whatever others send from the same address. Therefore its token is verified even if the address is
over its limit; then only a few tokens at a time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from typing import Generic, TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.connections import Network
from opsjobs.api.problems import Problem
from opsjobs.clock import Clock
from opsjobs.model.access import Principal
from opsjobs.model.addresses import origin
from opsjobs.model.errors import TooMany, Unauthorised, Unavailable

CALLERS_MAX = 100_000
"""Maximum number of separate buckets: more callers than send requests within seconds."""


class RateLimitMiddleware:
    """Middleware that limits the requests a second of each principal; 0: no limit.

    A request is refused before its body is read.
    """

    def __init__(self, app: ASGIApp, a_second: int, clock: Clock) -> None:
        self._app = app
        self._a_second = a_second
        self._buckets: TokenBuckets[tuple[str, str]] = TokenBuckets(
            a_second, clock, kept=CALLERS_MAX
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 429 and Retry-After."""
        principal = scope.get("state", {}).get("principal")
        early = (
            self._buckets.take((principal.kind, principal.name))
            if isinstance(principal, Principal)
            else 0.0
        )
        if early:
            detail = (
                f"{principal.name} sends more than {self._a_second} requests a second "
                "(OPSJOBS_RATE_LIMIT). Send fewer."
            )
            refused = TooMany("too_many_requests", detail, retry_after_seconds=math.ceil(early))
            await Problem.from_refusal(scope, refused)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


ORIGINS_MAX = 10_000
TOKENS_MAX = 10_000
AT_ONCE_MAX = 50
"""Maximum number of concurrent requests without a token per origin.

A limit is needed because their bodies are read before the caller is known."""
HOOK_BODIES_BYTES_MAX = 200 << 20
"""Maximum size of the bodies of concurrent calls of triggers, from all origins.

Each holds a body of up to OPSJOBS_BODY_LIMIT_BYTES before its sender is known."""
HOOKS_AT_ONCE_MIN = 4
VERIFIED_AT_ONCE_MAX = 4
"""Maximum number of tokens verified at a time for an origin that is over its limit."""


class OpenRequest(StrEnum):
    """Requests without a token, each kind with its own limit.

    So one kind does not use up the limit of another.
    """

    REFRESH = "refresh"
    """Refreshes an existing login."""
    HOOK = "hook"
    """Calls a trigger."""
    OTHER = "other"


class UnauthenticatedLimiter:
    """Limiter of requests without a valid token.

    `a_second`: the limit per origin (an IPv4 address, an IPv6 /64); 0: no limit. `body_bytes`: the
    limit of a body.
    """

    def __init__(self, a_second: int, clock: Clock, *, body_bytes: int = 1 << 20) -> None:
        self._a_second = a_second
        self._hooks_max = max(HOOK_BODIES_BYTES_MAX // body_bytes, HOOKS_AT_ONCE_MIN)
        self._buckets_of: dict[OpenRequest, TokenBuckets[str]] = {
            kind: TokenBuckets(a_second, clock, kept=ORIGINS_MAX) for kind in OpenRequest
        }
        self._buckets = self._buckets_of[OpenRequest.OTHER]
        self._open: dict[OpenRequest, Counter[str]] = {kind: Counter() for kind in OpenRequest}
        self._hooks = 0
        self._verifying: Counter[str] = Counter()
        # Digests of tokens that were valid at their last use, in the order of their first use.
        self._valid: dict[bytes, None] = {}

    @contextmanager
    def open_request(
        self, address: str | None, kind: OpenRequest = OpenRequest.OTHER
    ) -> Iterator[None]:
        """Count a request that needs no token, as a context around it. Raises TooMany."""
        where = origin(address)
        is_open, buckets = self._open[kind], self._buckets_of[kind]
        if self._a_second and is_open[where] >= AT_ONCE_MAX:
            detail = (
                f"{where} has {AT_ONCE_MAX} open requests without a token, which is the limit. "
                "Wait until one of them has ended."
            )
            raise TooMany("too_many_requests", detail, retry_after_seconds=1)
        if early := buckets.take(where):
            raise self._too_many(where, early)
        is_hook = kind is OpenRequest.HOOK
        if is_hook and self._hooks >= self._hooks_max:
            detail = (
                f"{self._hooks_max} calls of triggers are being answered, which is the limit of "
                "this process. Send the call again in a second."
            )
            raise TooMany("too_many_requests", detail, retry_after_seconds=1)
        self._hooks += is_hook
        try:
            with _count_open(is_open, where):
                yield
        finally:
            self._hooks -= is_hook

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


STREAM_RETRY_SECONDS = 5


class Streams:
    """Open streams and downloads of this process by caller: at most `most` each; 0: no limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_of(self, caller: Principal) -> Iterator[None]:
        """Count one stream or download while the context is open. Raises TooMany."""
        who = (caller.kind, caller.name)
        if self._most and self._open[who] >= self._most:
            detail = (
                f"{caller.name} has {self._most} streams and downloads open, which is the limit "
                "(OPSJOBS_STREAMS_PER_CALLER). Close one of them first."
            )
            raise TooMany("too_many_streams", detail, retry_after_seconds=STREAM_RETRY_SECONDS)
        self._open[who] += 1
        try:
            yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


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


HOPS_MAX = 20


class ClientAddresses:
    """Resolver of client addresses; X-Forwarded-For is accepted from `trusted` proxies only."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def address(self, scope: Scope) -> str | None:
        """Return the client's address: the last in X-Forwarded-For that is not a trusted proxy."""
        client = scope.get("client")
        found: str | None = client[0] if client else None
        if not self._trusted or not self._is_ours(found):
            return found
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        # From the end: entries before the last untrusted address were sent by that client itself.
        for one in reversed([part.strip() for part in forwarded[-HOPS_MAX:]]):
            if not _is_address(one):
                return found
            found = one
            if not self._is_ours(one):
                return found
        return found

    def _is_ours(self, text: str | None) -> bool:
        if text is None or not _is_address(text):
            return False
        address = ipaddress.ip_address(text)
        return any(
            address in network for network in self._trusted if network.version == address.version
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


BURST_SECONDS = 4
"""Burst size: after a pause, the refill of this many seconds can be taken at once."""
ROUNDING_SECONDS = 1e-6

Who = TypeVar("Who", bound=Hashable)


class TokenBuckets(Generic[Who]):
    """Token buckets by caller.

    A full bucket equals that of an unseen caller and is removed. `kept`: the maximum number of
    separate buckets; new callers beyond it share one bucket, so that a client with a million
    addresses does not get a million buckets.
    """

    def __init__(self, a_second: int, clock: Clock, *, kept: int) -> None:
        self._a_second = a_second
        self._clock = clock
        self._kept = kept
        # When each bucket will be full again: the tokens it lacks now are the time until then times
        # the rate. Ordered by last use: a bucket unused for BURST_SECONDS is full, so full buckets
        # come first and are cheap to remove.
        self._full_at: dict[Who | None, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, who: Who) -> float:
        """Take a token and return 0.0; if there is none, return the seconds until there is one."""
        if not self._a_second:
            return 0.0
        now = self._clock.monotonic()
        self._forget(now)
        key = who if who in self._full_at or len(self._full_at) < self._kept else None
        full_at = max(self._full_at.get(key, now), now) + 1 / self._a_second
        if (early := full_at - now - BURST_SECONDS) > ROUNDING_SECONDS:
            return early
        self._put(key, full_at)
        return 0.0

    def give_back(self, who: Who) -> None:
        """Put back a token that was taken in error."""
        key = who if who in self._full_at else None
        if key in self._full_at:
            self._put(key, self._full_at[key] - 1 / self._a_second)

    def _put(self, key: Who | None, full_at: float) -> None:
        self._full_at.pop(key, None)
        self._full_at[key] = full_at

    def _forget(self, now: float) -> None:
        while self._full_at and self._full_at[first := next(iter(self._full_at))] <= now:
            del self._full_at[first]
