"""One turn of upkeep: steps that stand each by itself, in small parts, while there is something to do and time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from opsjobs.engine.service import Counts
from opsjobs.model.errors import Unavailable
from opsjobs.store.singleton_lock import SingletonLock
from opsjobs.telemetry import Metrics, log

# From one turn to the next, whichever process has it; and how long one takes at most. One that leaves work behind has no pause.
PAUSE_SECONDS = 60.0
TURN_SECONDS = 45.0
# How often a process asks whether it is its turn.
ASK_SECONDS = 5.0

Step = Callable[[], Awaitable[int]]
"""A bounded part of something; returns how much was done, 0 if nothing is left."""


class Turn:
    """Takes turns with other processes under a name. A step that fails is logged and counted, and ends no other."""

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

        Each step has its first part, whatever the others take; then those that found something go on, one part at a time.
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
            await self._turns.renew(
                self._service
            )  # raises if it is not the step but PostgreSQL: that ends the turn
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
