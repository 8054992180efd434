"""Measure how late timers of the event loop run: blocking code delays everything else."""

from __future__ import annotations

import asyncio

from opsjobs.task_cancellation import ended
from opsjobs.telemetry.metrics import Metrics

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
