"""One turn of upkeep: independent steps, each done in small parts.

It continues while there is work and time left.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from opsjobs.engine.service import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.store.singleton_lock import SingletonLock
from opsjobs.telemetry import Metrics, log

PAUSE_SECONDS = 60.0
"""From one turn to the next, in any process; a turn that leaves work behind has no pause."""
TURN_SECONDS = 45.0
"""Maximum duration of a turn."""
ASK_SECONDS = 5.0
"""Interval at which a process tries to take the turn."""

Step = Callable[[], Awaitable[int]]
"""Do a bounded part of the work; return how much was done, 0 if nothing is left."""


class Turn:
    """Turns of one service, taken by one process at a time.

    A step that fails is logged and counted, and does not end the others.
    """

    def __init__(
        self,
        service: str,
        turns: SingletonLock,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._turns = turns
        self._metrics = metrics
        self._monotonic = monotonic

    async def run(self, steps: Mapping[str, Step]) -> Counts:
        """Take the turn, unless another process has it, and return what was done, by step.

        Each step does its first part, however long the others take; then those that found work
        continue, one part at a time.
        Raises Unavailable if PostgreSQL is away.
        """
        if not await self._turns.acquire(self._service, PAUSE_SECONDS):
            return {}
        until = self._monotonic() + TURN_SECONDS
        done = dict.fromkeys(steps, 0)
        left = list(steps)
        while left:
            left = [name for name in left if await self._part(name, steps[name], done)]
            if left and self._monotonic() >= until:
                await self._turns.release(self._service, PAUSE_SECONDS)
                break
        if any(done.values()):
            log.info(self._service, **{name: n for name, n in done.items() if n})
        return done

    async def _part(self, name: str, step: Step, done: dict[str, int]) -> bool:
        try:
            part = await step()
        except Unavailable as failed:
            # Raises if the failure was not of the step but of PostgreSQL: that ends the turn.
            await self._turns.renew(self._service)
            self._metrics.upkeep_failures.labels(name).inc()
            log.warning("step_failed", service=self._service, step=name, reason=str(failed))
            return False
        except Exception:  # noqa: BLE001  a bug in one step must not end the others
            self._metrics.upkeep_failures.labels(name).inc()
            self._metrics.bugs.labels(self._service).inc()
            log.exception("step_failed", service=self._service, step=name)
            return False
        await self._turns.renew(self._service)
        done[name] += part
        return part > 0
