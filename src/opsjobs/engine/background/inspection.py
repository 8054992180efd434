"""Check that the service can work with its database and keys, and report problems.

The check is made at start and periodically after that.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsjobs.clock import Clock
from opsjobs.engine.loop import Counts
from opsjobs.store.system_status import Complaint, Fitness
from opsjobs.telemetry.logs import log

INSPECTION_SECONDS = 10.0
SECRETS_SECONDS = 3_600.0
"""Interval of counting the secrets sealed under each key, which reads every sealed row."""


class Inspection:
    """Periodic checks of the database and the keys.

    Each problem is logged once when it appears, and once more when it is resolved.
    `space`: also check whether the database's volume is full, which writes to it.
    """

    def __init__(self, fitness: Fitness, clock: Clock, *, space: bool = False) -> None:
        self._fitness = fitness
        self._clock = clock
        self._space = space
        self._secrets: Sequence[Complaint] = ()
        self._secrets_at = float("-inf")
        self.complaints: Sequence[Complaint] = ()
        """Findings of the last check; empty before the first."""

    async def run_once(self) -> Counts:
        """Check once. Raises Unavailable while the database is unavailable."""
        found = [*await self._fitness.faults()]
        if not any(complaint.fatal for complaint in found):
            if self._space:
                found += await self._fitness.space()
            found += await self._check_secrets()
        self._log_changes(found)
        self.complaints = found
        return {"complaints": len(found)}

    async def _check_secrets(self) -> Sequence[Complaint]:
        now = self._clock.monotonic()
        if now - self._secrets_at >= SECRETS_SECONDS:
            self._secrets_at = now  # set first: a count that takes too long is not retried at once
            self._secrets = await self._fitness.secrets()
        return self._secrets

    def _log_changes(self, found: Sequence[Complaint]) -> None:
        for complaint in found:
            if complaint not in self.complaints:
                write = log.error if complaint.fatal else log.warning
                write("service_check_failed", code=complaint.code, reason=complaint.detail)
        for code in {c.code for c in self.complaints} - {c.code for c in found}:
            log.info("service_check_recovered", code=code)
