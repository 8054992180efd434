"""The heart: renews the worker's lease on a thread and a connection of its own, so that no load of ours can stop it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from opsjobs.engine.worker.database_clock import DatabaseClock
from opsjobs.store.workers import Lease, Renewal
from opsjobs.telemetry import log

# Of a lease of 15 s: renewed every third of it; nothing is started once four fifths have passed since the last renewal
# that succeeded was *sent*. (10-ledger.md rule 9)
BEATS_A_LEASE = 3
START_SHARE = 0.8
# Only who renewed three times in a row may bury others: then it is not the database or this process that was away.
BEATS_TO_BURY = 3
# A renewal has a fifth of the lease. Then a new connection is tried, which may first have to pass by a host that is gone.
# With the third that lay before it, all this is over before the lease is.
ATTEMPT_SHARES = (0.2, 0.4)
# A worker whose statements do not come back for so many leases, while its renewals do, leaves its runs to others.
STUCK_LEASES = 2


def _never() -> None:
    return None


class Heartbeat:
    """Beats until stopped. `heard` is called on the heart's thread with every answer of the ledger.

    `waiting_since`: since when (monotonic) a statement of the worker's does not come back, None if none is waited for.
    """

    def __init__(
        self,
        lease: Lease,
        heard: Callable[[Renewal], None],
        *,
        lease_seconds: float,
        registered_at: float,
        waiting_since: Callable[[], float | None] = _never,
    ) -> None:
        self._lease = lease
        self._heard = heard
        self._lease_seconds = lease_seconds
        self._waiting_since = waiting_since
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opsjobs-heart", daemon=True)
        self._in_a_row = 0
        self._beating_since = time.monotonic()
        self._sent_at = registered_at
        self._clock = DatabaseClock()
        self._buries_from = 0.0
        self._left_behind: set[asyncio.Task[Renewal]] = set()
        self.stuck = False
        """True once the heart has stopped because the worker's statements did not come back."""

    def start(self) -> None:
        """Begin to beat; the registration, sent at `registered_at` (monotonic), counts as the first renewal."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns at once, the thread is done within seconds."""
        self._stopping.set()

    @property
    def beating(self) -> bool:
        """False once the thread has ended, whatever ended it."""
        return self._thread.is_alive()

    @property
    def may_start(self) -> bool:
        """Whether the lease is fresh enough to start something on a machine."""
        return time.monotonic() - self._sent_at <= self._lease_seconds * START_SHARE

    @property
    def may_reap(self) -> bool:
        """Whether this process has seen the database often enough, under a steady clock, to call others dead."""
        return self._in_a_row >= BEATS_TO_BURY and self.may_start and time.monotonic() >= self._buries_from

    @property
    def database_now(self) -> float | None:
        """What the database's clock should show now, as seconds since 1970."""
        return self._clock.expected(time.monotonic())

    def _run(self) -> None:
        asyncio.run(self._beat_for_ever())

    async def _beat_for_ever(self) -> None:
        while not self._stopping.is_set():
            if self._is_stuck():
                self.stuck = True
                break
            began = time.monotonic()
            await self._beat()
            pause = max(began + self._lease_seconds / BEATS_A_LEASE - time.monotonic(), 0.0)
            await asyncio.to_thread(self._stopping.wait, pause)
        await self._lease.close()

    def _is_stuck(self) -> bool:
        # An outage that we share with the database is no reason: only the time counts in which the renewals came through.
        since = self._waiting_since()
        if since is None:
            return False
        return time.monotonic() - max(since, self._beating_since) > self._lease_seconds * STUCK_LEASES

    async def _beat(self) -> None:
        for share in ATTEMPT_SHARES:
            sent_at = time.monotonic()
            renewal = await self._attempt(self._lease_seconds * share)
            if renewal is not None:
                self._renewed(renewal, sent_at)
                return
        self._in_a_row = 0
        self._beating_since = time.monotonic()

    async def _attempt(self, seconds: float) -> Renewal | None:
        """Renew once. What does not answer in time is left behind with its connection; the next attempt makes a new one."""
        attempt = asyncio.create_task(self._lease.renew())
        await asyncio.wait({attempt}, timeout=seconds)
        if attempt.done() and attempt.exception() is None:
            return attempt.result()
        reason = str(attempt.exception()).strip() if attempt.done() else f"no answer within {seconds:.1f} s"
        log.warning("lease_not_renewed", reason=reason)
        if not self._lease.abort():
            attempt.cancel()  # it was still connecting
        if not attempt.done():
            self._left_behind.add(attempt)
            attempt.add_done_callback(self._forget)
        return None

    def _forget(self, attempt: asyncio.Task[Renewal]) -> None:
        self._left_behind.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # it is known that it failed

    def _renewed(self, renewal: Renewal, sent_at: float) -> None:
        stepped = self._clock.observe(renewal.now, sent_at=sent_at, received_at=time.monotonic())
        if stepped:
            # Every lease looks longer or shorter now than it is: all who live have renewed theirs a lease later.
            self._buries_from = time.monotonic() + self._lease_seconds
            log.warning("database_clock_stepped", seconds=round(stepped, 1))
        if renewal.alive:
            self._in_a_row += 1
            self._sent_at = sent_at
        self._heard(renewal)
