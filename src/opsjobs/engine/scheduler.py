"""The scheduler: what beat's tick does. It mends and tells like every worker; schedules join it with their own issue."""

from __future__ import annotations

import time

from opsjobs.engine.heart import BEATS_A_LEASE
from opsjobs.engine.relay import Relay
from opsjobs.engine.rescuer import Rescuer
from opsjobs.engine.service import Counts
from opsjobs.store.workers import Workers

NAME = "scheduler"


class Scheduler:
    """One round a tick. It may bury others once its own rounds have found the database well for as long as a lease.

    Shorter would bury everybody after an outage that outlasted the leases: workers renew only every third of one.
    """

    def __init__(self, workers: Workers, relay: Relay, *, lease_seconds: float = 15.0) -> None:
        self._workers = workers
        self._relay = relay
        self._lease_seconds = lease_seconds
        self._well_since: float | None = None
        self._well_at = 0.0
        self.rescuer: Rescuer | None = None

    @property
    def may_bury(self) -> bool:
        """Whether the database was well long enough for every living worker to have renewed."""
        return self._well_since is not None and time.monotonic() - self._well_since >= self._lease_seconds

    async def run_once(self) -> Counts:
        """One round; says what was done, by kind."""
        began = time.monotonic()
        if began - self._well_at > self._lease_seconds:
            self._well_since = None  # it was frozen itself: of the time between it knows nothing
        try:
            await self._workers.tick(NAME)
            self._judge(began)
            mended = await self.rescuer.run_once() if self.rescuer is not None else {}
            told = await self._relay.run_once()
        except Exception:
            self._well_since = None
            raise
        self._judge(began)
        self._well_at = time.monotonic()
        if self._well_since is None:
            self._well_since = self._well_at
        return {**mended, **told}

    def _judge(self, began: float) -> None:
        # No error, but a wait: perhaps for a database that was away, and then nobody could renew either.
        if time.monotonic() - began > self._lease_seconds / BEATS_A_LEASE:
            self._well_since = None
