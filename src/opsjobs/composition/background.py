"""Loops beside the main work of a process: housekeeping, retention, deliveries.

The registry of sources and destinations of deliveries is here, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from opsjobs.composition.services import Services
from opsjobs.engine.background.audit_forwarding import AuditDestination, AuditSource
from opsjobs.engine.background.housekeeping import (
    HOUSEKEEPING,
    RETENTION,
    Housekeeper,
    RetentionService,
)
from opsjobs.engine.delivery.intake import DeliveryIntake, EventSource, Source
from opsjobs.engine.delivery.sender import DeliverySender, Destination
from opsjobs.engine.delivery.webhooks import WebhookRouter
from opsjobs.engine.firing.firing import SCHEDULER, SILENT_SECONDS
from opsjobs.engine.loop import TURN_POLL_SECONDS, Counts, Loop, Step, Turn
from opsjobs.integrations.services.messages import AuditService
from opsjobs.settings import Settings
from opsjobs.store.delivery_upkeep import DeliveryUpkeep
from opsjobs.store.execution_log import Partitions
from opsjobs.store.idempotency import delete_old_keys
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.notifications import SOURCE as NOTIFICATIONS
from opsjobs.store.retention import Leftovers, Retention, RetentionLimits
from opsjobs.store.target_mirror import TargetMirror
from opsjobs.store.workers import SingletonLock, Workers


def build_housekeeping_loop(
    settings: Settings, services: Services, *, stand_in: bool = False
) -> Loop:
    """Return the loop of the housekeeping of a scheduler; `stand_in`: of a worker."""
    turns = SingletonLock(services.database)
    keeper = Housekeeper(
        Turn(HOUSEKEEPING, turns, services.metrics),
        turns,
        services.metrics,
        reconciler=Reconciler(services.database),
        workers=services.workers,
        delete_old_events=services.event_feed.delete_old,
        more={
            **_delivery_steps(settings, services),
            "unserved_ended": end_unserved(services, stand_in=stand_in),
            **_target_steps(services),
        },
        delete_old_notification_states=services.notifications.delete_old,
        delete_old_keys=partial(delete_old_keys, services.database),
        count_hour=services.statistics.count_hour,
        partitions=Partitions(services.database),
        contents=services.contents,
        leftovers=Leftovers(services.database),
    )
    return Loop(
        HOUSEKEEPING, keeper.run_once, interval_seconds=TURN_POLL_SECONDS, metrics=services.metrics
    )


def _delivery_steps(settings: Settings, services: Services) -> Mapping[str, Step]:
    upkeep = DeliveryUpkeep(services.database)
    return {
        "deliveries_forgotten": partial(
            services.deliveries.delete_old, settings.retention.keep_deliveries
        ),
        "receivers_forgotten": upkeep.delete_receivers,
        "webhook_names_forgotten": upkeep.delete_names,
    }


def end_unserved(services: Services, *, stand_in: bool) -> Step:
    """Return the step that ends sources and deliveries that no process serves.

    A worker leaves it to the scheduler, if there ever was one: that may be down for long, and
    connected to services that the worker's settings do not name.
    """
    served = [source.name for source in sources(services)]
    reached = [destination.name for destination in destinations(services)]
    end = partial(DeliveryUpkeep(services.database).end_unserved, [*served, NOTIFICATIONS], reached)

    async def unless_scheduled() -> int:
        scheduled = await services.workers.seconds_since_tick(SCHEDULER) is not None
        return 0 if scheduled else await end()

    return unless_scheduled if stand_in else end


def _target_steps(services: Services) -> Mapping[str, Step]:
    if services.inventory.remote:
        return {}
    mirror = TargetMirror(services.database, services.clock)
    return {"mirrored_targets_deleted": mirror.delete_abandoned}


def build_retention_loop(settings: Settings, services: Services) -> Loop:
    """Return the loop of the retention."""
    kept = settings.retention
    keep = RetentionLimits(
        log_seconds=kept.keep_logs,
        artifact_seconds=kept.keep_artifacts,
        execution_seconds=kept.keep_executions,
        executions_per_job=kept.keep_executions_per_job,
        file_seconds=kept.keep_files,
        firing_seconds=kept.keep_firings,
        audit_seconds=kept.keep_audit,
    )
    turn = Turn(RETENTION, SingletonLock(services.database), services.metrics)
    keeper = RetentionService(turn, Retention(services.database), keep, services.seals)
    return Loop(
        RETENTION, keeper.run_once, interval_seconds=TURN_POLL_SECONDS, metrics=services.metrics
    )


# --- deliveries


INTAKE_SECONDS = 1.0
SEND_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class DeliveryService:
    """The loops of one process, and the sender, which is closed once they have stopped."""

    loops: Sequence[Loop]
    sender: DeliverySender


def sources(services: Services) -> Sequence[Source]:
    """Return everything that makes deliveries."""
    router = WebhookRouter(
        services.webhooks, services.event_visibility, services.identities.current_principal
    )
    events = EventSource(services.event_feed, services.event_builder, router)
    if services.integrations.get("AUDIT") is None:
        return (events,)
    return (events, AuditSource(services.audit_feed))


def destinations(services: Services) -> Sequence[Destination]:
    """Return everything that deliveries go to."""
    found = (services.webhook_destination, *services.notification_channels.destinations)
    audit = services.integrations.get("AUDIT")
    if audit is None or audit.profile.audit is None:
        return found
    return (*found, AuditDestination(AuditService(audit.client, audit.profile.audit)))


def build_delivery(services: Services, *, stand_in: bool = False) -> DeliveryService:
    """Build the intake and the sender of a scheduler; `stand_in`: of a worker.

    Workers run their machines' commands on the same event loop, so they deliver only while no
    scheduler has ticked for 10 seconds.
    """
    metrics = services.metrics
    sender = DeliverySender(services.deliveries, destinations(services), metrics)
    intake = DeliveryIntake(services.event_feed, services.deliveries, sources(services), metrics)

    def loop(name: str, run_once: Callable[[], Awaitable[Counts]], seconds: float) -> Loop:
        if stand_in:
            run_once = _while_silent(services.workers, run_once)
        return Loop(name, run_once, interval_seconds=seconds, metrics=metrics)

    sending = loop("delivery_sender", sender.run_once, SEND_SECONDS)
    planner = services.notification_planner
    planner.wake = sender.wake = intake.wake = sending.wake
    loops = (
        loop("delivery_intake", intake.run_once, INTAKE_SECONDS),
        loop("notification_planner", planner.run_once, INTAKE_SECONDS),
        sending,
    )
    return DeliveryService(loops, sender)


def _while_silent(
    workers: Workers, run_once: Callable[[], Awaitable[Counts]]
) -> Callable[[], Awaitable[Counts]]:
    async def stand_in() -> Counts:
        silent = await workers.seconds_since_tick(SCHEDULER)
        return {} if silent is not None and silent < SILENT_SECONDS else await run_once()

    return stand_in
