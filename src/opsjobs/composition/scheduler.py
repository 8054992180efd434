"""The scheduler process: a pass when a firing is due and every second, in Celery's beat."""

from __future__ import annotations

from collections.abc import Mapping

from opsjobs import telemetry
from opsjobs.composition import (
    build,
    build_event_publisher,
    build_firing_service,
    build_inspection_loop,
    build_rescuer,
    serve_metrics,
)
from opsjobs.composition.background import build_housekeeping_loop
from opsjobs.composition.process import spare_the_collector
from opsjobs.engine.background.housekeeping import SEAL_SECONDS, AuditSealer
from opsjobs.engine.background.scheduler import Scheduler
from opsjobs.engine.loop import Loop
from opsjobs.settings import Settings
from opsjobs.wakeup.beat import run_scheduler

CONNECTIONS = 6


class HostedScheduler:
    """The scheduler with its services."""

    def __init__(self, settings: Settings) -> None:
        self.services = build(settings, process="scheduler", connections=CONNECTIONS)
        self.scheduler = Scheduler(
            self.services.workers,
            build_event_publisher(self.services),
            firing=build_firing_service(self.services),
            lease_seconds=settings.worker.lease_seconds,
        )
        self.scheduler.rescuer = build_rescuer(
            self.services, lambda: self.scheduler.may_reap, lambda: self.scheduler.database_now
        )
        # Separate loops: they delay neither firings nor repairs.
        sealer = AuditSealer(self.services.seals)
        self._loops = [
            Loop(
                "sealer",
                sealer.run_once,
                interval_seconds=SEAL_SECONDS,
                metrics=self.services.metrics,
            ),
            build_housekeeping_loop(self.services),
            build_inspection_loop(self.services),
        ]

    async def start(self) -> None:
        """Open the services."""
        await self.services.open()
        for loop in self._loops:
            loop.start()
        spare_the_collector()

    async def run_once(self) -> Mapping[str, int]:
        """Run one pass."""
        return await self.scheduler.tick()

    def rest_seconds(self) -> float:
        """Return the seconds until the next pass is due."""
        return self.scheduler.rest_seconds

    async def stop(self) -> None:
        """Close everything."""
        for loop in self._loops:
            await loop.stop()
        await self.scheduler.stop()
        await self.services.close()


def run(settings: Settings) -> int:
    """Run until SIGTERM; return the exit code."""
    telemetry.configure("scheduler", settings.telemetry.log_level)
    hosted = HostedScheduler(settings)
    serve_metrics(settings, hosted.services.metrics)
    return run_scheduler(hosted, redis_url=settings.redis.url, metrics=hosted.services.metrics)
