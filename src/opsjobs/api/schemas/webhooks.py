"""Schemas of webhooks and their deliveries."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import ActionsOut, PageModel, StoredModel, Timestamp
from opsjobs.api.schemas.deliveries import LoggedDeliveryOut


class WebhookOut(StoredModel):
    """A webhook without its secret."""

    name: str
    url: str
    events: list[str] = Field(description="Types, `<noun>.*` or `*`")
    selector: str | None
    enabled: bool
    disabled_reason: str | None = Field(description="Why opsjobs disabled it")
    owner: str = Field(
        description="Who created it: the webhook gets the events that the owner may see"
    )
    owner_kind: str
    previous_secret_until: Timestamp | None = Field(
        description="Until then, messages are also signed with the secrets before the rotation"
    )
    failures: int = Field(description="Failed attempts since the last success")
    failing_since: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class NewWebhookOut(WebhookOut):
    """A webhook with its secret, which is shown this once; null in a repeated answer."""

    secret: str | None


class WebhookDetailOut(WebhookOut, ActionsOut):
    """A webhook, and what the caller may do: update, rotate, test, redeliver, delete."""


class WebhookPageOut(PageModel):
    """A page of webhooks."""

    items: list[WebhookOut]


class DeliveryOut(LoggedDeliveryOut):
    """A delivery to a webhook, with its last attempt."""

    subject: str
    duration_ms: int | None


class DeliveryPageOut(PageModel):
    """A page of deliveries, newest first."""

    items: list[DeliveryOut]
