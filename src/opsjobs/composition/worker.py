"""The worker process: the engine with its services, hosted by Celery."""

from __future__ import annotations

import os
import socket

from opsjobs.composition import (
    build,
    build_event_publisher,
    build_firing_service,
    build_inspection_loop,
    build_integration_loop,
    build_rescuer,
)
from opsjobs.composition.background import (
    build_delivery,
    build_housekeeping_loop,
    build_retention_loop,
)
from opsjobs.composition.liveness import Liveness, serve_metrics
from opsjobs.composition.process import (
    GIVE_BACK_SECONDS,
    SchemaGate,
    give_back,
    raise_descriptor_limit,
    spare_the_collector,
)
from opsjobs.composition.services import Services
from opsjobs.engine.background.housekeeping import (
    SEAL_BEHIND_SECONDS,
    SEAL_STAND_IN_SECONDS,
    AuditSealer,
)
from opsjobs.engine.background.remote_cleanup import RemoteCleanup
from opsjobs.engine.firing.firing import StandIn
from opsjobs.engine.launching.target_pinning import PinCheck
from opsjobs.engine.loop import Loop
from opsjobs.engine.runs.child_executions import ChildExecutions
from opsjobs.engine.runs.run_tools import RunLimits, TransferTools
from opsjobs.engine.runs.upload_source import ChunkCache
from opsjobs.engine.worker.worker import STOP_GRACE_SECONDS, Worker, WorkerOptions, WorkerTools
from opsjobs.remote.download import FindLimits
from opsjobs.settings import Settings
from opsjobs.store.workers import Lease
from opsjobs.telemetry import tracing
from opsjobs.telemetry.logs import configure
from opsjobs.wakeup.worker import run_worker

CONNECTIONS = 6
RESCUE_SECONDS = 1.0
PUBLISH_SECONDS = 1.0
STAND_IN_SECONDS = 1.0
CLEANUP_SECONDS = 10.0
VAULT_SECONDS = 30.0
# How long the services may take to close once the worker has stopped.
CLOSE_SECONDS = 3.0


def build_remote_cleanup(services: Services, zone: str) -> RemoteCleanup:
    """Build the clean-up of machines after their runs have ended."""
    return RemoteCleanup(
        services.ledger,
        services.inventory,
        services.vault,
        services.sessions,
        services.clock,
        zone=zone,
        fetch=services.external_secrets.fetch,
    )


def build_transfer_tools(settings: Settings, services: Services) -> TransferTools:
    """Build the tools shared by all transfers of a worker."""
    return TransferTools(
        services.files,
        services.contents,
        services.artifacts,
        ChunkCache(services.contents),
        services.outbox,
        services.metrics,
        FindLimits(bytes=settings.execution.file_limit_bytes),
        services.platform_users.current_principal,
    )


def build_worker(settings: Settings, services: Services, *, name: str | None = None) -> Worker:
    """Build the engine of one worker process with its background loops."""
    execution, wanted = settings.execution, settings.worker
    options = WorkerOptions(
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        zone=wanted.zone,
        concurrency=wanted.concurrency,
        lease_seconds=wanted.lease_seconds,
        poll_seconds=wanted.poll_seconds,
        drain_seconds=wanted.drain_seconds,
    )
    tools = WorkerTools(
        ledger=services.ledger,
        workers=services.workers,
        lease=lambda life: Lease(settings.database.url, life, lease_seconds=wanted.lease_seconds),
        targets=services.inventory,
        vault=services.vault,
        sessions=services.sessions,
        bus=services.bus,
        clock=services.clock,
        metrics=services.metrics,
        limits=RunLimits(
            execution.command_timeout,
            execution.output_limit_bytes,
            reattach_seconds=execution.reattach_window,
            spool_bytes=execution.spool_limit_bytes,
            attempts=execution.max_retries + 1,
        ),
        transfers=build_transfer_tools(settings, services),
        child_executions=ChildExecutions(
            services.launcher,
            services.jobs,
            services.executions,
            services.platform_users.current_principal,
        ),
        approvals=services.approval_service,
        pin_check=PinCheck(services.safety_service),
        notify=services.notifier.notify,
        fetch=services.external_secrets.fetch,
    )
    stand_in = StandIn(build_firing_service(services), services.workers)
    sealer = AuditSealer(services.seals, behind_seconds=SEAL_BEHIND_SECONDS)
    background: list[Loop] = []
    worker = Worker(options, tools, background)
    services.shell_owners.identify = lambda: worker.incarnation_id
    cleanup = build_remote_cleanup(services, wanted.zone)
    rescuer = build_rescuer(services, lambda: worker.may_reap, lambda: worker.database_now)
    background += [
        Loop(
            "rescuer", rescuer.run_once, interval_seconds=RESCUE_SECONDS, metrics=services.metrics
        ),
        Loop(
            "late_lookups",
            cleanup.look_up_once,
            interval_seconds=CLEANUP_SECONDS,
            metrics=services.metrics,
        ),
        Loop(
            "cleaning",
            cleanup.clean_once,
            interval_seconds=CLEANUP_SECONDS,
            metrics=services.metrics,
        ),
        build_housekeeping_loop(settings, services, stand_in=True),
        build_inspection_loop(services),
        build_integration_loop(services),
        build_retention_loop(settings, services),
        Loop(
            "vault_token",
            services.external_secrets.renew,
            interval_seconds=VAULT_SECONDS,
            metrics=services.metrics,
        ),
        Loop(
            "firing",
            stand_in.run_once,
            interval_seconds=STAND_IN_SECONDS,
            metrics=services.metrics,
            close=stand_in.stop,
        ),
        Loop("heap", give_back, interval_seconds=GIVE_BACK_SECONDS, metrics=services.metrics),
        Loop(
            "sealer",
            sealer.run_once,
            interval_seconds=SEAL_STAND_IN_SECONDS,
            metrics=services.metrics,
        ),
        Loop(
            "event_publisher",
            build_event_publisher(services).run_once,
            interval_seconds=PUBLISH_SECONDS,
            metrics=services.metrics,
        ),
    ]
    return worker


class HostedWorker:
    """A worker with its services, opened and closed on the engine's event loop."""

    def __init__(self, settings: Settings, *, name: str | None = None) -> None:
        self.services = build(settings, process="worker", connections=CONNECTIONS, hot_verbs=True)
        self.worker = build_worker(settings, self.services, name=name)
        self._schema_gate = SchemaGate(self.services.system_status, self.services.clock)
        self.liveness = Liveness(
            fault=lambda: self.worker.fault,
            unready=lambda: self._schema_gate.reason or self.worker.unready,
        )
        self.stop_seconds = settings.worker.drain_seconds + 2 * STOP_GRACE_SECONDS + CLOSE_SECONDS
        """Time limit of `stop`."""
        self._delivery = build_delivery(self.services, stand_in=True)

    async def start(self) -> None:
        """Open the services, wait for the schema, and begin to claim."""
        await self.services.open()
        self.liveness.start()
        await self._schema_gate.wait()
        await self.worker.start()
        for loop in self._delivery.loops:
            loop.start()
        spare_the_collector()

    def wake(self) -> None:
        """Look for runs to claim; callable from any thread."""
        self.worker.wake()

    async def stop(self) -> None:
        """Drain, then close everything."""
        self.liveness.begin_stop(self.stop_seconds)
        await self.worker.stop()
        for loop in self._delivery.loops:
            await loop.stop()
        await self._delivery.sender.close()
        await self.services.close()
        await self.liveness.stop()


def run(settings: Settings, *, name: str | None = None) -> int:
    """Run until SIGTERM; return the exit code."""
    configure("worker", settings.telemetry.log_level)
    tracing.start("worker")
    raise_descriptor_limit()
    hosted = HostedWorker(settings, name=name)
    serve_metrics(settings, hosted.services.metrics, hosted.liveness)
    zone = settings.worker.zone
    code = run_worker(
        hosted,
        redis_url=settings.redis.url,
        zone=zone,
        name=f"opsjobs-{zone}",
        metrics=hosted.services.metrics,
        stop_seconds=hosted.stop_seconds,
    )
    tracing.stop()
    return code
