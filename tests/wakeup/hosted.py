"""A tiny engine and a tiny tick, run as real worker and scheduler processes.

Their events are lines on standard output. `python hosted.py worker|scheduler REDIS_URL|none
[slow-stop|broken|hung-start]`
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping

from opsjobs.telemetry import logs
from opsjobs.wakeup.beat import run_scheduler
from opsjobs.wakeup.worker import run_worker


def say(*words: object) -> None:
    """Print one line, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Engine:
    """Counts wake-ups."""

    def __init__(self, manner: str) -> None:
        self._manner = manner

    async def start(self) -> None:
        """Become ready at once, or never."""
        say("STARTING")
        if self._manner == "hung-start":
            await asyncio.Event().wait()
        if self._manner == "broken":
            raise RuntimeError("no database")
        say("STARTED")

    def wake(self) -> None:
        """Report a wake-up."""
        say("WAKE", time.time())

    async def stop(self) -> None:
        """Drain for a moment, or for longer than the stop waits."""
        say("STOPPING")
        await asyncio.sleep(60 if self._manner == "slow-stop" else 0.05)
        say("STOPPED")


class Ticker(Engine):
    """Counts ticks."""

    async def run_once(self) -> Mapping[str, int]:
        """Report a tick; a broken one raises after that."""
        say("TICK", time.time())
        if self._manner == "broken-tick":
            raise RuntimeError("the database is gone")
        return {"fired": 1}

    def rest_seconds(self) -> float:
        """Do nothing for longer than beat waits."""
        return 60.0


if __name__ == "__main__":
    what, url, manner = (*sys.argv[1:], "")[:3]
    redis_url = None if url == "none" else url
    logs.configure(what, "INFO")
    if what == "worker":
        sys.exit(run_worker(Engine(manner), redis_url=redis_url, zone="default", name="worker-1"))
    sys.exit(run_scheduler(Ticker(manner), redis_url=redis_url))
