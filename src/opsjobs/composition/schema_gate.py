"""Hold a process back until the database has the schema of its release.

The release before works on a newer schema, but not the other way round: during an upgrade, new
processes may start before the migration has ended. A database that a restore has loaded and not
yet marked would start again what has run since its backup.
"""

from __future__ import annotations

from opsjobs.clock import Clock
from opsjobs.model.errors import Unavailable
from opsjobs.store.restores import NOT_FINISHED
from opsjobs.store.system_status import HEAD, SystemStatus
from opsjobs.telemetry.logs import log

RETRY_SECONDS = 1.0
LOG_SECONDS = 60.0


class SchemaGate:
    """Waits for the schema, and reports what it waits for."""

    def __init__(self, system_status: SystemStatus, clock: Clock) -> None:
        self._system_status = system_status
        self._clock = clock
        self._log_at = 0.0
        self.reason: str | None = "the schema has not been checked yet"
        """The thing that is waited for; None once the schema is there."""

    async def wait(self) -> None:
        """Return once the schema is there; log what is waited for, once a minute."""
        while (reason := await self._find_reason()) is not None:
            if reason != self.reason or self._clock.monotonic() >= self._log_at:
                self._log_at = self._clock.monotonic() + LOG_SECONDS
                log.warning("waits_for_schema", reason=reason)
            self.reason = reason
            await self._clock.sleep(RETRY_SECONDS)
        self.reason = None

    async def _find_reason(self) -> str | None:
        try:
            schema = await self._system_status.schema()
            # Asked after the schema, which is loaded in one transaction with the table.
            unfinished = await self._system_status.restore_unfinished()
        except Unavailable:
            return "PostgreSQL does not answer"
        if unfinished:
            return NOT_FINISHED
        if schema is None or schema < HEAD:
            return (
                f"the schema is {schema or 'missing'}, {HEAD} is needed: run `opsjobs db upgrade`"
            )
        return None
