"""Messages of notifications: what happened, which targets failed, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from opsjobs.model.execution import moment
from opsjobs.model.notification import (
    SUBJECT_CHARACTERS_MAX,
    TEXT_CHARACTERS_MAX,
    NotificationEvent,
    NotificationRule,
    fill_template,
    one_line,
    plain_text,
)
from opsjobs.model.units import format_duration

FAILURES_SHOWN = 10
OUTPUT_LINES = 3
OUTPUT_CHARACTERS = 200
DIGEST_LINES = 100
LABEL = "[opsjobs]"


@dataclass(frozen=True, slots=True)
class TargetFailure:
    """One target run that did not succeed."""

    target: str
    host: str
    status: str
    action: str | None = None
    code: str | None = None
    error: str | None = None
    output: str = ""
    """The first lines that the failed action wrote, already redacted."""

    @property
    def text(self) -> str:
        """The lines of the failure in a message."""
        where = f"{self.target} ({self.host})" if self.host != self.target else self.target
        step = f" in {self.action}" if self.action else ""
        error = f": {one_line(self.error, OUTPUT_CHARACTERS)}" if self.error else ""
        code = f" ({self.code})" if self.code else ""
        lines = [one_line(f"{where}: {self.status}{step}{code}{error}", 2 * OUTPUT_CHARACTERS)]
        shown = [line for line in plain_text(self.output).splitlines() if line.strip()]
        lines += [f"    | {one_line(line, OUTPUT_CHARACTERS)}" for line in shown[:OUTPUT_LINES]]
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """Return the failure as it is sent to programs."""
        return {
            "target": self.target,
            "host": self.host,
            "status": self.status,
            "action": self.action,
            "code": self.code,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class NotificationFacts:
    """The facts of one event at the time when its notification is written."""

    event: NotificationEvent
    at: datetime
    job_name: str
    job_id: int | None = None
    execution_id: int | None = None
    number: int | None = None
    uuid: str | None = None
    """The uuid of the execution, or of the schedule if there is none."""
    status: str | None = None
    requested_by: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    total: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[TargetFailure] = ()
    """The first of the target runs that did not succeed."""
    failures_in_a_row: int = 0
    """The failed executions in a row, up to this one; of a recovery, those before it."""
    schedule_name: str | None = None
    due_at: datetime | None = None
    late_seconds: float = 0.0
    reason: str | None = None
    """The reason of a missed firing, or the message of an approval."""
    expires_at: datetime | None = None
    link: str | None = None

    @property
    def failed(self) -> int:
        """The number of target runs that did not succeed."""
        unfailed = ("succeeded", "waiting", "running", "skipped")
        return sum(n for status, n in self.counts.items() if status not in unfailed)

    @property
    def summary(self) -> str:
        """The event in one line."""
        return one_line(_SUMMARIES[self.event](self), SUBJECT_CHARACTERS_MAX)

    def data(self) -> dict[str, Any]:
        """Return the event as it is sent to programs, without the output of targets."""
        return {
            "event": self.event.value,
            "at": moment(self.at),
            "job_id": self.job_id,
            "job_name": self.job_name,
            "execution_id": self.execution_id,
            "number": self.number,
            "uuid": self.uuid,
            "status": self.status,
            "requested_by": self.requested_by,
            "schedule_name": self.schedule_name,
            "due_at": moment(self.due_at),
            "reason": self.reason,
            "counts": dict(self.counts),
            "failures": [failure.data() for failure in self.failures],
            "link": self.link,
        }


@dataclass(frozen=True, slots=True)
class NotificationMessage:
    """A rendered notification."""

    subject: str
    text: str
    data: Mapping[str, Any]


def render(
    facts: NotificationFacts,
    rule: NotificationRule,
    *,
    held: int = 0,
    held_since: datetime | None = None,
) -> NotificationMessage:
    """Return the message of one event: the rule's templates, or the built-in text."""
    held_back = _held_back(held, held_since)
    values = _values(facts, held_back)
    subject = fill_template(rule.subject, values) if rule.subject else f"{LABEL} {facts.summary}"
    text = fill_template(rule.text, values) if rule.text else _default_text(facts, held_back)
    data = {**facts.data(), "held_back": held}
    return NotificationMessage(one_line(subject), plain_text(text), data)


def render_digest(
    gathered: Sequence[Mapping[str, Any]],
    rule: NotificationRule,
    *,
    count: int,
    at: datetime,
    held: int = 0,
    held_since: datetime | None = None,
) -> NotificationMessage:
    """Return one message for the gathered notifications, of which the first are stored.

    The rule's subject applies; its text does not, as it is about one event."""
    noun = "notification" if count == 1 else "notifications"
    summary = f"{count} {noun} in {format_duration(rule.quiet.digest or 0)}"
    lines = [
        f"{_clock(datetime.fromisoformat(entry['at']))}  {entry['summary']}" for entry in gathered
    ]
    if count > len(gathered):
        lines.append(f"and {count - len(gathered)} more")
    held_back = _held_back(held, held_since)
    values = {"summary": summary, "event": "digest", "time": _clock(at), "details": ""}
    values |= {"held_back": held_back}
    subject = fill_template(rule.subject, values) if rule.subject else f"{LABEL} {summary}"
    text = "\n".join([f"{summary}:", "", *lines, *_paragraph(held_back)])
    jobs = {entry["job_id"] for entry in gathered}
    data = {
        "event": "digest",
        "at": moment(at),
        "job_id": jobs.pop() if len(jobs) == 1 else None,
        "count": count,
        "notifications": list(gathered),
        "held_back": held,
    }
    return NotificationMessage(one_line(subject), plain_text(text), data)


def digest_entry(facts: NotificationFacts) -> dict[str, Any]:
    """Return the parts of a notification that a digest keeps."""
    return {
        "at": moment(facts.at),
        "event": facts.event.value,
        "summary": facts.summary,
        "job_id": facts.job_id,
        "execution_id": facts.execution_id,
        "link": facts.link,
    }


def _where(facts: NotificationFacts) -> str:
    if facts.total == 0:
        return ""
    noun = "target" if facts.total == 1 else "targets"
    return f"{facts.failed} of {facts.total} {noun}"


def _name(facts: NotificationFacts) -> str:
    return f"{facts.job_name} #{facts.number}" if facts.number is not None else facts.job_name


def _completed(facts: NotificationFacts) -> str:
    noun = "target" if facts.total == 1 else "targets"
    return f"{_name(facts)} completed on {facts.total} {noun}"


def _failed(facts: NotificationFacts) -> str:
    outcome = "timed out" if facts.status == "timeout" else "failed"
    row = facts.failures_in_a_row
    times = f", for the {_ordinal(row)} time in a row" if row > 1 else ""
    return f"{_name(facts)} {outcome} on {_where(facts)}{times}"


def _recovered(facts: NotificationFacts) -> str:
    times = facts.failures_in_a_row
    after = f" after {times} failures" if times > 1 else " after a failure"
    return f"{_name(facts)} is back to normal{after}"


def _late(facts: NotificationFacts) -> str:
    late = _lasting(facts.late_seconds)
    return f"{_name(facts)} was launched {late} late by the schedule {facts.schedule_name}"


def _missed(facts: NotificationFacts) -> str:
    return f"{facts.job_name} was not launched by the schedule {facts.schedule_name}"


def _approval_needed(facts: NotificationFacts) -> str:
    return f"{_name(facts)} needs an approval"


_SUMMARIES = {
    NotificationEvent.COMPLETED: _completed,
    NotificationEvent.FAILED: _failed,
    NotificationEvent.RECOVERED: _recovered,
    NotificationEvent.LATE: _late,
    NotificationEvent.MISSED: _missed,
    NotificationEvent.APPROVAL_NEEDED: _approval_needed,
}


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in (11, 12, 13) else endings.get(number % 10, "th")
    return f"{number}{ending}"


def _clock(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _lasting(seconds: float) -> str:
    """Return a duration in its two largest units: `2h 5m`, `72s` as `1m 12s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    shown = [f"{number}{unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0s"


def _details(facts: NotificationFacts) -> str:
    duration = None
    if facts.started_at is not None and facts.finished_at is not None:
        duration = _lasting((facts.finished_at - facts.started_at).total_seconds())
    counts = ", ".join(f"{n} {status}" for status, n in facts.counts.items())
    rows = {
        "Job": facts.job_name,
        "Schedule": facts.schedule_name,
        "Execution": None if facts.execution_id is None else str(facts.execution_id),
        "Status": facts.status,
        "Targets": counts or None,
        "Started by": facts.requested_by,
        "Due": _clock(facts.due_at),
        "Finished": _clock(facts.finished_at),
        "Duration": duration,
        "Reason": facts.reason,
        "Expires": _clock(facts.expires_at),
        "Link": facts.link,
    }
    return "\n".join(
        f"{name + ':':<12}{one_line(value, 2_000)}" for name, value in rows.items() if value
    )


def _failures(facts: NotificationFacts) -> str:
    shown = facts.failures[:FAILURES_SHOWN]
    lines = [failure.text for failure in shown]
    if facts.failed > len(shown):
        lines.append(f"and {facts.failed - len(shown)} more")
    return "\n".join(lines)


def _next_steps(facts: NotificationFacts) -> str:
    execution = facts.execution_id
    match facts.event:
        case NotificationEvent.FAILED:
            commands = [
                (f"opsjobs executions show {execution}", "the targets and their errors"),
                (f"opsjobs executions retry {execution}", "run the failed targets again"),
            ]
        case NotificationEvent.APPROVAL_NEEDED:
            commands = [("opsjobs approvals list", "what is asked, and approve or reject it")]
        case NotificationEvent.MISSED:
            commands = [(f"opsjobs jobs run {facts.job_id}", "run the job now")]
        case _:
            commands = [(f"opsjobs executions show {execution}", "the targets and their results")]
    return "\n".join(f"{command:<36}{does}" for command, does in commands)


def _held_back(held: int, since: datetime | None) -> str:
    if held == 0:
        return ""
    noun = "notification was" if held == 1 else "notifications were"
    begun = f" since {_clock(since)}" if since is not None else ""
    return f"{held} {noun} held back by the quiet rules{begun}."


def _values(facts: NotificationFacts, held_back: str) -> dict[str, str]:
    return {
        "event": facts.event.value,
        "time": _clock(facts.at),
        "summary": facts.summary,
        "details": _details(facts),
        "failures": _failures(facts),
        "next_steps": _next_steps(facts),
        "held_back": held_back,
        "link": facts.link or "",
        "job.name": facts.job_name,
        "execution.id": str(facts.execution_id or ""),
        "execution.number": str(facts.number or ""),
        "execution.status": facts.status or "",
        "execution.requested_by": facts.requested_by or "",
        "schedule.name": facts.schedule_name or "",
        "targets.total": str(facts.total),
        "targets.failed": str(facts.failed),
        "reason": facts.reason or "",
    }


def _default_text(facts: NotificationFacts, held_back: str) -> str:
    failures, rest = _failures(facts), _paragraph(held_back)
    parts = [f"{facts.summary}.", "", _details(facts)]
    if failures:
        parts += ["", "Targets that did not succeed:", failures]
    text = "\n".join([*parts, "", "What to do next:", _next_steps(facts)])
    # The end is kept whatever the targets wrote.
    end = "\n".join(rest)
    return f"{plain_text(text, TEXT_CHARACTERS_MAX - len(end) - 1)}\n{end}" if end else text


def _paragraph(text: str) -> list[str]:
    return ["", text] if text else []
