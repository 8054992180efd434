"""The scheduler: what beat's tick does. It mends and tells like every worker; schedules join it with their own issue."""

from __future__ import annotations

from opsjobs.engine.heart import BEATS_TO_BURY
from opsjobs.engine.relay import Relay
from opsjobs.engine.rescuer import Rescuer
from opsjobs.engine.service import Counts
from opsjobs.store.workers import Workers

NAME = "scheduler"


class Scheduler:
    """One round a tick. It may bury others once its own last rounds have all found the database well."""

    def __init__(self, workers: Workers, relay: Relay) -> None:
        self._workers = workers
        self._relay = relay
        self._well_in_a_row = 0
        self.rescuer: Rescuer | None = None

    @property
    def may_bury(self) -> bool:
        """Whether the last rounds went well, so that it is not the database that was away."""
        return self._well_in_a_row >= BEATS_TO_BURY

    async def run_once(self) -> Counts:
        """One round; says what was done, by kind."""
        try:
            await self._workers.tick(NAME)
            mended = await self.rescuer.run_once() if self.rescuer is not None else {}
            told = await self._relay.run_once()
        except Exception:
            self._well_in_a_row = 0
            raise
        self._well_in_a_row += 1
        return {**mended, **told}
