"""Renew the worker's lease, on a thread and a connection of its own.

No load on the worker's event loop or connection pool can delay a renewal. Steps of the database's
clock are detected by comparing each renewal with the local monotonic clock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from opsjobs.store.workers import Lease, Renewal
from opsjobs.telemetry.logs import log

# The lease (15 s by default) is renewed at intervals of a third of it. Nothing is started on a
# machine once four fifths have passed since the last successful renewal was *sent*.
RENEWALS_PER_LEASE = 3
START_SHARE = 0.8
# A worker may expire the leases of others only after three renewals in a row, none of them late:
# then neither the database nor this process was unavailable.
RENEWALS_TO_REAP = 3
# A renewal may take a fifth of the lease. Then a new connection is tried, which may first have to
# time out on an unreachable host. Including the preceding third, all this ends before the lease
# does.
ATTEMPT_SHARES = (0.2, 0.4)
# If a statement of the worker does not return for this many leases while renewals do, the worker
# leaves its runs to others.
STUCK_LEASES = 2


def _never() -> None:
    return None


class Heartbeat:
    """Renews the lease until stopped."""

    def __init__(
        self,
        lease: Lease,
        on_renewal: Callable[[Renewal], None],
        *,
        lease_seconds: float,
        registered_at: float,
        waiting_since: Callable[[], float | None] = _never,
    ) -> None:
        """Prepare the heartbeat; `start` starts it.

        `on_renewal` is called on the heartbeat's thread with every response of the database.
        `waiting_since` returns since when (monotonic) a statement of the worker has been pending,
        None if none is pending. `registered_at` (monotonic) is when the registration was sent; it
        counts as the first renewal.
        """
        self._lease = lease
        self._on_renewal = on_renewal
        self._lease_seconds = lease_seconds
        self._waiting_since = waiting_since
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opsjobs-heartbeat", daemon=True)
        self._consecutive_renewals = 0
        self._renewing_since = time.monotonic()
        self._sent_at = registered_at
        self._clock = DatabaseClock()
        self._may_reap_at = 0.0
        self._abandoned_attempts: set[asyncio.Task[Renewal]] = set()
        self.stuck = False
        """True once the heartbeat has stopped because the worker's statements did not return."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Request a stop and return at once; the thread ends within seconds."""
        self._stopping.set()

    @property
    def alive(self) -> bool:
        """True until the thread has ended, for any reason."""
        return self._thread.is_alive()

    @property
    def may_start(self) -> bool:
        """True if the lease is fresh enough to start something on a machine."""
        return time.monotonic() - self._sent_at <= self._lease_seconds * START_SHARE

    @property
    def may_reap(self) -> bool:
        """True after enough renewals without a clock step: other leases may be expired."""
        return (
            self._consecutive_renewals >= RENEWALS_TO_REAP
            and self.may_start
            and time.monotonic() >= self._may_reap_at
        )

    @property
    def database_now(self) -> float | None:
        """The expected time of the database's clock now, in Unix seconds."""
        return self._clock.expected(time.monotonic())

    def _run(self) -> None:
        asyncio.run(self._renew_until_stopped())

    async def _renew_until_stopped(self) -> None:
        while not self._stopping.is_set():
            if self._is_stuck():
                self.stuck = True
                break
            began = time.monotonic()
            await self._renew()
            pause = max(began + self._lease_seconds / RENEWALS_PER_LEASE - time.monotonic(), 0.0)
            await asyncio.to_thread(self._stopping.wait, pause)
        await self._lease.close()

    def _is_stuck(self) -> bool:
        # An outage that also stops the renewals does not count, only the time in which renewals
        # succeeded.
        since = self._waiting_since()
        if since is None:
            return False
        return (
            time.monotonic() - max(since, self._renewing_since) > self._lease_seconds * STUCK_LEASES
        )

    async def _renew(self) -> None:
        for share in ATTEMPT_SHARES:
            sent_at = time.monotonic()
            renewal = await self._attempt_renewal(self._lease_seconds * share)
            if renewal is not None:
                self._accept_renewal(renewal, sent_at)
                return
        self._consecutive_renewals = 0
        self._renewing_since = time.monotonic()

    async def _attempt_renewal(self, seconds: float) -> Renewal | None:
        """Renew once; return None on failure or timeout.

        A renewal without a response in time is abandoned with its connection; the next attempt
        opens a new one.
        """
        attempt = asyncio.create_task(self._lease.renew())
        await asyncio.wait({attempt}, timeout=seconds)
        if attempt.done() and attempt.exception() is None:
            return attempt.result()
        reason = (
            str(attempt.exception()).strip()
            if attempt.done()
            else f"no answer within {seconds:.1f} s"
        )
        log.warning("lease_not_renewed", reason=reason)
        if not self._lease.abort():
            attempt.cancel()  # it was still connecting
        if not attempt.done():
            self._abandoned_attempts.add(attempt)
            attempt.add_done_callback(self._forget_attempt)
        return None

    def _forget_attempt(self, attempt: asyncio.Task[Renewal]) -> None:
        self._abandoned_attempts.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # mark the exception as retrieved: its failure was logged

    def _accept_renewal(self, renewal: Renewal, sent_at: float) -> None:
        stepped = self._clock.observe(renewal.now, sent_at=sent_at, received_at=time.monotonic())
        if stepped:
            # After a clock step every lease looks longer or shorter than it is, until each live
            # worker has renewed: that takes one lease at most.
            self._may_reap_at = time.monotonic() + self._lease_seconds
            log.warning("database_clock_stepped", seconds=round(stepped, 1))
        if renewal.alive:
            if sent_at - self._sent_at > self._lease_seconds * START_SHARE:
                self._consecutive_renewals = 0  # this process stood still: others may have, too
            self._sent_at = sent_at
            self._consecutive_renewals += 1
        self._on_renewal(renewal)


STEP_SECONDS = 1.0
"""A difference over this is a clock step; a smaller one may be response time."""


class DatabaseClock:
    """Estimates the current time of the database's clock, from its last response."""

    def __init__(self) -> None:
        self._ahead: tuple[float, float] | None = None
        """Least and greatest possible offset from the monotonic clock; responses take time."""

    def observe(self, now: float, *, sent_at: float, received_at: float) -> float:
        """Record the database's time and return by how many seconds its clock stepped, or 0.

        `sent_at` and `received_at` are monotonic times of the query and its response.
        """
        least, most = now - received_at, now - sent_at
        before, self._ahead = self._ahead, (least, most)
        if before is None:
            return 0.0
        if least - before[1] > STEP_SECONDS:
            return least - before[1]
        if before[0] - most > STEP_SECONDS:
            return most - before[0]
        return 0.0

    def expected(self, monotonic: float) -> float | None:
        """Return the database's Unix time at a monotonic time; None before the first response."""
        return None if self._ahead is None else monotonic + sum(self._ahead) / 2
