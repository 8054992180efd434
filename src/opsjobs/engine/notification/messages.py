"""The stored form of notifications: what a delivery carries, by channel."""

from __future__ import annotations

import uuid
from datetime import datetime

from opsjobs.model.delivery import Message
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
