"""How often one caller may ask: a bucket each, in the memory of this process, so that no Redis has to be there for it."""

from __future__ import annotations

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from opsjobs.api.problems import Problem
from opsjobs.clock import Clock
from opsjobs.model.access import Principal
from opsjobs.model.failures import TooMany

BURST_SECONDS = 4
"""After a pause as many requests are taken at once as otherwise in so many seconds."""
CALLERS_KEPT = 1_000

_Caller = tuple[str, str]


class Rates:
    """Refuses what one principal asks beyond so many requests a second, before its body is read; 0 = no limit."""

    def __init__(self, app: ASGIApp, a_second: int, clock: Clock) -> None:
        self._app = app
        self._buckets = Buckets(a_second, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand it on, or say when to come back."""
        principal = scope.get("state", {}).get("principal")
        try:
            if isinstance(principal, Principal):
                self._buckets.take(principal)
        except TooMany as refused:
            await Problem.of(scope, refused)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Buckets:
    """One bucket of tokens for each caller, filled by the clock. A full one is as that of a caller never seen, and is forgotten."""

    def __init__(self, a_second: int, clock: Clock) -> None:
        self._a_second = a_second
        self._clock = clock
        # When the bucket of a caller will be full again: how much it lacks now is what is left until then, times the rate.
        self._full_at: dict[_Caller, float] = {}

    def take(self, principal: Principal) -> None:
        """Take a token. Raises TooMany where there is none; then none is taken."""
        if not self._a_second:
            return
        now, caller = self._clock.monotonic(), (principal.kind, principal.name)
        full_at = max(self._full_at.get(caller, now), now) + 1 / self._a_second
        if (early := full_at - now - BURST_SECONDS) > 0:
            detail = f"{principal.name} asks more than {self._a_second} times a second (OPSJOBS_RATE_LIMIT): ask less often."
            raise TooMany("too_many_requests", detail, retry_after_seconds=math.ceil(early))
        self._full_at[caller] = full_at
        if len(self._full_at) > CALLERS_KEPT:
            self._full_at = {other: at for other, at in self._full_at.items() if at > now}
