"""The two protocols of deliveries: sources of messages, and destinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from opsjobs.model.delivery import Delivery, NewDelivery, RetryPlan, SendOutcome


class Destination(Protocol):
    """A kind of receivers, such as webhooks, and how a message reaches one of them.

    The sender takes care of order, retries, leases, limits and records.
    """

    @property
    def name(self) -> str:
        """The name under which deliveries are stored; it never changes."""

    @property
    def retry(self) -> RetryPlan:
        """When a failed delivery is tried again, and when it is given up."""

    async def send(self, delivery: Delivery) -> SendOutcome:
        """Make one attempt, and return its outcome.

        It is cancelled after `SEND_SECONDS_MAX`. An exception is a failed attempt, and a bug if it
        is neither an OSError nor Unavailable. The attempt may have been made before by a process
        that was killed: the message's id is the same then.
        """


@dataclass(frozen=True, slots=True)
class Batch:
    """The next messages of a source."""

    through: int
    """The position up to which the source has been read; as before, if there is nothing new."""
    deliveries: Sequence[NewDelivery]


class Source(Protocol):
    """A sequence of facts in PostgreSQL by position, from which messages are made.

    Each position is read once: the messages and the new position are committed together.
    """

    @property
    def name(self) -> str:
        """The name under which the position is stored; it never changes."""

    async def start(self) -> int:
        """Return the position at which a new installation begins: usually the end."""

    async def read(self, after: int) -> Batch:
        """Return a bounded number of messages of the facts after this position."""
