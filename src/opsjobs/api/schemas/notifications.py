"""Schemas of notifications: the default rules, trials of channels, and deliveries."""

from __future__ import annotations

from opsjobs.api.schemas.base import AnswerModel, PageModel, Timestamp
from opsjobs.api.schemas.deliveries import LoggedDeliveryOut
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


class OutgoingDeliveryOut(LoggedDeliveryOut):
    """A message to one receiver, with its last attempt."""

    destination: str
    to: str
    title: str | None


class OutgoingDeliveryPageOut(PageModel):
    """A page of deliveries."""

    items: list[OutgoingDeliveryOut]
