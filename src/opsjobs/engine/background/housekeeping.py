"""The rescuer, and the housekeeping of the database.

The rescuer expires the leases of dead workers and repairs the state they left. It is the same in
every worker and the scheduler.

Housekeeping is retention, partitions, expensive checks, and audit seals. Housekeeping and retention
are turns: one process at a time takes each, about once a minute. The audit log is sealed by the
scheduler each second, and by a worker if rows stay unsealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from opsjobs.engine.loop import Counts, Step, Turn
from opsjobs.model.errors import Unavailable
from opsjobs.store.audit_chain import SEALED_AT_ONCE, Seals, UnverifiedChain
from opsjobs.store.blobs import Contents
from opsjobs.store.execution_log import Partitions
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.retention import Leftovers, Retention, RetentionLimits
from opsjobs.store.workers import SingletonLock, Workers
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

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


HOUSEKEEPING = "housekeeping"
RETENTION = "retention"
LEFTOVERS, LEFTOVERS_SECONDS = "leftovers", 86_400.0
"""Interval of the check that reads all open runs, made by the process that has the turn."""

SEAL_SECONDS = 1.0
# The sum of the next two is less than the 10 s after which `verify` complains.
SEAL_STAND_IN_SECONDS = 3.0
"""Interval at which a worker looks for rows that stayed unsealed."""
SEAL_BEHIND_SECONDS = 3.0
"""Time for which rows must have been unsealed before a worker seals them."""
SEAL_ROUNDS_A_PASS = 20


class Housekeeper:
    """Make partitions, recount, count hours, and delete short-lived rows.

    The checks are too expensive for each second; the rows are kept for a day or a week.
    `more`: further steps, by name.
    """

    def __init__(
        self,
        turn: Turn,
        turns: SingletonLock,
        metrics: Metrics,
        *,
        reconciler: Reconciler,
        workers: Workers,
        delete_old_events: Callable[[], Awaitable[int]],
        more: Mapping[str, Step],
        delete_old_notification_states: Callable[[], Awaitable[int]],
        delete_old_keys: Callable[[], Awaitable[int]],
        count_hour: Callable[[], Awaitable[int]],
        partitions: Partitions,
        contents: Contents,
        leftovers: Leftovers,
    ) -> None:
        self._turn = turn
        self._turns = turns
        self._metrics = metrics
        self._reconciler = reconciler
        self._workers = workers
        self._delete_old_events = delete_old_events
        self._more = more
        self._delete_old_notification_states = delete_old_notification_states
        self._delete_old_keys = delete_old_keys
        self._count_hour = count_hour
        self._partitions = partitions
        self._contents = contents
        self._leftovers = leftovers

    async def run_once(self) -> Counts:
        """Do one turn if it belongs to this process; return counts by step."""
        return await self._turn.run(
            {
                "partitions_made": self._make_partitions,
                "counters_mended": self._recount,
                "workers_forgotten": self._workers.delete_old,
                "events_forgotten": self._delete_old_events,
                **self._more,
                "notification_states_forgotten": self._delete_old_notification_states,
                "keys_forgotten": self._delete_old_keys,
                "hours_counted": self._count_hour,
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
                    # Raises if PostgreSQL is unavailable: then the other days would fail, too.
                    await self._partitions.find_missing()
        if failed:
            self._metrics.upkeep_failures.labels("partitions_made").inc()
            log.error("partition_creation_failed", days=failed)
        return 0 if failed else made

    async def _forget_leftovers(self) -> int:
        if not await self._turns.acquire(LEFTOVERS, LEFTOVERS_SECONDS):
            return 0
        return await self._leftovers.forget()

    async def _recount(self) -> int:
        counted = await self._reconciler.recount()
        if any(counted.values()):
            self._metrics.bugs.labels("counters").inc()
            log.error("counters_differ", **counted)
        return counted["slots_mended"]


class RetentionService:
    """Delete everything that is past its retention limit."""

    def __init__(
        self, turn: Turn, retention: Retention, keep: RetentionLimits, seals: Seals
    ) -> None:
        self._turn = turn
        self._retention = retention
        self._seals = seals
        self._keep = keep

    async def run_once(self) -> Counts:
        """Do one turn if it belongs to this process; return how much was deleted, by kind."""
        steps = {
            "log_days_dropped": self._retention.drop_days,
            "executions_deleted": self._retention.delete_executions,
            "surplus_executions_deleted": self._retention.delete_surplus,
            "artifacts_deleted": self._retention.delete_artifacts,
            "files_deleted": self._retention.delete_files,
            "firings_deleted": self._retention.delete_firings,
            "names_forgotten": self._retention.forget_names,
            "audit_rows_deleted": self._delete_audit,
        }
        return await self._turn.run(
            {name: partial(delete, self._keep) for name, delete in steps.items()}
        )

    async def _delete_audit(self, keep: RetentionLimits) -> int:
        """Delete old rows at the head of the audit log's chain; return how many.

        Nothing is deleted if the log is kept forever, or if the chain is not intact.
        """
        if not keep.audit_seconds:
            return 0
        try:
            return await self._seals.retain(keep.audit_seconds)
        except UnverifiedChain as refused:
            log.error("audit_not_retained", reason=str(refused))
            return 0


class AuditSealer:
    """Seal the audit log; `run_once` is one cheap query if there is nothing to do."""

    def __init__(self, seals: Seals, *, behind_seconds: float = 0.0) -> None:
        self._seals = seals
        self._behind_seconds = behind_seconds
        self._logged: str | None = None

    async def run_once(self) -> Counts:
        """Seal the unsealed rows if one is `behind_seconds` old; return how many were sealed.

        A chain that differs from what this service sealed is not extended: the reason is logged
        once.
        """
        try:
            sealed = await self._seal()
        except UnverifiedChain as refused:
            if str(refused) != self._logged:
                log.error("audit_not_sealed", reason=str(refused))
            self._logged = str(refused)
            return {"sealed": 0}
        self._logged = None
        return {"sealed": sealed}

    async def _seal(self) -> int:
        sealed = part = await self._seals.seal(older_than_seconds=self._behind_seconds)
        for _ in range(SEAL_ROUNDS_A_PASS - 1):
            if part < SEALED_AT_ONCE:
                break
            part = await self._seals.seal()
            sealed += part
        return sealed
