"""Seal the audit log: in the scheduler, each second.

A worker does it, too, if rows have stayed unsealed for a few seconds.
"""

from __future__ import annotations

from opsjobs.engine.service import Counts
from opsjobs.store.audit_chain import UnverifiedChain
from opsjobs.store.audit_sealer import SEALED_AT_ONCE, Seals
from opsjobs.telemetry import log

SEAL_SECONDS = 1.0
# The sum of the next two is less than the 10 s after which `verify` complains.
STAND_IN_SECONDS = 3.0
"""Interval at which a worker looks for rows that stayed unsealed."""
BEHIND_SECONDS = 3.0
"""Seconds that rows have to be unsealed before a worker seals them."""
ROUNDS_A_PASS = 20


class AuditSealer:
    """Seal the audit log; `run_once` is one cheap query if there is nothing to do."""

    def __init__(self, seals: Seals, *, behind_seconds: float = 0.0) -> None:
        self._seals = seals
        self._behind_seconds = behind_seconds
        self._said: str | None = None

    async def run_once(self) -> Counts:
        """Seal the unsealed rows if one is `behind_seconds` old; return how many were sealed.

        A chain that is not as we left it is not extended: the reason is logged once.
        """
        try:
            sealed = await self._sealed()
        except UnverifiedChain as refused:
            if str(refused) != self._said:
                log.error("audit_not_sealed", reason=str(refused))
            self._said = str(refused)
            return {"sealed": 0}
        self._said = None
        return {"sealed": sealed}

    async def _sealed(self) -> int:
        sealed = part = await self._seals.seal(older_than_seconds=self._behind_seconds)
        for _ in range(ROUNDS_A_PASS - 1):
            if part < SEALED_AT_ONCE:
                break
            part = await self._seals.seal()
            sealed += part
        return sealed
