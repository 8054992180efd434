"""Schemas of webhooks and their deliveries."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import AnswerModel, PageModel, StoredModel, Timestamp
from opsjobs.model.delivery import DeliveryStatus


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
        description="Until then, messages are signed with the secrets before the rotation, too"
    )
    failures: int = Field(description="Failed attempts since the last success")
    failing_since: Timestamp | None
    created_at: Timestamp
    updated_at: Timestamp


class NewWebhookOut(WebhookOut):
    """A webhook with its secret, which is shown this once; null in a repeated answer."""

    secret: str | None


class WebhookPageOut(PageModel):
    """A page of webhooks."""

    items: list[WebhookOut]


class DeliveryOut(AnswerModel):
    """A delivery with its last attempt."""

    id: int
    event: str
    message_id: str = Field(description="The header `webhook-id`, the same at every attempt")
    subject: str
    status: DeliveryStatus
    redelivery: bool
    attempts: int
    response_code: int | None
    response: str | None = Field(description="The beginning of the response, 1,024 characters")
    error: str | None
    duration_ms: int | None
    created_at: Timestamp
    attempted_at: Timestamp | None
    finished_at: Timestamp | None
    next_attempt_at: Timestamp | None


class DeliveryPageOut(PageModel):
    """A page of deliveries, newest first."""

    items: list[DeliveryOut]
