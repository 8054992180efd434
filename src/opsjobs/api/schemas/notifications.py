"""Schemas of notifications: the default rules, trials of channels, and deliveries."""

from __future__ import annotations

from opsjobs.api.schemas.base import AnswerModel, PageModel, Timestamp
from opsjobs.model.delivery import DeliveryStatus
from opsjobs.model.notification import NotificationRule


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


class OutgoingDeliveryOut(AnswerModel):
    """A message to one receiver, with its last attempt."""

    id: int
    destination: str
    to: str
    event: str
    message_id: str
    title: str | None
    status: DeliveryStatus
    redelivery: bool
    attempts: int
    response_code: int | None
    response: str | None
    error: str | None
    created_at: Timestamp
    attempted_at: Timestamp | None
    finished_at: Timestamp | None
    next_attempt_at: Timestamp | None


class OutgoingDeliveryPageOut(PageModel):
    """A page of deliveries."""

    items: list[OutgoingDeliveryOut]
