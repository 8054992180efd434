"""Health checks of PostgreSQL and Redis for probes.

A caller over its rate limit gets the cached result of a moment before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from opsjobs.composition import Services
from opsjobs.model.errors import Unavailable
from opsjobs.store.database_checks import Complaint
from opsjobs.store.system_status import HEAD
from opsjobs.telemetry import log

PROBE_SECONDS = 2.0
"""A probe is answered within this time, whatever PostgreSQL does."""
KEPT_SECONDS = 1.0
"""Maximum age of the result for a caller that is over its rate limit."""

REDIS_AWAY = Complaint(
    "redis_away", "Redis does not answer: work continues, by polling once a second."
)

Found = TypeVar("Found")


class HealthProbe(Generic[Found]):
    """One check of a server, with its last result."""

    def __init__(self, ask: Callable[[], Awaitable[Found]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._found: list[Found] = []
        self._at = 0.0

    async def __call__(self, *, in_a_hurry: bool) -> Found:
        """Return the current result.

        `in_a_hurry`: accept a result of up to a second ago, so that any number of such calls makes
        one check a second.
        """
        if not in_a_hurry:
            return await self._ask()
        async with self._asking:
            loop = asyncio.get_running_loop()
            if not self._found or loop.time() >= self._at + KEPT_SECONDS:
                self._found = [await self._ask()]
                self._at = loop.time()
            return self._found[0]


class Probes:
    """The probes of one process.

    `admin_waits`: the admin token of the settings is not valid yet.
    `trouble`: the reason why no request can be served, or None. `redis`: True if Redis answers.
    """

    def __init__(self, services: Services, *, admin_waits: bool = False) -> None:
        self._services = services
        self.admin_waits = admin_waits
        self.trouble = HealthProbe(self._trouble)
        self.redis = HealthProbe(self._redis)

    @property
    def complaints(self) -> Sequence[Complaint]:
        """The findings of the last inspection of the database and the keys."""
        found: Sequence[Complaint] = self._services.inspection.complaints
        return found

    async def reasons(self, *, in_a_hurry: bool) -> Sequence[Complaint]:
        """Return the reasons why the service is degraded although requests are served."""
        found = list(self.complaints)
        if self._services.bus.is_configured and not await self.redis(in_a_hurry=in_a_hurry):
            found.append(REDIS_AWAY)
        return found

    async def _redis(self) -> bool:
        answers: bool = await self._services.bus.ping()
        return answers

    async def _trouble(self) -> str | None:
        # The reason goes to the log, not to the caller.
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                schema = await self._services.fleet.schema()
        except (Unavailable, TimeoutError) as away:
            log.warning("not_ready", reason="PostgreSQL does not answer", error=str(away))
            return "database"
        if schema is None or schema < HEAD:
            log.warning(
                "not_ready",
                reason="migrations are missing: run `opsjobs db upgrade`",
                schema=schema,
                needed=HEAD,
            )
            return "migrations"
        fatal = next((complaint.code for complaint in self.complaints if complaint.fatal), None)
        return fatal or ("admin_token" if self.admin_waits else None)
