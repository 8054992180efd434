"""Background work: loops, and turns that are taken by one process at a time.

Also a measure of how late timers of the event loop run: blocking code delays everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from opsjobs.model.errors import Unavailable
from opsjobs.store.workers import SingletonLock
from opsjobs.task_cancellation import ended
from opsjobs.telemetry.logs import log
from opsjobs.telemetry.metrics import Metrics

Counts = Mapping[str, int]
"""The result of a round: counts by kind of work."""
Step = Callable[[], Awaitable[int]]
"""Do a bounded part of the work; return how much was done, 0 if nothing is left."""

TURN_PAUSE_SECONDS = 60.0
"""Time from one turn to the next, in any process; no pause after a turn that left work."""
TURN_SECONDS = 45.0
"""Maximum duration of a turn."""
TURN_POLL_SECONDS = 5.0
"""Interval at which a process tries to take the turn."""


class Loop:
    """Call `run_once` on each wake-up and at least every `interval_seconds`, until stopped.

    The interval is jittered by a fifth. `run_once` returns how much it did, by kind. An error ends
    the round, not the loop: an outage of PostgreSQL is waited out, anything else is reported as a
    bug in opsjobs. `close` is called when the loop has stopped, and ends what rounds have left.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[Counts]],
        *,
        interval_seconds: float,
        metrics: Metrics,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self._close = close
        self._run_once = run_once
        self._interval_seconds = interval_seconds
        self._metrics = metrics
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the loop, in the running event loop."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        """Start a round now, or one more right after the current one."""
        self._woken.set()

    async def stop(self) -> None:
        """Stop the loop, between rounds or within one."""
        if self._task is not None:
            await ended(self._task)
        if self._close is not None:
            await self._close()

    async def _run(self) -> None:
        while True:
            await self._round()
            # Jittered, so that processes do not run in step.
            pause = self._interval_seconds * random.uniform(0.8, 1.2)  # noqa: S311  no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _round(self) -> None:
        self._woken.clear()
        try:
            done = await self._run_once()
        except Unavailable as outage:
            log.warning("round_skipped", loop=self.name, reason=str(outage))
            await asyncio.sleep(1)
        except Exception:  # noqa: BLE001  a bug ends the round, not the loop
            self._metrics.bugs.labels(self.name).inc()
            log.exception("round_failed", loop=self.name)
            await asyncio.sleep(1)
        else:
            if any(done.values()):
                log.debug("round", loop=self.name, **done)


class Turn:
    """Turns of one service, taken by one process at a time.

    A turn consists of independent steps, each done in small parts. It continues while there is work
    and time left. A step that fails is logged and counted, and does not end the others.
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
        """Take the turn, unless another process has it, and return the amount done, by step.

        Each step does its first part, however long the others take; then those that found work
        continue, one part at a time. Raises Unavailable if PostgreSQL is unavailable.
        """
        if not await self._turns.acquire(self._service, TURN_PAUSE_SECONDS):
            return {}
        until = self._monotonic() + TURN_SECONDS
        done = dict.fromkeys(steps, 0)
        left = list(steps)
        while left:
            left = [name for name in left if await self._part(name, steps[name], done)]
            if left and self._monotonic() >= until:
                await self._turns.release(self._service, TURN_PAUSE_SECONDS)
                break
        if any(done.values()):
            log.info(self._service, **{name: n for name, n in done.items() if n})
        return done

    async def _part(self, name: str, step: Step, done: dict[str, int]) -> bool:
        try:
            part = await step()
        except Unavailable as failed:
            # Raises if not the step failed but PostgreSQL: that ends the turn.
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


SAMPLE_SECONDS = 0.5


class LoopLagMonitor:
    """Samples the lag of the running event loop, twice a second."""

    def __init__(self, metrics: Metrics, *, interval_seconds: float = SAMPLE_SECONDS) -> None:
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to sample, in the running event loop."""
        self._task = asyncio.create_task(self._run(), name="loop_lag")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            await ended(self._task)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval_seconds
            await asyncio.sleep(self._interval_seconds)
            self._metrics.event_loop_lag.observe(max(loop.time() - due, 0.0))
