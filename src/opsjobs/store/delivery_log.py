"""The log of deliveries, and messages that are sent again.

`DeliveryLog` has the deliveries to one webhook, `OutgoingDeliveries` those to channels of
notifications and to the Audit Service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.delivery import DeliveryReceiver, DeliveryStatus, Message, NewDelivery
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import moment
from opsjobs.store import audit
from opsjobs.store.deliveries import queue_deliveries
from opsjobs.store.paging import ListColumn, Listing, Page, PageRequest
from opsjobs.store.reference import Reference
from opsjobs.store.transaction import Connection, Database


@dataclass(frozen=True, slots=True)
class LoggedDelivery:
    """A delivery with its last attempt: what all receivers have in common."""

    id: int
    event: str
    message_id: str
    status: DeliveryStatus
    redelivery: bool
    attempts: int
    response_code: int | None
    response: str | None
    error: str | None
    created_at: datetime
    attempted_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None

    def data(self) -> dict[str, Any]:
        """Return the common fields of the JSON object."""
        return {
            "id": self.id,
            "event": self.event,
            "message_id": self.message_id,
            "status": self.status.value,
            "redelivery": self.redelivery,
            "attempts": self.attempts,
            "response_code": self.response_code,
            "response": self.response,
            "error": self.error,
            "created_at": moment(self.created_at),
            "attempted_at": moment(self.attempted_at),
            "finished_at": moment(self.finished_at),
            "next_attempt_at": moment(self.next_attempt_at),
        }


@dataclass(frozen=True, slots=True)
class WebhookDelivery(LoggedDelivery):
    """A delivery to a webhook."""

    subject: str
    duration_ms: int | None

    def data(self) -> dict[str, Any]:
        """Return an item of GET /webhooks/{id}/deliveries."""
        common = LoggedDelivery.data(self)
        return {**common, "subject": self.subject, "duration_ms": self.duration_ms}


_SHOWN = """
select d.id, m.type as event, m.message_id, d.subject, d.status, d.redelivery, d.attempts,
  d.response_code, d.response, d.error, d.duration_ms, d.created_at, d.attempted_at,
  d.finished_at, case when d.status = 'pending' then l.due_at end as next_attempt_at
from deliveries d join delivery_messages m on m.id = d.message_id
join delivery_receivers r on r.id = d.receiver_id
left join delivery_lanes l on l.receiver_id = d.receiver_id and l.subject = d.subject
where r.destination = %(destination)s and r.key = %(key)s"""
DELIVERIES = Listing(
    _SHOWN,
    {
        "id": ListColumn("integer", sort=True),
        "event": ListColumn("text"),
        "message_id": ListColumn("text"),
        "subject": ListColumn("text"),
        "status": ListColumn("text"),
        "response_code": ListColumn("integer"),
        "created_at": ListColumn("moment"),
    },
)
_MESSAGE = """
select m.source, m.message_id, m.type, d.subject, m.body, m.at, d.status, r.destination, r.key
from deliveries d join delivery_messages m on m.id = d.message_id
join delivery_receivers r on r.id = d.receiver_id where d.id = %(id)s and {which} for update of d"""
_OF_RECEIVER = "r.destination = %(destination)s and r.key = %(key)s"


class DeliveryLog:
    """Reads the deliveries of a receiver."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, receiver: DeliveryReceiver, request: PageRequest) -> Page[WebhookDelivery]:
        """Return a page of deliveries, newest first."""
        page = await DELIVERIES.page(self._database, request, _values(receiver))
        return page.map(_logged)

    async def get(self, receiver: DeliveryReceiver, ref: str | int) -> WebhookDelivery:
        """Return one delivery by its id. Raises NotFound."""
        values = {**_values(receiver), "id": id_of(ref)}
        row = await self._database.fetch_one(f"{_SHOWN} and d.id = %(id)s", values)
        if row is None:
            raise NotFound.for_ref("delivery", ref)
        return _logged(row)


async def queue_again(connection: Connection, receiver: DeliveryReceiver, ref: str) -> int:
    """Queue the message of a delivery to this receiver again; see `queue_message_again`."""
    return await queue_message_again(connection, ref, which=_OF_RECEIVER, values=_values(receiver))


async def queue_message_again(
    connection: Connection, ref: str, *, which: str, values: Mapping[str, Any]
) -> int:
    """Queue the message of a delivery again, in the caller's transaction; return the new id.

    `which` is a condition on deliveries `d` and receivers `r`, `values` its parameters. Raises
    NotFound, Conflict("delivery_pending").
    """
    statement = _MESSAGE.format(which=which)
    row = await (await connection.execute(statement, {**values, "id": id_of(ref)})).fetchone()
    if row is None:
        raise NotFound.for_ref("delivery", ref)
    if row["status"] == DeliveryStatus.PENDING:
        raise Conflict(
            "delivery_pending",
            f"The delivery {ref} is pending: it is sent without that. Wait for its end.",
        )
    message = Message(row["message_id"], row["type"], row["subject"], row["body"], row["at"])
    receiver = DeliveryReceiver(row["destination"], row["key"])
    again = [NewDelivery(message, [receiver])]
    (made,) = await queue_deliveries(connection, row["source"], again, redelivery=True)
    return made


def _logged(row: DictRow) -> WebhookDelivery:
    return WebhookDelivery(**{**row, "status": DeliveryStatus(row["status"])})


def _values(receiver: DeliveryReceiver) -> dict[str, Any]:
    return {"destination": receiver.destination, "key": receiver.key}


def id_of(ref: str | int) -> int | None:
    """Return the id that a reference to a delivery names; None if it is no id."""
    found = Reference.parse(str(ref))
    return found.id if found is not None else None


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
_OUTGOING = """
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
    _OUTGOING,
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
        row = await self._database.fetch_one(f"{_OUTGOING} and d.id = %s", [id_of(ref)])
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
