"""The stored form of notifications: what a delivery carries, by channel, and its receiver.

A receiver is the delivery destination that a channel and one of its recipients are.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime

from opsjobs.model.access import Principal
from opsjobs.model.delivery import DeliveryReceiver, Message
from opsjobs.model.events import EventType, cloud_event
from opsjobs.model.execution import moment
from opsjobs.model.notification import NotificationChannel, NotificationRule
from opsjobs.model.notification_message import NotificationMessage

_NAMESPACE = uuid.UUID("6b0b9a3e-5c54-4a52-9c0e-2f7f3f0f6a51")


def store_form(
    message: NotificationMessage, rule: NotificationRule, name: str, subject: str, now: datetime
) -> Message:
    """Return the message as it is delivered; equal names give equal ids.

    `subject`: messages of one subject arrive in order at a receiver.
    """
    message_id = str(uuid.uuid5(_NAMESPACE, name))
    data = dict(message.data)
    written = {"subject": message.subject, "text": message.text}
    if rule.channel is NotificationChannel.WEBHOOK:
        event = EventType.NOTIFICATION_SENT
        at = moment(now) or ""
        event_body = cloud_event(
            message_id, event, data.get("uuid") or message_id, at, data | written
        )
        # The author of the rule chose the webhook: its owner only has to have access still.
        envelope = {"event": event_body, "visibility": None}
        return Message(message_id, event.value, subject, envelope, now)
    body = {**written, "channel_id": rule.channel_id, "data": data}
    return Message(message_id, f"notification.{data['event']}", subject, body, now)


EMAIL = "email"
SERVICE = "notification_service"
APPRISE = "apprise"
WEBHOOK = "webhook"
NO_WEBHOOK = "unknown_webhook"
"""A webhook that a rule names and that does not exist any more: its deliveries fail."""

DESTINATIONS: Mapping[NotificationChannel, str] = {
    NotificationChannel.EMAIL: EMAIL,
    NotificationChannel.SERVICE: SERVICE,
    NotificationChannel.APPRISE: APPRISE,
    NotificationChannel.WEBHOOK: WEBHOOK,
}

FindWebhooks = Callable[[Collection[str], Principal | None], Awaitable[Mapping[str, str]]]
"""Return the uuids of the webhooks of these names, by name, as far as they exist.

With a principal, only of those that it owns."""


class ReceiverBook:
    """Finds the receivers of a rule."""

    def __init__(self, find_webhooks: FindWebhooks) -> None:
        self._find_webhooks = find_webhooks

    async def existing_webhooks(
        self, names: Collection[str], owner: Principal | None
    ) -> Collection[str]:
        """Return which of these names are names of webhooks, or of webhooks of this owner."""
        return (await self._find_webhooks(names, owner)).keys()

    async def find(
        self, channel: NotificationChannel, to: Sequence[str]
    ) -> Sequence[DeliveryReceiver]:
        """Return a receiver for each recipient."""
        if channel is not NotificationChannel.WEBHOOK:
            return [DeliveryReceiver(DESTINATIONS[channel], recipient) for recipient in to]
        found = await self._find_webhooks(to, None)
        return [
            DeliveryReceiver(WEBHOOK, found[name])
            if name in found
            else DeliveryReceiver(NO_WEBHOOK, name)
            for name in to
        ]
