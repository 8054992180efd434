"""Wait out outages of PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from opsjobs.backoff import Backoff
from opsjobs.clock import Clock
from opsjobs.model.errors import Unavailable
from opsjobs.telemetry import log

T = TypeVar("T")

PAUSE_SECONDS = 0.1
PAUSE_SECONDS_MAX = 5.0


async def wait_out(ask: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Return what `ask` returns; while it raises Unavailable, pause and call it again.

    There is no limit: without PostgreSQL a run can record nothing either. Call it inside
    `StopSignal.interruptible()`, so that a request to stop ends the wait.
    """
    backoff = Backoff(PAUSE_SECONDS, PAUSE_SECONDS_MAX)
    while True:
        try:
            return await ask()
        except Unavailable as away:
            if backoff.is_first:
                log.warning("run_waits_for_database", reason=str(away))
        await clock.sleep(backoff.next())
