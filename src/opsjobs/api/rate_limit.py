"""Rate limit per caller: a token bucket each, in memory of this process, without Redis."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.problems import Problem
from opsjobs.api.token_bucket import TokenBuckets
from opsjobs.clock import Clock
from opsjobs.model.access import Principal
from opsjobs.model.errors import TooMany

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
        """Pass the request on, or answer 429 with Retry-After."""
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
