"""The scheduler process: a pass when a firing is due and every second, in Celery's beat."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opsjobs.composition import (
    build,
    build_event_publisher,
    build_firing_service,
    build_inspection_loop,
    build_integration_loop,
    build_rescuer,
)
from opsjobs.composition.background import build_delivery, build_housekeeping_loop
from opsjobs.composition.liveness import Liveness, serve_metrics
from opsjobs.composition.process import SchemaGate, spare_the_collector
from opsjobs.engine.background.housekeeping import SEAL_SECONDS, AuditSealer
from opsjobs.engine.background.scheduler import Scheduler
from opsjobs.engine.loop import Loop
from opsjobs.settings import Settings
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import configure
from opsjobs.wakeup.beat import PASS_SECONDS_MAX, run_scheduler
from opsjobs.wakeup.loop_thread import STOP_SECONDS_MAX

CONNECTIONS = 6
# Beat cancels a pass that takes longer than PASS_SECONDS_MAX, and then begins the next one.
PASS_PAUSE_SECONDS_MAX = 2 * PASS_SECONDS_MAX
# Without a successful pass for so long, workers fire schedules in its place.
READY_SECONDS = 10.0


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
            build_housekeeping_loop(settings, self.services),
            build_inspection_loop(self.services),
            build_integration_loop(self.services),
        ]
        self._delivery = build_delivery(self.services)
        self._schema_gate = SchemaGate(self.services.system_status, self.services.clock)
        self._passed_at = self._succeeded_at = float("-inf")
        self.liveness = Liveness(fault=self._fault, unready=self._unready)

    async def start(self) -> None:
        """Open the services, and wait for the schema."""
        await self.services.open()
        self.liveness.start()
        await self._schema_gate.wait()
        self._passed_at = time.monotonic()
        for loop in (*self._loops, *self._delivery.loops):
            loop.start()
        spare_the_collector()

    async def run_once(self) -> Mapping[str, int]:
        """Run one pass."""
        try:
            done = await self.scheduler.tick()
            self._succeeded_at = time.monotonic()
        finally:
            self._passed_at = time.monotonic()
        return done

    def rest_seconds(self) -> float:
        """Return the seconds until the next pass is due."""
        return self.scheduler.rest_seconds

    async def stop(self) -> None:
        """Close everything."""
        self.liveness.begin_stop(STOP_SECONDS_MAX)
        for loop in (*self._loops, *self._delivery.loops):
            await loop.stop()
        await self._delivery.sender.close()
        await self.scheduler.stop()
        await self.services.close()
        await self.liveness.stop()

    def _fault(self) -> str | None:
        pause = time.monotonic() - self._passed_at
        if self._schema_gate.reason is not None or pause <= PASS_PAUSE_SECONDS_MAX:
            return None
        return f"no pass of the scheduler has ended for {pause:.0f} s"

    def _unready(self) -> str | None:
        if self._schema_gate.reason is not None:
            return self._schema_gate.reason
        if time.monotonic() - self._succeeded_at <= READY_SECONDS:
            return None
        return f"no pass of the scheduler has succeeded for {READY_SECONDS:.0f} s"


def run(settings: Settings) -> int:
    """Run until SIGTERM; return the exit code."""
    configure("scheduler", settings.telemetry.log_level)
    tracing.start("scheduler")
    hosted = HostedScheduler(settings)
    serve_metrics(settings, hosted.services.metrics, hosted.liveness)
    code = run_scheduler(hosted, redis_url=settings.redis.url, metrics=hosted.services.metrics)
    tracing.stop()
    return code
