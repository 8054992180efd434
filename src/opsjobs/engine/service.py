"""The common form of every background loop: start, stop, and `run_once`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping

from opsjobs.model.errors import Unavailable
from opsjobs.task_cancellation import ended
from opsjobs.telemetry import Metrics, log

Counts = Mapping[str, int]


class Loop:
    """Call `run_once` on each wake-up and at least every `interval_seconds`, until stopped.

    The interval is jittered by a fifth. `run_once` returns what it did, by kind. An error ends the
    round, not the loop: an outage of PostgreSQL is waited out, anything else is reported as a bug
    of ours.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[Counts]],
        *,
        interval_seconds: float,
        metrics: Metrics,
    ) -> None:
        self.name = name
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
        except Unavailable as away:
            log.warning("round_skipped", loop=self.name, reason=str(away))
            await asyncio.sleep(1)
        except Exception:  # noqa: BLE001  a bug ends the round, not the loop
            self._metrics.bugs.labels(self.name).inc()
            log.exception("round_failed", loop=self.name)
            await asyncio.sleep(1)
        else:
            if any(done.values()):
                log.debug("round", loop=self.name, **done)
