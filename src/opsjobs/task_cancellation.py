"""End tasks reliably: a library may lose a cancel, so it is repeated."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_SECONDS = 1.0
"""Seconds between two cancels: time for a task to clean up after the first one."""

Task = asyncio.Task[Any]


async def ended(*tasks: Task, again_seconds: float = AGAIN_SECONDS) -> None:
    """Cancel the tasks, and return once all have ended. Their exceptions are dropped.

    `asyncio.wait_for` of Python 3.11, which the pool of connections uses, drops a cancel that
    arrives together with the result that the task waits for.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_seconds)
    await asyncio.gather(*tasks, return_exceptions=True)


class Endings:
    """Ends tasks in the background, so that the caller need not wait."""

    def __init__(self) -> None:
        self._at_work: set[Task] = set()

    def begin(self, *tasks: Task) -> None:
        """Cancel these tasks in the background, and repeat it until all have ended.

        The first cancel is sent in the next iteration of the event loop. After each one the tasks
        have `AGAIN_SECONDS` to clean up.
        """
        work = asyncio.create_task(ended(*tasks), name="endings")
        self._at_work.add(work)
        work.add_done_callback(self._at_work.discard)

    async def wait(self, seconds: float) -> None:
        """Return once all have ended, or the seconds are over."""
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=seconds)
