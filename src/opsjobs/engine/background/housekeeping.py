"""Housekeeping: expensive checks, partitions of the log, and deletion of short-lived rows.

The checks are too expensive for each second; the rows are kept for a day or a week.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opsjobs.engine.service import Counts
from opsjobs.engine.turn import Turn
from opsjobs.model.errors import Unavailable
from opsjobs.store.blobs import Contents
from opsjobs.store.ledger import Ledger
from opsjobs.store.leftovers import Leftovers
from opsjobs.store.outbox import Outbox
from opsjobs.store.partitions import Partitions
from opsjobs.store.singleton_lock import SingletonLock
from opsjobs.store.workers import Workers
from opsjobs.telemetry import Metrics, log

SERVICE = "housekeeping"
# The check that reads all open runs: the process that has the turn makes it once a day.
LEFTOVERS, LEFTOVERS_SECONDS = "leftovers", 86_400.0


class Housekeeper:
    """Upkeep that runs in every worker and the scheduler.

    One of them at a time has the turn, once a minute.
    """

    def __init__(
        self,
        turn: Turn,
        turns: SingletonLock,
        metrics: Metrics,
        *,
        ledger: Ledger,
        workers: Workers,
        outbox: Outbox,
        delete_old_keys: Callable[[], Awaitable[int]],
        partitions: Partitions,
        contents: Contents,
        leftovers: Leftovers,
    ) -> None:
        self._turn = turn
        self._turns = turns
        self._metrics = metrics
        self._ledger = ledger
        self._workers = workers
        self._outbox = outbox
        self._delete_old_keys = delete_old_keys
        self._partitions = partitions
        self._contents = contents
        self._leftovers = leftovers

    async def run_once(self) -> Counts:
        """Do one turn, if it is this process's; return what was done, by step."""
        return await self._turn.run(
            {
                "partitions_made": self._make_partitions,
                "counters_mended": self._recount,
                "workers_forgotten": self._workers.delete_old,
                "events_forgotten": self._outbox.delete_old,
                "keys_forgotten": self._delete_old_keys,
                "contents_swept": self._contents.sweep,
                "leftovers_forgotten": self._forget_leftovers,
            }
        )

    async def _make_partitions(self) -> int:
        made, failed = 0, dict[str, str]()
        for day in await self._partitions.find_missing():
            try:
                made += await self._partitions.make(day)
            except Exception as refused:  # noqa: BLE001  one bad day must not block the others
                failed[str(day)] = str(refused)
                if isinstance(refused, Unavailable):
                    # Raises if PostgreSQL is away: then the other days would fail, too.
                    await self._partitions.find_missing()
        if failed:
            self._metrics.upkeep_failures.labels("partitions_made").inc()
            log.error("partitions_not_made", days=failed)
        return 0 if failed else made

    async def _forget_leftovers(self) -> int:
        if not await self._turns.acquire(LEFTOVERS, LEFTOVERS_SECONDS):
            return 0
        return await self._leftovers.forget()

    async def _recount(self) -> int:
        counted = await self._ledger.recount()
        if any(counted.values()):
            self._metrics.bugs.labels("counters").inc()
            log.error("counters_differ", **counted)
        return counted["slots_mended"]
