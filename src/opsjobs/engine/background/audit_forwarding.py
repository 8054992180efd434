"""Forward the audit log to the platform's Audit Service, in order, at least once.

Our audit log stays the truth: rows are forwarded after they are sealed, and none is deleted for
that. The queue is short; what does not fit in it waits in the audit log itself.
"""

from __future__ import annotations

from opsjobs.engine.delivery.intake import Batch
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.services.client import ServiceRefused
from opsjobs.integrations.services.messages import AuditService
from opsjobs.model.delivery import (
    Delivery,
    DeliveryReceiver,
    Message,
    NewDelivery,
    RetryPlan,
    SendOutcome,
)
from opsjobs.store.feeds import AUDIT_SERVICE, AuditFeed
from opsjobs.telemetry.logs import log

RECEIVER = DeliveryReceiver(AUDIT_SERVICE)
ROWS_A_READ = 200
PENDING_MAX = 1_000
"""Rows in the queue; the others wait in the audit log."""
# The service says that it does not like this one row. All other refusals concern all rows.
_OF_THE_ROW = frozenset({400, 409, 413, 422})


class AuditSource:
    """The sealed rows of the audit log, by their numbers."""

    name = AUDIT_SERVICE

    def __init__(self, feed: AuditFeed) -> None:
        self._feed = feed

    async def start(self) -> int:
        """Return the last number: rows are forwarded from the connection of the service on."""
        return await self._feed.last_seal()

    async def read(self, after: int) -> Batch:
        """Return the next rows, as many as the queue has room for."""
        room = PENDING_MAX - await self._feed.count_pending(AUDIT_SERVICE, PENDING_MAX)
        rows = await self._feed.read(after, limit=min(room, ROWS_A_READ)) if room > 0 else []
        deliveries = [
            NewDelivery(
                # One subject, so that all rows arrive in order.
                Message(f"audit/{row.seal}", row.action, "audit_log", row.data, row.at),
                (RECEIVER,),
            )
            for row in rows
        ]
        return Batch(rows[-1].seal if rows else after, deliveries)


class AuditDestination:
    """The Audit Service. Rows wait for it for as long as it is down."""

    name = AUDIT_SERVICE
    retry = RetryPlan(first_seconds=2.0, longest_seconds=300.0, give_up_seconds=None)

    def __init__(self, service: AuditService) -> None:
        self._service = service

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Send one row."""
        try:
            return SendOutcome.delivered(code=await self._service.send(delivery.message.body))
        except ServiceRefused as refused:
            if refused.status not in _OF_THE_ROW:
                return SendOutcome.retry(str(refused), code=refused.status)
            log.warning("audit_event_refused", id=delivery.message.id, reason=str(refused))
            return SendOutcome.refuse(str(refused), code=refused.status)
        except ServiceUnavailable as away:
            return SendOutcome.retry(str(away), code=away.status)
