"""Rules of notifications: their events, channel, recipients, text, and how often they go.

A rule is part of a job's policy, of a schedule, or of the default of the installation. The most
specific list applies: the schedule's if it has one, else the job's, else the default.

Quiet rules decide whether a notification is sent now, gathered for a digest, or held back. That is
pure: the state of a rule is a value that the store keeps, and each decision returns the next one.

In templates each `${name}` is known, and is replaced by a value once. The values are data. A value
that contains `${name}` is inserted as it is, and a line break in a value cannot end a header: a
subject is one line, whatever is inserted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration, duration_limits
from opsjobs.model.execution import ExecutionStatus
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
    digest: (
        Annotated[Duration, duration_limits(ge=DIGEST_SECONDS_MIN, le=DIGEST_SECONDS_MAX)] | None
    ) = None
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


_HOUR = timedelta(hours=1)
_OF_OUTCOMES = (NotificationEvent.COMPLETED, NotificationEvent.FAILED)


class QuietDecision(StrEnum):
    """The decision on one notification."""

    SEND = "send"
    GATHER = "gather"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class QuietState:
    """The state of one rule of a job, a schedule or the installation."""

    sent_at: tuple[datetime, ...] = ()
    """The times of its messages in the last hour."""
    held: int = 0
    """The notifications held back since its last message."""
    held_since: datetime | None = None
    """The time of the first of them."""
    digest_due_at: datetime | None = None
    """The time at which its digest is sent; None if nothing is gathered."""


@dataclass(frozen=True, slots=True)
class Quieted:
    """A decision, and the state after it."""

    decision: QuietDecision
    state: QuietState
    held: int = 0
    """The notifications that this message reports as held back."""
    held_since: datetime | None = None


def decide(
    rule: NotificationRule,
    event: NotificationEvent,
    state: QuietState,
    now: datetime,
    *,
    changed: bool,
) -> Quieted:
    """Return the decision on one notification of the rule.

    `changed`: the outcome differs from the one before. A needed approval is always sent: someone
    waits for it."""
    if event is NotificationEvent.APPROVAL_NEEDED:
        return _send(rule, state, now)
    if rule.quiet.only_changes and event in _OF_OUTCOMES and not changed:
        return _hold(state, now)
    if rule.quiet.digest is not None:
        due = state.digest_due_at or now + timedelta(seconds=rule.quiet.digest)
        return Quieted(QuietDecision.GATHER, replace(state, digest_due_at=due))
    if _free_at(rule, state, now) is not None:
        return _hold(state, now)
    return _send(rule, state, now)


def decide_digest(rule: NotificationRule, state: QuietState, now: datetime) -> Quieted:
    """Return the decision on a digest that is due.

    If the rule has sent its messages of this hour, the digest is due again when one is free."""
    free_at = _free_at(rule, state, now)
    if free_at is not None:
        return Quieted(QuietDecision.GATHER, replace(state, digest_due_at=free_at))
    return _send(rule, replace(state, digest_due_at=None), now)


def _send(rule: NotificationRule, state: QuietState, now: datetime) -> Quieted:
    recent = (*_recent(state.sent_at, now), now) if rule.quiet.max_per_hour else ()
    after = replace(state, sent_at=recent, held=0, held_since=None)
    return Quieted(QuietDecision.SEND, after, state.held, state.held_since)


def _hold(state: QuietState, now: datetime) -> Quieted:
    held = replace(state, held=state.held + 1, held_since=state.held_since or now)
    return Quieted(QuietDecision.HOLD, held)


def _free_at(rule: NotificationRule, state: QuietState, now: datetime) -> datetime | None:
    """Return the time from which the rule may send again; None if it may send now."""
    most, recent = rule.quiet.max_per_hour, _recent(state.sent_at, now)
    if most is None or len(recent) < most:
        return None
    return recent[-most] + _HOUR


def _recent(sent_at: Sequence[datetime], now: datetime) -> tuple[datetime, ...]:
    return tuple(at for at in sent_at if now - at < _HOUR)


TEMPLATE_NAMES = (
    "event",
    "time",
    "summary",
    "details",
    "failures",
    "next_steps",
    "held_back",
    "link",
    "job.name",
    "execution.id",
    "execution.number",
    "execution.status",
    "execution.requested_by",
    "schedule.name",
    "targets.total",
    "targets.failed",
    "reason",
)
"""The names that a template may use."""

SUBJECT_CHARACTERS_MAX = 200
TEXT_CHARACTERS_MAX = 16 << 10

_HOLE = re.compile(r"\$\{([^{}]*)\}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


def check_template(text: str) -> None:
    """Raise a fault if the text uses an unknown name."""
    for name in _HOLE.findall(text):
        if name not in TEMPLATE_NAMES:
            known = ", ".join(TEMPLATE_NAMES)
            raise fault("unknown_name", f"there is no value ${{{name[:60]}}} here: use {known}")


def fill_template(text: str, values: Mapping[str, str]) -> str:
    """Return the template with its values; missing ones are empty.

    >>> fill_template("${job.name}: ${reason}", {"job.name": "backup", "reason": "${link}"})
    'backup: ${link}'"""
    return _HOLE.sub(lambda hole: values.get(hole[1], ""), text)


def one_line(text: str, characters: int = SUBJECT_CHARACTERS_MAX) -> str:
    r"""Return the text as one line without control characters, cut to a number of characters.

    Halves of surrogate pairs, which stand for bytes that are not UTF-8, are left out, too.

    >>> one_line("backup\r\nBcc: ben@example.org")
    'backup Bcc: ben@example.org'"""
    line = " ".join(_CONTROL.sub(" ", _ESCAPE.sub("", text)).split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"


def plain_text(text: str, characters: int = TEXT_CHARACTERS_MAX) -> str:
    r"""Return lines without escape sequences and control characters, cut to a length.

    >>> plain_text("\x1b[31mred\x1b[0m\r\nnext\x00")
    'red\nnext'"""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    clean = _CONTROL.sub("", _ESCAPE.sub("", lines))
    return clean if len(clean) <= characters else f"{clean[: characters - 1]}…"
