"""Receivers of notifications: which delivery destination a channel and its recipients are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from opsjobs.model.access import Principal
from opsjobs.model.delivery import DeliveryReceiver
from opsjobs.model.notification import NotificationChannel

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
