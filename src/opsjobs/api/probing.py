"""What probes are told: whether PostgreSQL and Redis are there. Whoever asks too often hears what was found a moment before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from opsjobs.model.failures import Unavailable
from opsjobs.store.fleet import HEAD
from opsjobs.telemetry import log

PROBE_SECONDS = 2.0
"""A probe is answered within this, whatever PostgreSQL does."""
KEPT_SECONDS = 1.0
"""How old what somebody hears may be who asks too often."""

Found = TypeVar("Found")


class Look(Generic[Found]):
    """One question to a server."""

    def __init__(self, ask: Callable[[], Awaitable[Found]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._found: list[Found] = []
        self._at = 0.0

    async def __call__(self, *, in_a_hurry: bool) -> Found:
        """How it is now; `in_a_hurry`: or was a second ago, so that any number of these is one question a second."""
        if not in_a_hurry:
            return await self._ask()
        async with self._asking:
            loop = asyncio.get_running_loop()
            if not self._found or loop.time() >= self._at + KEPT_SECONDS:
                self._found = [await self._ask()]
                self._at = loop.time()
            return self._found[0]


class Probes:
    """`trouble`: why no request can be served, or None; `redis`: whether it answers. `parts` has `fleet` and `bus`."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self.trouble = Look(self._trouble)
        self.redis = Look(self._redis)

    async def _redis(self) -> bool:
        answers: bool = await self._parts.bus.ping()
        return answers

    async def _trouble(self) -> str | None:
        # The reason goes to the log, not to whoever asks.
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                schema = await self._parts.fleet.schema()
        except (Unavailable, TimeoutError) as away:
            log.warning("not ready: PostgreSQL does not answer", error=str(away))
            return "database"
        if schema is None or schema < HEAD:
            log.warning("not ready: migrations are missing, run `opsjobs db upgrade`", schema=schema, needed=HEAD)
            return "migrations"
        return None
