"""The scheduler, driven by the tick of beat.

It fires schedules; like every worker, it also repairs the effects of failures and publishes events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from opsjobs.engine.background.event_publisher import EventPublisher
from opsjobs.engine.background.housekeeping import Rescuer
from opsjobs.engine.firing.firing import REST_SECONDS, SCHEDULER, FiringService
from opsjobs.engine.loop import Counts
from opsjobs.engine.worker.lease_heartbeat import RENEWALS_PER_LEASE, DatabaseClock
from opsjobs.model.errors import Unavailable
from opsjobs.store.workers import Workers
from opsjobs.telemetry.logs import log

REPAIR_SECONDS_MAX = 60.0
"""Time limit of a repair round.

A longer one is aborted, and the next begins: every round is idempotent.
"""


class Scheduler:
    """Fire schedules on time, and run a repair round once a second concurrently.

    Neither a slow repair round nor Redis delays a firing. The scheduler may expire leases of
    workers once its own rounds have found the database healthy for the length of a lease. With a
    shorter time, an outage that outlasts the leases would expire those of all workers: workers
    renew only every third of a lease.
    """

    def __init__(
        self,
        workers: Workers,
        publisher: EventPublisher,
        *,
        firing: FiringService | None = None,
        lease_seconds: float = 15.0,
    ) -> None:
        self._workers = workers
        self._publisher = publisher
        self._firing = firing
        self._lease_seconds = lease_seconds
        self._repair: asyncio.Task[Counts] | None = None
        self._repaired_at = float("-inf")
        self._healthy_since: float | None = None
        self._healthy_at = 0.0
        self._clock = DatabaseClock()
        self.rescuer: Rescuer | None = None

    @property
    def may_reap(self) -> bool:
        """True if the database has been healthy long enough for all live workers to renew."""
        return (
            self._healthy_since is not None
            and time.monotonic() - self._healthy_since >= self._lease_seconds
        )

    @property
    def database_now(self) -> float | None:
        """Expected time of the database's clock, in seconds since 1970; None if unknown."""
        return self._clock.expected(time.monotonic())

    @property
    def rest_seconds(self) -> float:
        """Seconds until a schedule is due or the next repair round."""
        rest = max(self._repaired_at + REST_SECONDS - time.monotonic(), 0.0)
        return rest if self._firing is None else min(rest, self._firing.rest_seconds)

    async def tick(self) -> Counts:
        """Fire due schedules, and start a repair round if a second has passed.

        Return what was done since the last tick. Raises the exception of a repair round that has
        ended meanwhile.
        """
        # The repair round records the tick, so it begins after the firing: workers have to stand in
        # for a scheduler that cannot fire.
        return {**await self._fire(), **self._start_repair(time.monotonic())}

    async def _fire(self) -> Counts:
        try:
            return await self._firing.run_once() if self._firing is not None else {}
        except Exception:
            self._healthy_since = None
            raise

    def _start_repair(self, now: float) -> Counts:
        if self._repair is not None and not self._repair.done():
            return {}
        ended, self._repair = self._repair, None
        if now - self._repaired_at >= REST_SECONDS:
            self._repaired_at = now
            self._repair = asyncio.create_task(self._repair_in_time(), name="repair")
        return ended.result() if ended is not None else {}

    async def _repair_in_time(self) -> Counts:
        async with asyncio.timeout(REPAIR_SECONDS_MAX):
            return await self.run_once()

    async def stop(self) -> None:
        """Stop; abort a running repair round and launches that are under way."""
        if self._firing is not None:
            await self._firing.stop()
        if self._repair is not None:
            self._repair.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._repair

    async def run_once(self) -> Counts:
        """Run one repair round; return counts by kind.

        Raises the exception of a failed part, after the other part was run.
        """
        began = time.monotonic()
        if began - self._healthy_at > self._lease_seconds:
            self._healthy_since = (
                None  # this process was frozen: the time in between was not observed
            )
        try:
            now = await self._workers.tick(SCHEDULER)
        except Exception:
            self._healthy_since = None
            raise
        self._note_wait(began)
        self._check_clock(now, began)
        done, failed = await self._run_parts()
        self._note_wait(began)
        self._healthy_at = time.monotonic()
        if self._healthy_since is None:
            self._healthy_since = self._healthy_at
        if failed is not None:
            raise failed
        return done

    async def _run_parts(self) -> tuple[Counts, Exception | None]:
        """Repair and publish; a bug in one does not block the other. Raises Unavailable."""
        done: dict[str, int] = {}
        failed: Exception | None = None
        parts = (
            [self._publisher.run_once]
            if self.rescuer is None
            else [self.rescuer.run_once, self._publisher.run_once]
        )
        for part in parts:
            try:
                done |= await part()
            except Unavailable:
                self._healthy_since = None
                raise
            except Exception as bug:  # noqa: BLE001  it is raised at the end
                failed = failed or bug
        return done, failed

    def _note_wait(self, began: float) -> None:
        # A long wait without an error: the database may have been unavailable, and then no worker
        # could renew either.
        if time.monotonic() - began > self._lease_seconds / RENEWALS_PER_LEASE:
            self._healthy_since = None

    def _check_clock(self, now: float, sent_at: float) -> None:
        stepped = self._clock.observe(now, sent_at=sent_at, received_at=time.monotonic())
        if stepped:
            # Every lease now looks longer or shorter than it is; after the length of a lease, all
            # live workers have renewed theirs.
            self._healthy_since = None
            log.warning("database_clock_stepped", seconds=round(stepped, 1))
