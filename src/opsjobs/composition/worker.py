"""The worker process: the engine with its parts, hosted by Celery."""

from __future__ import annotations

import os
import socket

from opsjobs import telemetry
from opsjobs.composition import Services, build, descriptors, firing, inspecting, relay, rescuer, serve_metrics
from opsjobs.composition.background import housekeeping, retention
from opsjobs.composition.memory import GIVE_BACK_SECONDS, give_back, spare_the_collector
from opsjobs.engine.background.audit_sealer import BEHIND_SECONDS, Sealer
from opsjobs.engine.background.audit_sealer import STAND_IN_SECONDS as SEAL_IN_SECONDS
from opsjobs.engine.background.remote_cleanup import Aftercare
from opsjobs.engine.firing.firing import StandIn
from opsjobs.engine.launching.target_pinning import Pinning
from opsjobs.engine.runs.child_executions import Children
from opsjobs.engine.runs.chunk_cache import Chunks
from opsjobs.engine.runs.target_run import RunLimits
from opsjobs.engine.runs.transfer import TransferTools
from opsjobs.engine.service import Loop
from opsjobs.engine.worker.worker import LET_GO_SECONDS, Worker, WorkerOptions, WorkerTools
from opsjobs.remote.files.finding import FindLimits
from opsjobs.settings import Settings
from opsjobs.store.workers import Lease
from opsjobs.wakeup.worker import run_worker

CONNECTIONS = 6
RESCUE_SECONDS = 1.0
RELAY_SECONDS = 1.0
STAND_IN_SECONDS = 1.0
AFTERCARE_SECONDS = 10.0
VAULT_SECONDS = 30.0
# How long the parts may take to close once the worker has stopped.
CLOSE_SECONDS = 3.0


def aftercare(parts: Services, zone: str) -> Aftercare:
    """The visits to machines after their runs have ended."""
    return Aftercare(
        parts.ledger, parts.inventory, parts.vault, parts.sessions, parts.clock, zone=zone, fetch=parts.elsewhere.fetch
    )


def transfers(settings: Settings, parts: Services) -> TransferTools:
    """What the transfers of a worker share."""
    return TransferTools(
        parts.files,
        parts.contents,
        parts.artifacts,
        Chunks(parts.contents),
        parts.journal,
        parts.metrics,
        FindLimits(bytes=settings.execution.file_limit_bytes),
        parts.people.standing,
    )


def build_worker(settings: Settings, parts: Services, *, name: str | None = None) -> Worker:
    """The engine of one worker process, with the loops that it shares with the scheduler."""
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
        ledger=parts.ledger,
        workers=parts.workers,
        lease=lambda life: Lease(settings.database.url, life, lease_seconds=wanted.lease_seconds),
        targets=parts.inventory,
        vault=parts.vault,
        sessions=parts.sessions,
        bus=parts.bus,
        clock=parts.clock,
        metrics=parts.metrics,
        limits=RunLimits(
            execution.command_timeout,
            execution.output_limit_bytes,
            reattach_seconds=execution.reattach_window,
            spool_bytes=execution.spool_limit_bytes,
            attempts=execution.max_retries + 1,
        ),
        transfers=transfers(settings, parts),
        children=Children(parts.launcher, parts.jobs, parts.executions, parts.people.standing),
        approving=parts.approving,
        pinning=Pinning(parts.judging),
        notify=parts.notifier.notify,
        fetch=parts.elsewhere.fetch,
    )
    stand_in = StandIn(firing(parts), parts.workers)
    sealer = Sealer(parts.seals, behind_seconds=BEHIND_SECONDS)
    background: list[Loop] = []
    worker = Worker(options, tools, background)
    care = aftercare(parts, wanted.zone)
    mending = rescuer(parts, lambda: worker.may_reap, lambda: worker.database_now)
    background += [
        Loop("rescuer", mending.run_once, interval_seconds=RESCUE_SECONDS, metrics=parts.metrics),
        Loop("sweeps", care.sweep_once, interval_seconds=AFTERCARE_SECONDS, metrics=parts.metrics),
        Loop("cleaning", care.clean_once, interval_seconds=AFTERCARE_SECONDS, metrics=parts.metrics),
        housekeeping(parts),
        inspecting(parts),
        retention(settings, parts),
        Loop("vault_token", parts.elsewhere.renew, interval_seconds=VAULT_SECONDS, metrics=parts.metrics),
        Loop("firing", stand_in.run_once, interval_seconds=STAND_IN_SECONDS, metrics=parts.metrics),
        Loop("heap", give_back, interval_seconds=GIVE_BACK_SECONDS, metrics=parts.metrics),
        Loop("sealer", sealer.run_once, interval_seconds=SEAL_IN_SECONDS, metrics=parts.metrics),
        Loop("relay", relay(parts).run_once, interval_seconds=RELAY_SECONDS, metrics=parts.metrics),
    ]
    return worker


class HostedWorker:
    """A worker with its parts, as the notifier hosts it: opened and closed on the engine's own loop."""

    def __init__(self, settings: Settings, *, name: str | None = None) -> None:
        self.parts = build(settings, process="worker", connections=CONNECTIONS, hot_verbs=True)
        self.worker = build_worker(settings, self.parts, name=name)

    async def start(self) -> None:
        """Open the parts and begin to claim."""
        await self.parts.open()
        await self.worker.start()
        spare_the_collector()

    def bell(self) -> None:
        """There may be work; from any thread."""
        self.worker.bell()

    async def stop(self) -> None:
        """Drain, then close everything."""
        await self.worker.stop()
        await self.parts.close()


def run(settings: Settings, *, name: str | None = None) -> int:
    """Until SIGTERM; returns the exit code."""
    telemetry.configure("worker", settings.telemetry.log_level)
    descriptors.raise_limit()
    hosted = HostedWorker(settings, name=name)
    serve_metrics(settings, hosted.parts.metrics)
    zone = settings.worker.zone
    return run_worker(
        hosted,
        redis_url=settings.redis.url,
        zone=zone,
        name=f"opsjobs-{zone}",
        metrics=hosted.parts.metrics,
        stop_seconds=settings.worker.drain_seconds + 2 * LET_GO_SECONDS + CLOSE_SECONDS,
    )
