"""Schema of what the deliveries to all receivers have in common."""

from __future__ import annotations

from pydantic import Field

from opsjobs.api.schemas.base import AnswerModel, Timestamp
from opsjobs.model.delivery import DeliveryStatus


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
