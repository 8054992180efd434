"""The registry of sources and destinations of deliveries, and their loops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from opsjobs.composition.services import Services
from opsjobs.engine.background.audit_forwarding import AuditDestination, AuditSource
from opsjobs.engine.delivery.intake import DeliveryIntake, EventSource, Source
from opsjobs.engine.delivery.sender import DeliverySender, Destination
from opsjobs.engine.delivery.webhooks import WebhookRouter
from opsjobs.engine.firing.firing import SCHEDULER, SILENT_SECONDS
from opsjobs.engine.loop import Counts, Loop
from opsjobs.integrations.services.audit import AuditService
from opsjobs.store.workers import Workers

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
