"""The rescuer: expire the leases of dead workers and repair the state they left.

It is the same in every worker and the scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from opsjobs.engine.loop import Counts
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.workers import Workers

ROUND_SECONDS = 0.9
"""A little less than the pause between two calls of `run_once`.

So a process without others makes a round each time.
"""
EXPIRE_SECONDS = 1.0
"""Time limit of expiring leases: no longer than one heartbeat of the shortest lease."""


def _unknown_time() -> None:
    return None


class Rescuer:
    """Lease expiry and repair; cheap if there is nothing to do.

    The more expensive checks are in housekeeping. `may_reap`: True if leases may be expired now.
    `database_now`: the expected time of the database's clock (seconds since 1970), None if unknown.
    If the clock differs from it, no lease is expired.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        workers: Workers,
        *,
        may_reap: Callable[[], bool],
        notify: Callable[[str], None],
        round_seconds: float = ROUND_SECONDS,
        database_now: Callable[[], float | None] = _unknown_time,
    ) -> None:
        self._reconciler = reconciler
        self._workers = workers
        self._may_reap = may_reap
        self._database_now = database_now
        self._notify = notify
        self._round_seconds = round_seconds

    async def run_once(self) -> Counts:
        """Run one round; return how much was repaired, by kind."""
        zones = await self._expire_leases() if self._may_reap() else ()
        for zone in zones:
            self._notify(zone)
        done = {"leases_expired": len(zones)}
        if await self._reconciler.take_turn(self._round_seconds):
            done |= await self._reconciler.run_once()
        return done

    async def _expire_leases(self) -> Sequence[str]:
        # If this waited for an unavailable database, leases would be expired as soon as it is back,
        # before any worker could renew its own.
        try:
            async with asyncio.timeout(EXPIRE_SECONDS):
                return await self._workers.expire_leases(expected=self._database_now())
        except TimeoutError:
            return ()
