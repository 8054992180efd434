"""The due times of a schedule, the jitter of each, and their description.

The description is such as "at 02:30 on weekdays, Europe/Berlin". A common cron expression is
described in a sentence, any other one field by field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from uuid import UUID

from opsjobs.model.api_model import EARLIEST, HORIZON
from opsjobs.model.schedule.cron import Cron, day_items, values
from opsjobs.model.schedule.draft import ScheduleDraft, ScheduleType, once_at
from opsjobs.model.schedule.times import (
    WEEKDAYS,
    Days,
    Every,
    Interval,
    day_of_month,
    days_of_week,
    nth,
)
from opsjobs.model.time_zones import DstFold, DstGap, Wall, zone

_MICROSECOND = timedelta(microseconds=1)

Following = Callable[[datetime], datetime | None]
"""A function that returns the first due time strictly after an instant."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """A compiled schedule. `wall`: its due times depend on the zone's rules, which may change."""

    uuid: UUID
    draft: ScheduleDraft
    cron: Cron | None
    wall: bool
    start_at: datetime
    end_at: datetime
    jitter_seconds: float
    following: Following

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due time strictly after this instant, in UTC; None if there is none.

        The work is bounded."""
        assert instant.tzinfo is not None
        if instant >= self.end_at:
            return None
        moment = self.following(max(instant, self.start_at - _MICROSECOND).astimezone(UTC))
        return moment if moment is not None and moment <= self.end_at else None

    def between(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the first `limit` due times after `after`, up to and including `until`."""
        moments: list[datetime] = []
        moment = self.next_after(after)
        while moment is not None and moment <= until and len(moments) < limit:
            moments.append(moment)
            moment = self.next_after(moment)
        return moments

    def fire_at(self, due: datetime) -> datetime:
        """Return when a due time is fired: due plus a delay of less than the jitter.

        The delay is always the same for the same due time."""
        milliseconds = int(self.jitter_seconds * 1000)
        if not milliseconds:
            return due
        seed = self.uuid.bytes + due.astimezone(UTC).isoformat().encode()
        return due + timedelta(
            milliseconds=int.from_bytes(sha256(seed).digest()[:8]) % milliseconds
        )


def timetable(draft: ScheduleDraft, *, uuid: UUID, created_at: datetime) -> Timetable:
    """Return the timetable of a schedule.

    `uuid` seeds its jitter and every H; `created_at` is the default anchor."""
    cron = Cron(draft.cron, uuid) if draft.cron is not None else None
    wall, following = _rule(draft, cron, draft.anchor or draft.start_at or created_at)
    return Timetable(
        uuid=uuid,
        draft=draft,
        cron=cron,
        wall=wall and draft.timezone != "UTC",
        start_at=max(draft.start_at or EARLIEST, EARLIEST),
        end_at=min(draft.end_at or HORIZON, HORIZON - _MICROSECOND),
        jitter_seconds=draft.jitter,
        following=following,
    )


def _rule(draft: ScheduleDraft, cron: Cron | None, anchor: datetime) -> tuple[bool, Following]:
    """Return whether the schedule depends on the zone, and the function of its next due time."""
    rules = zone(draft.timezone or "UTC")
    wall = Wall(rules, draft.dst_gap, draft.dst_fold)
    if cron is not None:
        # In real time it is due whenever the local time matches: never in a gap, twice in a fold.
        clocks = Wall(rules, DstGap.SKIP, DstFold.TWICE) if cron.runs_on_real_time else wall
        return True, lambda after: clocks.next_after(after, cron)
    if draft.type is ScheduleType.ONCE:
        moment = once_at(draft)
        return (
            draft.local_time is not None,
            lambda after: moment if moment is not None and moment > after else None,
        )
    every, interval = draft.every, draft.interval or 1
    assert every is not None
    if every in (Every.MINUTES, Every.HOURS):
        step = timedelta(minutes=interval) if every is Every.MINUTES else timedelta(hours=interval)
        return False, Interval(step, anchor).after
    by = days_of_week(draft.weekdays or []) if every is Every.WEEKLY else None
    by = day_of_month(draft.day or 1) if every is Every.MONTHLY else by
    at = time.fromisoformat(draft.time or "00:00")
    days = Days(every, interval, at, anchor.astimezone(rules).date(), by)
    return True, lambda after: wall.next_after(after, days)


def words_of(draft: ScheduleDraft, cron: Cron | None) -> str:
    """Describe when a schedule is due; `cron`: its parsed expression, if it has one."""
    if cron is not None:
        return cron_words(cron.resolved, draft.timezone or "UTC")
    if draft.type is ScheduleType.ONCE:
        return _once(draft)
    assert draft.every is not None
    interval = draft.interval or 1
    if draft.every in (Every.MINUTES, Every.HOURS):
        unit = draft.every.removesuffix("s")
        return f"every {unit}" if interval == 1 else f"every {interval} {unit}s"
    return f"at {draft.time} {_days(draft, draft.every, interval)}, {draft.timezone}"


def _once(draft: ScheduleDraft) -> str:
    name = draft.timezone or "UTC"
    moment = draft.local_time or (draft.at.astimezone(zone(name)) if draft.at else None)
    assert moment is not None
    time = f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
    return f"once, at {time} on {moment.day} {MONTH_NAMES[moment.month - 1]} {moment.year}, {name}"


def _days(draft: ScheduleDraft, every: Every, interval: int) -> str:
    if every is Every.DAILY:
        return "every day" if interval == 1 else f"every {interval} days"
    if every is Every.WEEKLY:
        days = days_words([WEEKDAYS.index(day) for day in draft.weekdays or ()])
        return f"on {days}" if interval == 1 else f"on {days} of every {interval} weeks"
    month = "the month" if interval == 1 else f"every {interval} months"
    return f"on {_day(draft.day)} of {month}"


def _day(day: int | str | None) -> str:
    if isinstance(day, int):
        return f"day {day}"
    if day == "last" or day is None:
        return "the last day"
    ordinal, weekday = nth(day)
    return f"the {ORDINAL_WORDS[ordinal]} {days_words([WEEKDAYS.index(weekday)], plural=False)}"


_TIMES_MAX = 6
_NTH = ("", "first", "second", "third", "fourth", "fifth")


def cron_words(fields: Sequence[str], zone: str) -> str:
    """Describe six fields with H resolved; the zone is omitted if it makes no difference."""
    time, plain = _time(fields)
    days = _cron_days(fields)
    if plain and not days:
        return time
    if not days and time.startswith("at ") and " of " not in time:
        days = "every day"
    return f"{' '.join(w for w in (time, days) if w)}, {zone}"


def _time(fields: Sequence[str]) -> tuple[str, bool]:
    """Describe the time of day, and return whether it is the same in every zone."""
    seconds, minutes, hours = (values(position, fields[position]) for position in range(3))
    if len(seconds) * len(minutes) * len(hours) <= _TIMES_MAX:
        return "at " + join_words(
            [_clock(h, m, s) for h in hours for m in minutes for s in seconds]
        ), False
    if seconds == [0] and minutes == [0]:
        step = _step(hours, 24)
        every = "every hour" if len(hours) == 24 else f"every {step} hours"
        return (
            every if step or len(hours) == 24 else f"at minute 0 of {_the('hour', hours)}"
        ), False
    of_hours = "" if len(hours) == 24 else f" of {_the('hour', hours)}"
    if seconds != [0]:
        return _seconds(seconds, minutes, of_hours), not of_hours and len(minutes) == 60
    if len(minutes) == 60 or (step := _step(minutes, 60)):
        return (
            "every minute" if len(minutes) == 60 else f"every {step} minutes"
        ) + of_hours, not of_hours
    return (
        (
            f"at minute{'s' if len(minutes) > 1 else ''} "
            f"{numbers(minutes)}{of_hours or ' of every hour'}"
        ),
        False,
    )


def _seconds(seconds: Sequence[int], minutes: Sequence[int], of_hours: str) -> str:
    if len(seconds) == 60:
        what = "every second"
    elif step := _step(seconds, 60):
        what = f"every {step} seconds"
    else:
        what = f"at second{'s' if len(seconds) > 1 else ''} {numbers(seconds)} of every minute"
    if len(minutes) == 60:
        return what + of_hours
    return f"{what} of {_the('minute', minutes)}{of_hours or ' of every hour'}"


def _the(unit: str, found: Sequence[int]) -> str:
    return f"the {unit}{'s' if len(found) > 1 else ''} {numbers(found)}"


def _clock(hour: int, minute: int, second: int) -> str:
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


def _step(found: Sequence[int], size: int) -> int | None:
    """Return the step of numbers that start at 0 and divide the range evenly, or None."""
    step = found[1] if len(found) > 1 else 0
    return (
        step
        if step > 1 and size % step == 0 and list(found) == list(range(0, size, step))
        else None
    )


def _cron_days(fields: Sequence[str]) -> str:
    """Describe the days; empty if all days match."""
    months = values(4, fields[4])
    named = "" if len(months) == 12 else join_words([MONTH_NAMES[m - 1] for m in months])
    month_days, week_days = _month_cron_days(fields[3]), _week_cron_days(fields[5], named)
    of_month = f"{month_days} of {named or 'the month'}"
    if month_days and week_days:
        # Debian's rule: both must match if one begins with a star, else either is enough.
        both = fields[3].startswith("*") or fields[5].startswith("*")
        return (
            f"on {week_days} that are {of_month}" if both else f"on {of_month} and on {week_days}"
        )
    if month_days:
        return f"on {of_month}"
    if week_days:
        return f"on {week_days}"
    return f"every day in {named}" if named else ""


def _month_cron_days(field: str) -> str:
    plain, own = day_items(3, field)
    if len(plain) == 31:
        return ""
    words: list[str] = []
    if plain:
        words.append(f"day{'s' if len(plain) > 1 else ''} {numbers(plain)}")
    if "L" in own:
        words.append("the last day")
    if "LW" in own:
        words.append("the last working day")
    return join_words(words)


def _week_cron_days(field: str, months: str) -> str:
    plain, own = day_items(5, field)
    days = sorted({(day - 1) % 7 for day in plain})
    if len(days) == 7:
        return ""
    words: list[str] = []
    if days:
        words.append(days_words(days) + (f" in {months}" if months else ""))
    for item in own:
        number, _, nth = item.partition("#")
        name = DAY_NAMES[(values(5, number.removesuffix("L"))[0] - 1) % 7]
        words.append(f"the {_NTH[int(nth)] if nth else 'last'} {name} of {months or 'the month'}")
    return join_words(words)


DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTH_NAMES = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
ORDINAL_WORDS = {
    "1st": "first",
    "2nd": "second",
    "3rd": "third",
    "4th": "fourth",
    "5th": "fifth",
    "last": "last",
}


def join_words(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def days_words(days: Sequence[int], *, plural: bool = True) -> str:
    """Return weekdays (0 is Monday) as text: `weekdays`, `weekends`, `Mondays and Fridays`."""
    if plural and list(days) == [0, 1, 2, 3, 4]:
        return "weekdays"
    if plural and list(days) == [5, 6]:
        return "weekends"
    return join_words([DAY_NAMES[day] + ("s" if plural else "") for day in days])


def numbers(values: Sequence[int], *, at_most: int = 8) -> str:
    """Return numbers as text: `5, 20 and 35`; a range of more than two as `9 to 17`.

    If there are very many, the first ones, and how many others there are."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [
        part for run in runs for part in ([run] if len(run) > 2 else [[value] for value in run])
    ]
    words = [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    if len(words) > at_most:
        left = sum(map(len, parts[at_most - 1 :]))
        words[at_most - 1 :] = [f"{left} others"]
    return join_words(words)
