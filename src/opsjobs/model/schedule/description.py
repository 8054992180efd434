"""The description of a schedule, such as "at 02:30 on weekdays, Europe/Berlin"."""

from __future__ import annotations

from opsjobs.model.schedule.cron import Cron
from opsjobs.model.schedule.cron_description import cron_words
from opsjobs.model.schedule.draft import ScheduleDraft, ScheduleType
from opsjobs.model.schedule.phrases import MONTH_NAMES, ORDINAL_WORDS, days_words
from opsjobs.model.schedule.recurring import WEEKDAYS, Every, nth
from opsjobs.model.time_zones import zone


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
