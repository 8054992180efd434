"""Schemas of webhooks and notifications, and of the deliveries to all receivers."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import ActionsOut, AnswerModel, PageModel, StoredModel, Timestamp
from opsjobs.model.delivery import DeliveryStatus
from opsjobs.model.notification import NotificationRule


class LoggedDeliveryOut(AnswerModel):
    """A delivery with its last attempt."""

    id: int
    event: str
    message_id: str = Field(
        description="The same at every attempt; for a webhook, the header `webhook-id`"
    )
    status: DeliveryStatus
    redelivery: bool
    attempts: int
    response_code: int | None
    response: str | None = Field(description="The first 1,024 characters of the response")
    error: str | None
    created_at: Timestamp
    attempted_at: Timestamp | None
    finished_at: Timestamp | None
    next_attempt_at: Timestamp | None


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


class NotificationDefaultOut(AnswerModel):
    """The rules of jobs and schedules without their own."""

    notify: list[NotificationRule]
    updated_at: Timestamp


class NotificationTrialOut(AnswerModel):
    """The result of one test message."""

    to: str
    delivered: bool
    code: int | None
    response: str | None
    error: str | None


class NotificationTestOut(AnswerModel):
    """The results of test messages, one for each recipient."""

    items: list[NotificationTrialOut]


class OutgoingDeliveryOut(LoggedDeliveryOut):
    """A message to one receiver, with its last attempt."""

    destination: str
    to: str
    title: str | None


class OutgoingDeliveryPageOut(PageModel):
    """A page of deliveries."""

    items: list[OutgoingDeliveryOut]
