"""The scheduler: what beat's tick does. It fires schedules, and it mends and tells like every worker."""

from __future__ import annotations

import asyncio
import contextlib
import time

from opsjobs.engine.background.event_publisher import EventPublisher
from opsjobs.engine.background.rescuer import Rescuer
from opsjobs.engine.firing.firing import REST_SECONDS, SCHEDULER, FiringService
from opsjobs.engine.service import Counts
from opsjobs.engine.worker.database_clock import DatabaseClock
from opsjobs.engine.worker.lease_heartbeat import RENEWALS_PER_LEASE
from opsjobs.model.errors import Unavailable
from opsjobs.store.workers import Workers
from opsjobs.telemetry import log

# A round of mending that takes longer is broken off, and the next one begins: every round is idempotent.
MEND_SECONDS_AT_MOST = 60.0


class Scheduler:
    """Fires to the moment, and mends once a second beside it: neither a slow round nor Redis delays a firing.

    It may bury others once its own rounds have found the database well for as long as a lease. Shorter would bury everybody after
    an outage that outlasted the leases: workers renew only every third of one.
    """

    def __init__(
        self,
        workers: Workers,
        relay: EventPublisher,
        *,
        firing: FiringService | None = None,
        lease_seconds: float = 15.0,
    ) -> None:
        self._workers = workers
        self._relay = relay
        self._firing = firing
        self._lease_seconds = lease_seconds
        self._mending: asyncio.Task[Counts] | None = None
        self._mended_at = float("-inf")
        self._well_since: float | None = None
        self._well_at = 0.0
        self._clock = DatabaseClock()
        self.rescuer: Rescuer | None = None

    @property
    def may_reap(self) -> bool:
        """Whether the database was well long enough for every living worker to have renewed."""
        return (
            self._well_since is not None
            and time.monotonic() - self._well_since >= self._lease_seconds
        )

    @property
    def database_now(self) -> float | None:
        """What the database's clock should show now, as seconds since 1970; None if that is not known."""
        return self._clock.expected(time.monotonic())

    @property
    def rest_seconds(self) -> float:
        """How long there is nothing to do: until a moment is due or it is time to mend."""
        mend = max(self._mended_at + REST_SECONDS - time.monotonic(), 0.0)
        return mend if self._firing is None else min(mend, self._firing.rest_seconds)

    async def tick(self) -> Counts:
        """Fire what is due, and begin to mend where a second has passed; says what was done since the last tick.

        Raises what a round of mending that has ended meanwhile has raised.
        """
        # The round of mending notes the tick, so it begins after the firing: who cannot fire is to be stood in for.
        return {**await self._fire(), **self._mend(time.monotonic())}

    async def _fire(self) -> Counts:
        try:
            return await self._firing.run_once() if self._firing is not None else {}
        except Exception:
            self._well_since = None
            raise

    def _mend(self, now: float) -> Counts:
        if self._mending is not None and not self._mending.done():
            return {}
        ended, self._mending = self._mending, None
        if now - self._mended_at >= REST_SECONDS:
            self._mended_at = now
            self._mending = asyncio.create_task(self._bounded(), name="mending")
        return ended.result() if ended is not None else {}

    async def _bounded(self) -> Counts:
        async with asyncio.timeout(MEND_SECONDS_AT_MOST):
            return await self.run_once()

    async def stop(self) -> None:
        """End within a round of mending."""
        if self._mending is not None:
            self._mending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._mending

    async def run_once(self) -> Counts:
        """Make one round of mending; return what was done, by kind. Raises what a part raised, once the other was made."""
        began = time.monotonic()
        if began - self._well_at > self._lease_seconds:
            self._well_since = None  # it was frozen itself: of the time between it knows nothing
        try:
            now = await self._workers.tick(SCHEDULER)
        except Exception:
            self._well_since = None
            raise
        self._judge(began)
        self._look_at_clock(now, began)
        done, failed = await self._parts()
        self._judge(began)
        self._well_at = time.monotonic()
        if self._well_since is None:
            self._well_since = self._well_at
        if failed is not None:
            raise failed
        return done

    async def _parts(self) -> tuple[Counts, Exception | None]:
        """Mend and tell; a fault of ours in one keeps the other from nothing. Raises Unavailable."""
        done: dict[str, int] = {}
        failed: Exception | None = None
        parts = (
            [self._relay.run_once]
            if self.rescuer is None
            else [self.rescuer.run_once, self._relay.run_once]
        )
        for part in parts:
            try:
                done |= await part()
            except Unavailable:
                self._well_since = None
                raise
            except Exception as bug:  # noqa: BLE001  it is raised in the end
                failed = failed or bug
        return done, failed

    def _judge(self, began: float) -> None:
        # No error, but a wait: perhaps for a database that was away, and then nobody could renew either.
        if time.monotonic() - began > self._lease_seconds / RENEWALS_PER_LEASE:
            self._well_since = None

    def _look_at_clock(self, now: float, sent_at: float) -> None:
        stepped = self._clock.observe(now, sent_at=sent_at, received_at=time.monotonic())
        if stepped:
            # Every lease looks longer or shorter now than it is: all who live have renewed theirs a lease later.
            self._well_since = None
            log.warning("database_clock_stepped", seconds=round(stepped, 1))
