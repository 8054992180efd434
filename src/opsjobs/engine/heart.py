"""The heart: renews the worker's lease on a thread and a connection of its own, so that no load of ours can stop it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from opsjobs.store.workers import Lease, Renewal
from opsjobs.telemetry import log

# Of a lease of 15 s: renewed every third of it; nothing is started once four fifths have passed since the last renewal
# that succeeded was *sent*. (10-ledger.md rule 9)
BEATS_A_LEASE = 3
START_SHARE = 0.8
# Only who renewed three times in a row may bury others: then it is not the database or this process that was away.
BEATS_TO_BURY = 3


class Heart:
    """Beats until stopped. `heard` is called on the heart's thread with every answer of the ledger."""

    def __init__(self, lease: Lease, heard: Callable[[Renewal], None], *, lease_seconds: float, registered_at: float) -> None:
        self._lease = lease
        self._heard = heard
        self._lease_seconds = lease_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opsjobs-heart", daemon=True)
        self._in_a_row = 0
        self._sent_at = registered_at

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
    def may_bury(self) -> bool:
        """Whether this process has seen the database often enough to call others dead."""
        return self._in_a_row >= BEATS_TO_BURY and self.may_start

    def _run(self) -> None:
        asyncio.run(self._beat_for_ever())

    async def _beat_for_ever(self) -> None:
        while not self._stopping.is_set():
            await self._beat()
            await asyncio.to_thread(self._stopping.wait, self._lease_seconds / BEATS_A_LEASE)
        await self._lease.close()

    async def _beat(self) -> None:
        sent_at = time.monotonic()
        try:
            async with asyncio.timeout(self._lease_seconds):
                renewal = await self._lease.renew()
        except Exception as away:  # noqa: BLE001  whatever it is, the next beat tries again: a stopped heart loses healthy runs
            self._in_a_row = 0
            log.warning("lease_not_renewed", reason=str(away).strip())
            return
        if renewal.alive:
            self._in_a_row += 1
            self._sent_at = sent_at
        self._heard(renewal)
