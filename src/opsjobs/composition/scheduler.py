"""The scheduler process: a tick at each due moment, and every second, over the ledger; hosted by Celery's beat."""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs import telemetry
from opsjobs.composition import build, firing, inspecting, relay, rescuer, serve_metrics
from opsjobs.composition.background import housekeeping
from opsjobs.composition.memory import spare_the_collector
from opsjobs.engine.background.audit_sealer import SEAL_SECONDS, Sealer
from opsjobs.engine.background.scheduler import Scheduler
from opsjobs.engine.service import Loop
from opsjobs.settings import Settings
from opsjobs.wakeup.beat import run_scheduler

CONNECTIONS = 6


class HostedScheduler:
    """The scheduler with its parts, as beat hosts it."""

    def __init__(self, settings: Settings) -> None:
        self.parts = build(settings, process="scheduler", connections=CONNECTIONS)
        self.scheduler = Scheduler(
            self.parts.workers,
            relay(self.parts),
            firing=firing(self.parts),
            lease_seconds=settings.worker.lease_seconds,
        )
        self.scheduler.rescuer = rescuer(self.parts, lambda: self.scheduler.may_reap, lambda: self.scheduler.database_now)
        # Loops of their own: they delay neither a firing nor the mending.
        sealer = Sealer(self.parts.seals)
        self._loops = [
            Loop("sealer", sealer.run_once, interval_seconds=SEAL_SECONDS, metrics=self.parts.metrics),
            housekeeping(self.parts),
            inspecting(self.parts),
        ]

    async def start(self) -> None:
        """Open the parts."""
        await self.parts.open()
        for loop in self._loops:
            loop.start()
        spare_the_collector()

    async def run_once(self) -> Mapping[str, int]:
        """One tick."""
        return await self.scheduler.tick()

    def rest_seconds(self) -> float:
        """How long there is nothing to do."""
        return self.scheduler.rest_seconds

    async def stop(self) -> None:
        """Close everything."""
        for loop in self._loops:
            await loop.stop()
        await self.scheduler.stop()
        await self.parts.close()


def run(settings: Settings) -> int:
    """Until SIGTERM; returns the exit code."""
    telemetry.configure("scheduler", settings.telemetry.log_level)
    hosted = HostedScheduler(settings)
    serve_metrics(settings, hosted.parts.metrics)
    return run_scheduler(hosted, redis_url=settings.redis.url, metrics=hosted.parts.metrics)
