"""The notation of days: weekdays by name or number, and days of a month."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from opsjobs.model.draft_error import fault
from opsjobs.model.schedule.recurring import WEEKDAYS, Weekday

_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WORDS = {
    word: day for day, long in zip(WEEKDAYS, _LONG, strict=True) for word in (day.value, long)
}
_NTH = re.compile(r"(1st|2nd|3rd|4th|5th|last)\s+([a-z]+)")
_NUMBER = re.compile(r"[0-9]{1,2}")
_SHOWN_CHARACTERS_MAX = 40


def weekday_of(given: Any) -> Weekday:
    """Return the day of "mon", "Monday" or 1 (0 is Sunday); raise a fault otherwise."""
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 6:
        return WEEKDAYS[(given - 1) % 7]
    found = _WORDS.get(given.strip().lower()) if isinstance(given, str) else None
    if found is None:
        shown = repr(given)[:_SHOWN_CHARACTERS_MAX]
        raise fault(
            "weekday",
            f"{shown} is no day of the week: write {', '.join(WEEKDAYS)}, or 0 (Sunday) to 6",
        )
    return found


def day_of(given: Any) -> int | str:
    """Return 15, "last", "2nd tue" or "last fri" in canonical form; raise a fault otherwise."""
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 31:
        return given
    text = given.strip().lower() if isinstance(given, str) else ""
    if text == "last":
        return text
    found = _NTH.fullmatch(text)
    if found is not None and found[2] in _WORDS:
        return f"{found[1]} {_WORDS[found[2]]}"
    words = (
        'write 1 to 31, "last", or 1st to 5th or last and a weekday, '
        'such as "2nd tue" or "last fri"'
    )
    raise fault("day", f"{repr(given)[:_SHOWN_CHARACTERS_MAX]} is no day of a month: {words}")


Day = Annotated[
    int | str,
    BeforeValidator(day_of),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1, "maximum": 31}, {"type": "string"}],
            "examples": [15, "last", "2nd tue"],
        }
    ),
]
"""A day of the month: 1 to 31, "last", "2nd tue", "last fri"."""
