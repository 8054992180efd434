"""Loops that maintain the database: housekeeping in every process, retention in workers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from opsjobs.composition.deliveries import destinations, sources
from opsjobs.composition.services import Services
from opsjobs.engine.background.housekeeping import (
    HOUSEKEEPING,
    RETENTION,
    Housekeeper,
    RetentionService,
)
from opsjobs.engine.firing.firing import SCHEDULER
from opsjobs.engine.loop import TURN_POLL_SECONDS, Loop, Step, Turn
from opsjobs.settings import Settings
from opsjobs.store.delivery_upkeep import DeliveryUpkeep
from opsjobs.store.execution_log import Partitions
from opsjobs.store.idempotency import delete_old_keys
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.notifications import SOURCE as NOTIFICATIONS
from opsjobs.store.retention import Leftovers, Retention, RetentionLimits
from opsjobs.store.target_mirror import TargetMirror
from opsjobs.store.workers import SingletonLock


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
