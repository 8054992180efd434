"""A delivery by e-mail that has ended, made without a server."""

from __future__ import annotations

from datetime import UTC, datetime

from opsjobs.model.delivery import DeliveryReceiver, Message, NewDelivery
from opsjobs.store.deliveries import queue_deliveries
from opsjobs.store.transaction import Database


async def ended_delivery(
    database: Database, *, to: str = "ada@example.org", status: str = "failed", name: str = "m-1"
) -> int:
    """Store a message and its delivery, which has ended with this status; return its id."""
    body = {"subject": "[opsjobs] backup failed", "text": "-", "channel_id": None, "data": {}}
    at = datetime(2026, 11, 28, tzinfo=UTC)
    message = Message(name, "notification.failed", "job/1", body, at)
    async with database.transaction() as connection:
        new = [NewDelivery(message, [DeliveryReceiver("email", to)])]
        await queue_deliveries(connection, "notifications", new)
        await connection.execute("delete from delivery_lanes")
        ended = await connection.execute(
            "update deliveries set status = %s, error = 'it answers 550', attempts = 1, "
            "finished_at = opsjobs_now() where status = 'pending' returning id",
            [status],
        )
        row = await ended.fetchone()
    assert row is not None
    return int(row["id"])
