"""Lists of holidays as calendar windows: a date per line, or an iCalendar file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from opsjobs.cli.importing.inventory import Skipped

DAYS_A_STRETCH = 366
_LINE = re.compile(r"[\"']?(\d{4}-\d\d-\d\d)[\"']?(?:[\s,;]+(.*))?")
_PROPERTY = re.compile(r"([A-Za-z-]+)((?:;[^:\"]*(?:\"[^\"]*\"[^:\"]*)*)?):(.*)", re.DOTALL)
_EVERY_YEAR = re.compile(
    r"FREQ=YEARLY(;(INTERVAL=1|BYMONTH=\d+|BYMONTHDAY=\d+|WKST=\w+))*", re.IGNORECASE
)


@dataclass
class Holidays:
    """Days by name (empty: unnamed), yearly days, and skipped entries."""

    dates: dict[str, dict[date, None]] = field(default_factory=dict)
    yearly: dict[str, dict[str, None]] = field(default_factory=dict)
    left: list[Skipped] = field(default_factory=list)

    def windows(self) -> list[dict[str, Any]]:
        """Return the windows, one per name."""
        dated = [
            {**_name_field(name), "dates": [str(day) for day in sorted(days)]}
            for name, days in self.dates.items()
        ]
        return [
            *dated,
            *(
                {**_name_field(name), "yearly": list(ranges)}
                for name, ranges in self.yearly.items()
            ),
        ]


def read(text: str) -> Holidays:
    """Return the holidays in the text of a file. Raises ValueError with the line."""
    text = text.removeprefix("\ufeff")
    return _calendar(text) if text.lstrip().upper().startswith("BEGIN:VCALENDAR") else _lines(text)


def _name_field(name: str) -> dict[str, str]:
    return {"name": name} if name else {}


def _lines(text: str) -> Holidays:
    found = Holidays()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = _LINE.fullmatch(words)
        try:
            day = date.fromisoformat(match[1]) if match else None
        except ValueError as wrong:
            raise ValueError(f"line {number}: {words[:40]!r}: {wrong}") from None
        if match is None or day is None:
            raise ValueError(
                f"line {number}: {words[:40]!r} is not a date: "
                "write 2026-12-25, followed by its name"
            )
        found.dates.setdefault(_clean(match[2] or ""), {})[day] = None
    return found


def _calendar(text: str) -> Holidays:
    """Return the all-day events of an iCalendar file; of recurring ones, the yearly ones."""
    found = Holidays()
    for event in _events(text):
        try:
            _take(found, event)
        except ValueError as wrong:
            found.left.append(
                Skipped(_clean(event.get("SUMMARY", "an event without a name")), str(wrong))
            )
    return found


def _events(text: str) -> Iterator[dict[str, str]]:
    event: dict[str, str] | None = None
    for line in re.sub(r"\r?\n[ \t]", "", text).splitlines():
        match = _PROPERTY.fullmatch(line)
        name, value = (match[1].upper(), match[3]) if match else ("", "")
        if (name, value.upper()) == ("BEGIN", "VEVENT"):
            event = {}
        elif (name, value.upper()) == ("END", "VEVENT") and event is not None:
            yield event
            event = None
        elif event is not None and name:
            event.setdefault(name, value)


def _take(found: Holidays, event: dict[str, str]) -> None:
    name = _clean(re.sub(r"\\([,;\\])", r"\1", event.get("SUMMARY", "").replace("\\n", " ")))
    first = _day(event.get("DTSTART", ""))
    last = _day(event["DTEND"]) - timedelta(days=1) if "DTEND" in event else first
    if not timedelta() <= last - first < timedelta(days=DAYS_A_STRETCH):
        raise ValueError(
            f"it lasts from {first} to {last}: at most {DAYS_A_STRETCH} days are supported"
        )
    if "RRULE" not in event:
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        found.dates.setdefault(name, {}).update(dict.fromkeys(days))
    elif _EVERY_YEAR.fullmatch(event["RRULE"]):
        found.yearly.setdefault(name, {})[
            f"{first:%m-%d}..{last:%m-%d}" if last != first else f"{first:%m-%d}"
        ] = None
    else:
        raise ValueError(f"its recurrence rule is not supported ({event['RRULE'][:60]})")


def _day(value: str) -> date:
    if re.fullmatch(r"\d{8}", value) is None:
        raise ValueError("it is not an all-day event")
    return date.fromisoformat(f"{value[:4]}-{value[4:6]}-{value[6:]}")


def _clean(name: str) -> str:
    return " ".join(name.split()).strip("\"'")[:200]
