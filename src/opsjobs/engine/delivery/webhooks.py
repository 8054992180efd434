"""Webhooks: which of them get an event, and how a message is signed and sent."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from opsjobs.clock import Clock
from opsjobs.engine.events import BuiltEvent, EventAudience, EventVisibility
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.integrations.caller_urls import NotDelivered, WebhookClient, WebhookResponse
from opsjobs.model.access import Principal
from opsjobs.model.delivery import (
    Delivery,
    Message,
    NewDelivery,
    RetryPlan,
    SendOutcome,
)
from opsjobs.model.events import matching_types
from opsjobs.model.identity import Identity
from opsjobs.model.selection import parse_selector
from opsjobs.model.webhook import message_id, sign
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.webhooks import DESTINATION, SOURCE, StoredWebhook, Webhooks
from opsjobs.telemetry import trace_context

FAILING_SECONDS_MAX = 3 * 86_400.0
"""A webhook that has accepted nothing for so long is disabled."""
GONE = 410


class WebhookRouter:
    """Makes a delivery for each webhook that matches an event, and whose owner may see it."""

    name = SOURCE

    def __init__(
        self,
        webhooks: Webhooks,
        visibility: EventVisibility,
        current_principal: PrincipalLookup,
    ) -> None:
        self._webhooks = webhooks
        self._visibility = visibility
        self._current_principal = current_principal
        self._enabled: Sequence[StoredWebhook] = ()
        self._owners: dict[Identity, Principal | None] = {}

    async def load_types(self) -> Collection[str]:
        """Return the types that any webhook wants; called before each batch of events."""
        self._enabled = await self._webhooks.enabled()
        self._owners.clear()
        return matching_types(pattern for each in self._enabled for pattern in each.events)

    async def route(self, event: BuiltEvent) -> Sequence[NewDelivery]:
        """Return the event's message with the webhooks that get it."""
        wanted = [each for each in self._enabled if event.type in matching_types(each.events)]
        if not wanted:
            return ()
        visibility = await self._visibility.of_event(event)
        receivers = [
            each.receiver
            for each in wanted
            if _selects(each, visibility.labels) and await self._is_visible(each, visibility)
        ]
        if not receivers:
            return ()
        body = {"event": event.body, "visibility": visibility.data()}
        at = datetime.fromisoformat(event.body["time"])
        message = Message(message_id(event.id), event.type, event.subject, body, at)
        return [NewDelivery(message, receivers)]

    async def _is_visible(self, webhook: StoredWebhook, visibility: EventAudience) -> bool:
        owner = webhook.owner
        if owner not in self._owners:
            self._owners[owner] = await self._current_principal(owner)
        principal = self._owners[owner]
        return principal is not None and visibility.admits(principal)


def _selects(webhook: StoredWebhook, labels: Mapping[str, str] | None) -> bool:
    if webhook.selector is None:
        return True
    return all(each.matches(labels or {}) for each in parse_selector(webhook.selector))


class WebhookDestination:
    """Signs a message and posts it to the webhook's URL, as Standard Webhooks describes it."""

    name = DESTINATION
    retry = RetryPlan()

    def __init__(
        self,
        webhooks: Webhooks,
        client: WebhookClient,
        clock: Clock,
        current_principal: PrincipalLookup,
    ) -> None:
        self._webhooks = webhooks
        self._client = client
        self._clock = clock
        self._current_principal = current_principal

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Make one attempt. The owner's rights are checked again, and those of now count."""
        uuid = delivery.receiver.key
        try:
            webhook = await self._webhooks.address(uuid)
        except (KeyMissing, Tampered) as closed:
            return SendOutcome.retry(f"the secret cannot be read: {closed}")
        if webhook is None or not webhook.enabled:
            return SendOutcome.cancel("the webhook is disabled")
        stored: Mapping[str, Any] = delivery.message.body
        owner = await self._current_principal(webhook.owner)
        if owner is None:
            return SendOutcome.cancel(
                f"{webhook.owner.name}, who owns the webhook, has no access any more"
            )
        audience = stored["visibility"]
        if audience is not None and not EventAudience.from_data(audience).admits(owner):
            return SendOutcome.cancel(f"{webhook.owner.name} may not see this event any more")
        body = json.dumps(stored["event"], ensure_ascii=False, separators=(",", ":")).encode()
        now = int(self._clock.now().timestamp())
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(webhook.secrets, delivery.message.id, now, body),
            **trace_context.headers(),
        }
        try:
            response = await self._client.post(webhook.url, body, headers)
        except NotDelivered as failed:
            return await self._failed(delivery, SendOutcome.retry(str(failed)))
        return await self._outcome(delivery, response)

    async def _outcome(self, delivery: Delivery, response: WebhookResponse) -> SendOutcome:
        code, text = response.status, response.text
        if 200 <= code < 300:
            return SendOutcome.delivered(code=code, response=text)
        if code == GONE:
            await self._webhooks.disable(delivery.receiver.key, "its receiver answered 410 Gone")
            return SendOutcome.refuse("the receiver answered 410 Gone", code=code, response=text)
        words = "redirects are not followed" if 300 <= code < 400 else "only 2xx is a success"
        retry = SendOutcome.retry(
            f"the receiver answered {code}; {words}",
            code=code,
            response=text,
            after_seconds=response.retry_after_seconds,
        )
        return await self._failed(delivery, retry)

    async def _failed(self, delivery: Delivery, outcome: SendOutcome) -> SendOutcome:
        if delivery.failing_seconds > FAILING_SECONDS_MAX:
            days = int(delivery.failing_seconds // 86_400)
            reason = f"it has accepted nothing for {days} days; last: {outcome.error}"
            await self._webhooks.disable(delivery.receiver.key, reason)
        return outcome
