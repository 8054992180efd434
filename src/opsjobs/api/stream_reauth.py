"""Whether whoever opened an answer that lasts may still have it: asked anew from time to time, and for no other request."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from fastapi import Request

from opsjobs.api.auth import Within, check, token_of
from opsjobs.api.authorization import permission_of
from opsjobs.api.dependencies import services_of
from opsjobs.clock import Clock
from opsjobs.model.errors import Unavailable

PATIENCE_SECONDS = 15.0
RETRY_SECONDS = 1.0
JITTER = 0.2
"""Viewers that came together are not asked about together: each a share of this earlier."""


class StreamReauth:
    """Good for `every_seconds` at most after `ask` returned; `ask` raises a Refusal, or Unavailable where nobody can say."""

    def __init__(self, ask: Callable[[], Awaitable[None]], clock: Clock, *, every_seconds: float) -> None:
        self._ask = ask
        self._clock = clock
        self._every_seconds = every_seconds
        self._put_off()

    @property
    def seconds_left(self) -> float:
        """Until it has to be asked again."""
        return max(0.0, self._due - self._clock.monotonic())

    async def check(self) -> None:
        """Call it before anything goes out. Where it is due it is asked; while nobody can say nothing goes out, and after
        PATIENCE_SECONDS of that it raises Unavailable. Raises what `ask` does.
        """
        if self.seconds_left:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._asked()
        except TimeoutError:
            raise Unavailable("nobody could say for a while whether this stream may go on") from None
        self._put_off()

    async def _asked(self) -> None:
        while True:
            try:
                await self._ask()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _put_off(self) -> None:
        share = 1 - JITTER * random.random()  # noqa: S311  spreads load, keeps no secret
        self._due = self._clock.monotonic() + self._every_seconds * share


def standing(request: Request, still: Callable[[], object]) -> StreamReauth:
    """Of this request: its token is judged again, then the permission of its route, then the thing in its path (`still`, which
    raises as it did when the answer began).
    """
    services = services_of(request)
    token, permission = token_of(request.headers), permission_of(request)

    async def ask() -> None:
        request.state.principal = await services.access.judge.principal(token)
        check(request, permission, within=Within.OBJECT)
        still()

    return StreamReauth(ask, services.clock, every_seconds=services.limits.stream_reauth_seconds)
