"""The log of deliveries to channels of notifications and to the Audit Service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.model.delivery import DeliveryStatus
from opsjobs.model.errors import NotFound
from opsjobs.store import audit
from opsjobs.store.delivery_log import LoggedDelivery, id_of, queue_message_again
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.transaction import Database


@dataclass(frozen=True, slots=True)
class OutgoingDelivery(LoggedDelivery):
    """A delivery to a channel of notifications, or to the Audit Service."""

    destination: str
    to: str
    title: str | None

    def data(self) -> dict[str, Any]:
        """Return an item of GET /deliveries."""
        common = LoggedDelivery.data(self)
        return {**common, "destination": self.destination, "to": self.to, "title": self.title}


# By the receivers, which are few: an index has the deliveries of each.
_SHOWN = """
select d.id, r.destination, r.key as to, m.type as event, m.message_id,
  m.body ->> 'subject' as title, d.status, d.redelivery, d.attempts, d.response_code, d.response,
  d.error, d.created_at, d.attempted_at, d.finished_at,
  case when d.status = 'pending' then l.due_at end as next_attempt_at
from deliveries d join delivery_messages m on m.id = d.message_id
join delivery_receivers r on r.id = d.receiver_id
left join delivery_lanes l on l.receiver_id = d.receiver_id and l.subject = d.subject
where d.receiver_id = any(array(
  select id from delivery_receivers where destination <> 'webhook'))"""
OUTGOING = Listing(
    _SHOWN,
    {
        "id": ListColumn("integer", sort=True),
        "destination": ListColumn("text"),
        "to": ListColumn("text", expression='"to"'),
        "event": ListColumn("text"),
        "message_id": ListColumn("text"),
        "status": ListColumn("text"),
        "created_at": ListColumn("moment"),
    },
)
_NOT_OF_WEBHOOKS = "r.destination <> 'webhook'"


class OutgoingDeliveries:
    """Lists deliveries, and sends their messages again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, request: PageRequest) -> Page[OutgoingDelivery]:
        """Return a page of deliveries, newest first."""
        page = await OUTGOING.page(self._database, request)
        return page.map(_delivery)

    async def get(self, ref: str | int) -> OutgoingDelivery:
        """Return one delivery by its id. Raises NotFound."""
        row = await self._database.fetch_one(f"{_SHOWN} and d.id = %s", [id_of(ref)])
        if row is None:
            raise NotFound.for_ref("delivery", ref)
        return _delivery(row)

    async def redeliver(self, ref: str) -> OutgoingDelivery:
        """Queue the message of a delivery again, with the same id; return the new delivery.

        Raises NotFound, Conflict("delivery_pending").
        """
        async with self._database.transaction() as connection:
            made = await queue_message_again(connection, ref, which=_NOT_OF_WEBHOOKS, values={})
            await audit.record(connection, "delivery.repeated", "delivery", ref, after={"as": made})
        return await self.get(made)


def _delivery(row: Mapping[str, Any]) -> OutgoingDelivery:
    return OutgoingDelivery(**{**row, "status": DeliveryStatus(row["status"])})
