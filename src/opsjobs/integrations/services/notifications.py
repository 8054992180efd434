"""The platform's Notification Service: one message to one recipient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opsjobs.integrations.services.client import ServiceClient
from opsjobs.integrations.services.profile import NotificationCall, fill

_HIGH = frozenset({"failed", "missed", "approval_needed"})


@dataclass(frozen=True, slots=True)
class ServiceNotification:
    """A message for the service."""

    id: str
    """The same whenever it is sent: correlation id, and `data.id`."""
    event: str
    """The event, such as failed."""
    recipient: str
    channel_id: str | None
    subject: str
    text: str
    data: Mapping[str, Any]
    timestamp: str

    def values(self) -> dict[str, Any]:
        """Return the values that the body of a profile may use."""
        return {
            "user_id": self.recipient,
            "recipient": self.recipient,
            "channel_id": self.channel_id,
            "type": f"job_{self.event}",
            "title": self.subject,
            "message": self.text,
            "priority": "high" if self.event in _HIGH else "normal",
            "data": {**self.data, "id": self.id},
            "correlation_id": self.id,
            "timestamp": self.timestamp,
        }


class NotificationService:
    """Sends notifications as the profile describes."""

    def __init__(self, client: ServiceClient, call: NotificationCall) -> None:
        self._client = client
        self._call = call

    @property
    def needs_channel_id(self) -> bool:
        """True if the bodies of the profile name a channel of the service."""
        return "{channel_id}" in str(self._call.body)

    async def send(self, notification: ServiceNotification) -> int:
        """Send one notification; return the status of the answer.

        Raises ServiceUnavailable, ServiceRefused.
        """
        answer = await self._client.post(
            self._call.path,
            fill(self._call.body, notification.values()),
            # The service knows a repetition by its id.
            idempotent=True,
            accept=self._call.accept,
            correlation_id=notification.id,
        )
        return answer.status
