"""The rescuer: buries who died and mends what was left behind; the same in every worker and the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from opsjobs.engine.service import Counts
from opsjobs.store.ledger import Ledger
from opsjobs.store.workers import Workers

# A little less than the pause between two looks, so that one process alone makes a round with each.
ROUND_SECONDS = 0.9
# No longer than one beat of the shortest lease.
BURY_SECONDS = 1.0


def _unknown() -> None:
    return None


class Rescuer:
    """`run_once` is cheap where there is nothing to do; the dearer checks are housekeeping's.

    `database_now`: what the database's clock should show (seconds since 1970), None if that is not known. If it shows something
    else, no worker is buried.
    """

    def __init__(
        self,
        ledger: Ledger,
        workers: Workers,
        *,
        may_reap: Callable[[], bool],
        notify: Callable[[str], None],
        round_seconds: float = ROUND_SECONDS,
        database_now: Callable[[], float | None] = _unknown,
    ) -> None:
        self._ledger = ledger
        self._workers = workers
        self._may_bury = may_reap
        self._database_now = database_now
        self._notify = notify
        self._round_seconds = round_seconds

    async def run_once(self) -> Counts:
        """One round; says what was mended, by kind."""
        zones = await self._bury() if self._may_bury() else ()
        for zone in zones:
            self._notify(zone)
        done = {"buried": len(zones)}
        if await self._ledger.try_start_round(self._round_seconds):
            done |= await self._ledger.reconcile()
        return done

    async def _bury(self) -> Sequence[str]:
        # A burial that waits for a database that is away would come when it is back, before anybody could renew.
        try:
            async with asyncio.timeout(BURY_SECONDS):
                return await self._workers.expire_leases(expected=self._database_now())
        except TimeoutError:
            return ()
