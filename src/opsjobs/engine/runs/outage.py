"""Outages of PostgreSQL: what a run asks of the store waits until there is an answer."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from opsjobs.clock import Clock
from opsjobs.model.errors import Unavailable
from opsjobs.telemetry import log

T = TypeVar("T")

PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0


async def wait_out(ask: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Return what `ask` returns; while it raises Unavailable, pause and call it again.

    It waits without a limit, because a run can record nothing without PostgreSQL either. Call it inside `Stops.here()`, so
    that an order to stop ends the wait.
    """
    pause = PAUSE_SECONDS
    while True:
        try:
            return await ask()
        except Unavailable as away:
            if pause == PAUSE_SECONDS:
                log.warning("run_waits_for_the_store", reason=str(away))
        await clock.sleep(pause * random.uniform(0.7, 1.0))  # noqa: S311  jitter, not a secret
        pause = min(pause * 2, PAUSE_SECONDS_MAX)
