"""Deliveries: messages for receivers outside, such as webhooks or the Audit Service.

A message is delivered at least once to each of its receivers, with the same id each time. The
messages of one subject arrive in order at a receiver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

MESSAGE_BYTES_MAX = 1 << 20
"""Limit of the body of a message, as JSON."""
RESPONSE_CHARACTERS_MAX = 1_024
"""The part of a receiver's response that is kept."""
ERROR_CHARACTERS_MAX = 500


class DeliveryStatus(StrEnum):
    """All but `pending` are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class DeliveryReceiver:
    """One receiver of a destination."""

    destination: str
    key: str = ""
    """Its name within the destination, such as the uuid of a webhook."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; it does not change once it is stored."""

    id: str
    """The same at every attempt and for every receiver: receivers deduplicate by it."""
    type: str
    subject: str
    """The thing that it is about: a message that fails delays later ones of its subject."""
    body: Mapping[str, Any]
    at: datetime

    @property
    def traceparent(self) -> str | None:
        """The trace context of the event that it passes on; None without one."""
        event = self.body.get("event", self.body)
        found = event.get("traceparent") if isinstance(event, Mapping) else None
        return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A message and the receivers that are to get it."""

    message: Message
    receivers: Sequence[DeliveryReceiver]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is to be attempted now."""

    id: int
    receiver: DeliveryReceiver
    message: Message
    attempt: int
    """The number of this attempt, from 1 on."""
    waited_seconds: float
    """Time since the delivery was made."""
    failing_seconds: float
    """Time for which the receiver has not accepted any message; 0 after a success."""
    redelivery: bool = False


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """The result of one attempt; `delivered`, `retry`, `refuse` … make one."""

    status: DeliveryStatus
    """`pending` if the delivery is to be tried again."""
    error: str | None = None
    code: int | None = None
    """The status of the receiver's response, if it has one."""
    response: str | None = None
    after_seconds: float | None = None
    """The least time before the next attempt, if the receiver demands one."""
    attempted: bool = True
    """False if nothing was sent: it counts neither as an attempt nor as a failure."""

    @classmethod
    def delivered(cls, *, code: int | None = None, response: str | None = None) -> SendOutcome:
        """Return the outcome of a message that the receiver has accepted."""
        return cls(DeliveryStatus.DELIVERED, None, code, response)

    @classmethod
    def retry(
        cls,
        error: str,
        *,
        code: int | None = None,
        response: str | None = None,
        after_seconds: float | None = None,
    ) -> SendOutcome:
        """Return the outcome of a failure that may pass: the message is sent again later."""
        return cls(DeliveryStatus.PENDING, error, code, response, after_seconds)

    @classmethod
    def refuse(
        cls, error: str, *, code: int | None = None, response: str | None = None
    ) -> SendOutcome:
        """Return the outcome of a message that this receiver will never get."""
        return cls(DeliveryStatus.FAILED, error, code, response)

    @classmethod
    def cancel(cls, reason: str) -> SendOutcome:
        """Return the outcome of a message that is no longer to be sent: it was not attempted."""
        return cls(DeliveryStatus.CANCELLED, reason, attempted=False)

    @classmethod
    def postpone(cls, reason: str, *, after_seconds: float) -> SendOutcome:
        """Return the outcome of a message that this process has no place for now."""
        return cls(DeliveryStatus.PENDING, reason, after_seconds=after_seconds, attempted=False)


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """The pauses between the attempts of one delivery, and when it is given up."""

    first_seconds: float = 5.0
    longest_seconds: float = 1_800.0
    give_up_seconds: float | None = 3 * 86_400.0
    """A delivery that was made longer ago fails; None: it is tried for ever."""

    def pause_seconds(self, attempt: int) -> float:
        """Return the pause after the failure of this attempt: each is twice the one before.

        >>> [RetryPlan().pause_seconds(attempt) for attempt in (1, 2, 9, 99)]
        [5.0, 10.0, 1280.0, 1800.0]
        """
        return min(self.first_seconds * 2.0 ** min(attempt - 1, 30), self.longest_seconds)

    def next_pause_seconds(self, delivery: Delivery, outcome: SendOutcome) -> float | None:
        """Return the seconds until the next attempt after a failure; None: there is none."""
        grown = self.pause_seconds(delivery.attempt) if outcome.attempted else 0.0
        pause = max(grown, outcome.after_seconds or 0.0)
        pause = min(pause, 2 * self.longest_seconds)
        given_up = self.give_up_seconds
        if given_up is not None and delivery.waited_seconds + pause > given_up:
            return None
        return pause
