"""Rules of notifications: the events, the channel, the recipients, and how often.

A rule is part of a job's policy, of a schedule, or of the default of the installation. The most
specific list applies: the schedule's if it has one, else the job's, else the default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration
from opsjobs.model.execution import ExecutionStatus
from opsjobs.model.notification_template import check_template
from opsjobs.model.validation_errors import fault

RULES_MAX = 20
RECIPIENTS_MAX = 20
DIGEST_SECONDS_MIN = 60.0
DIGEST_SECONDS_MAX = 7 * 86_400.0
_EMAIL_CHARACTERS_MAX = 254


class NotificationEvent(StrEnum):
    """The events that a rule can name."""

    COMPLETED = "completed"
    """An execution has ended, and all of its runs have succeeded."""
    FAILED = "failed"
    """An execution has ended as failed, partial or timeout."""
    RECOVERED = "recovered"
    """An execution has completed, and the one before it had failed."""
    LATE = "late"
    """A schedule has launched an execution long after it was due."""
    MISSED = "missed"
    """A due time of a schedule was not launched."""
    APPROVAL_NEEDED = "approval_needed"
    """An execution waits for an approval."""


class NotificationChannel(StrEnum):
    """The channels over which a notification is sent."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    SERVICE = "service"
    APPRISE = "apprise"


class JobOutcome(StrEnum):
    """The outcome of an execution, as far as it changes what the next one is compared with."""

    OK = "ok"
    FAILED = "failed"


_OUTCOMES = {
    ExecutionStatus.COMPLETED: JobOutcome.OK,
    ExecutionStatus.PARTIAL: JobOutcome.FAILED,
    ExecutionStatus.FAILED: JobOutcome.FAILED,
    ExecutionStatus.TIMEOUT: JobOutcome.FAILED,
}


def outcome_of(status: ExecutionStatus) -> JobOutcome | None:
    """Return the outcome of an ended execution; None if it was cancelled or rejected.

    >>> outcome_of(ExecutionStatus.PARTIAL), outcome_of(ExecutionStatus.CANCELLED)
    (<JobOutcome.FAILED: 'failed'>, None)"""
    return _OUTCOMES.get(status)


def events_of(outcome: JobOutcome, previous: JobOutcome | None) -> Sequence[NotificationEvent]:
    """Return the events of an execution's end, the most specific first.

    `previous`: the outcome before it; None if there was none."""
    if outcome is JobOutcome.FAILED:
        return [NotificationEvent.FAILED]
    if previous is JobOutcome.FAILED:
        return [NotificationEvent.RECOVERED, NotificationEvent.COMPLETED]
    return [NotificationEvent.COMPLETED]


class QuietRules(ApiModel):
    """Limits on how often a rule sends; events without a message are counted in the next one.

    `only_changes`: of completed and failed, only those that differ from the outcome before.
    `digest`: collect the events of this time in one message; a needed approval is sent at once.
    `max_per_hour`: messages of the rule in any hour."""

    only_changes: bool = False
    digest: Duration | None = Field(default=None, ge=DIGEST_SECONDS_MIN, le=DIGEST_SECONDS_MAX)
    max_per_hour: int | None = Field(default=None, strict=True, ge=1, le=3_600)


_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=text_patterns.LINE)]


def _checked(text: str | None) -> str | None:
    if text is not None:
        check_template(text)
    return text


class NotificationRule(ApiModel):
    """One rule of `notify`.

    `on`: its events. `channel` and `to`: e-mail addresses for email, names of webhooks for webhook,
    names of credentials of type secret with a URL for apprise, recipients of the Notification
    Service for service. `channel_id`: of that service, if its profile asks for one. `subject` and
    `text`: templates in place of the built-in text. `quiet`: how often it sends. `late_after`: how
    late a launch has to be for `late`."""

    on: list[NotificationEvent] = Field(
        default_factory=lambda: [NotificationEvent.FAILED, NotificationEvent.RECOVERED],
        min_length=1,
        max_length=len(NotificationEvent),
    )
    channel: NotificationChannel
    to: list[_Line] = Field(min_length=1, max_length=RECIPIENTS_MAX)
    channel_id: _Line | None = None
    subject: Annotated[
        str | None,
        Field(min_length=1, max_length=200, pattern=text_patterns.LINE),
        AfterValidator(_checked),
    ] = None
    text: Annotated[
        str | None, Field(min_length=1, max_length=10_000), AfterValidator(_checked)
    ] = None
    quiet: QuietRules = Field(default_factory=QuietRules)
    late_after: Duration = 60.0

    @field_validator("on")
    @classmethod
    def _each_event_once(cls, events: Sequence[NotificationEvent]) -> list[NotificationEvent]:
        return [event for event in NotificationEvent if event in events]

    @field_validator("to")
    @classmethod
    def _each_recipient_once(cls, to: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(to))

    @model_validator(mode="after")
    def _recipients_fit_the_channel(self) -> NotificationRule:
        if self.channel is NotificationChannel.EMAIL:
            for position, address in enumerate(self.to):
                if not is_email(address):
                    words = f"{address[:60]!r} is no e-mail address: write it as name@example.org"
                    raise fault("not_an_address", words, "to", position)
        if self.channel_id is not None and self.channel is not NotificationChannel.SERVICE:
            words = "channel_id belongs to the channel service: leave it out"
            raise fault("not_of_this_type", words, "channel_id")
        return self

    def find_event(self, happened: Sequence[NotificationEvent]) -> NotificationEvent | None:
        """Return the first of these events that the rule names; None if it names none."""
        return next((event for event in happened if event in self.on), None)

    @property
    def key(self) -> str:
        """The identity of the rule within its list: equal rules have equal keys.

        A changed rule starts again: messages that it has sent before are not counted."""
        written = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:32]


NotificationRules = Annotated[list[NotificationRule], Field(max_length=RULES_MAX)]
"""The value of `notify`."""


class NotificationDefaultDraft(ApiModel):
    """Body of PUT /notifications/default: the rules of jobs and schedules without their own."""

    notify: NotificationRules = Field(default_factory=list)


def is_email(text: str) -> bool:
    r"""Return True for an e-mail address that may be written into a header as it is.

    >>> is_email("ada@example.org"), is_email("ada@example.org\\nBcc: ben@example.org")
    (True, False)"""
    return len(text) <= _EMAIL_CHARACTERS_MAX and text_patterns.EMAIL.fullmatch(text) is not None


def names_of(rules: Collection[NotificationRule], channel: NotificationChannel) -> Sequence[str]:
    """Return what the rules of a channel name in `to`, each once."""
    return list(dict.fromkeys(to for rule in rules if rule.channel is channel for to in rule.to))
