"""Cron expressions: validation, values of `H`, and due times. The only user of cronsim."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from opsjobs.model.validation_errors import fault

CHARACTERS_MAX = 256
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ALPHABET = re.compile(r"[0-9A-Za-z*/,#()@\t -]*")
_SECOND = timedelta(seconds=1)
_SHOWN_CHARACTERS_MAX = 40
_ANY_LABEL = datetime(2000, 1, 1)  # noqa: DTZ001 labels have no zone
# Leap years and weekdays repeat after 28 years.
_ALL_KINDS_OF_YEARS = (2000, 2028)


@dataclass(frozen=True, slots=True)
class _Part:
    """One field of an expression: its name, its numbers, and its special items."""

    word: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    own: str = ""
    hashed_high: int | None = None

    @property
    def allowed(self) -> str:
        """The allowed items, for error messages."""
        named = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return (
            f"{self.low} to {self.high}{named}, *, a list (a,b), a range (a-b), a step (*/n, "
            f"a-b/n), H{self.own}"
        )

    def value(self, text: str) -> int | None:
        """Return the number of a number or name; None if it is invalid or out of range."""
        if text in self.names:
            return self.names.index(text) + self.low
        number = int(text) if text.isdecimal() else -1
        return number if self.low <= number <= self.high else None

    def span(self, text: str) -> tuple[int, int] | None:
        """Return the first and last number of `*`, `a`, `a-b`, `H` or `H(a-b)`; else None."""
        if text == "*":
            return self.low, self.high
        if text == "H":
            return self.low, self.high if self.hashed_high is None else self.hashed_high
        inner = text[2:-1] if text.startswith("H(") and text.endswith(")") else text
        first, dash, last = inner.partition("-")
        if inner != text and not dash:
            return None
        low, high = self.value(first), self.value(last if dash else first)
        if last == "SUN" and low:
            high = 7  # FRI-SUN: the Sunday at the end of the week
        return (low, high) if low is not None and high is not None and low <= high else None


_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAY_OF_MONTH = _Part(
    "day of the month", 1, 31, own=", L (the last day) or LW (the last working day)", hashed_high=28
)
_MONTH = _Part("month", 1, 12, _MONTHS)
_DAY_OF_WEEK = _Part(
    "day of the week",
    0,
    7,
    _DAYS,
    own=", 5L (the last Friday) or 2#3 (the third Tuesday)",
    hashed_high=6,
)
_PARTS = (
    _Part("second", 0, 59),
    _Part("minute", 0, 59),
    _Part("hour", 0, 23),
    _DAY_OF_MONTH,
    _MONTH,
    _DAY_OF_WEEK,
)
_NTH = re.compile(r"(\w+?)(?:L|#([1-5]))")

Pick = Callable[[int, int], int]
"""A function of a field's position and a size that picks a number from 0 to size - 1."""


def canonical(text: str) -> str:
    """Return the expression with single spaces; raise a fault if it is invalid or never due.

    The fault states the allowed items."""
    if len(text) > CHARACTERS_MAX:
        raise fault(
            "bad_cron", f"the expression has {len(text)} characters: at most {CHARACTERS_MAX}"
        )
    if not _ALPHABET.fullmatch(text):
        raise fault(
            "bad_cron",
            "only letters, digits, spaces and * / , - # ( ) @ may stand in a cron expression",
        )
    written = " ".join(text.split())
    fields = _fields(written)
    for part, field in zip(_PARTS, fields, strict=True):
        for item in field.split(","):
            _check_item(part, item)
    for resolved in _possible(fields):
        if not _ever_due(resolved):
            raise fault(
                "bad_cron",
                f"{written!r} is never due, or may not be: there is no such day in such a month",
            )
    return written


class Cron:
    """A parsed expression, and the local times (labels) at which it is due."""

    def __init__(self, expression: str, uuid: UUID) -> None:
        self.fields = _fields(expression)
        self._sim = CronSim(_resolved(self.fields, hashed(uuid)), _ANY_LABEL)

    @property
    def runs_on_real_time(self) -> bool:
        """True if its minute or hour is a wildcard.

        As in Debian, it is then due whenever the local time matches."""
        return any(field.startswith(("*", "H/")) for field in self.fields[1:3])

    @property
    def resolved(self) -> list[str]:
        """The six fields in capitals, with numbers in place of H."""
        return list(self._sim.parts)

    def after(self, label: datetime, *, inclusive: bool = False) -> datetime | None:
        """Return the first label after this one (or at it)."""
        walk = copy(self._sim)
        walk.dt = label - _SECOND if inclusive else label
        return next(walk, None)


def hashed(uuid: UUID) -> Pick:
    """Return a function that picks numbers by hash of the schedule and the field.

    They never change, and are spread evenly over schedules."""

    def pick(position: int, size: int) -> int:
        return int.from_bytes(sha256(uuid.bytes + bytes([position])).digest()[:8]) % size

    return pick


def _fields(expression: str) -> list[str]:
    """Return the six fields in capitals; the second is 0 if it was left out."""
    if expression.startswith("@"):
        if expression.lower() not in _NAMED:
            words = "is not a schedule name: write " + ", ".join(_NAMED)
            raise fault("bad_cron", f"{expression[:_SHOWN_CHARACTERS_MAX]!r} {words}")
        expression = _NAMED[expression.lower()]
    fields = expression.upper().split()
    if len(fields) not in (5, 6):
        words = (
            "write 5 (minute, hour, day of the month, month, day of the week), or 6 with the "
            "second before them"
        )
        raise fault("bad_cron", f"the expression has {len(fields)} fields: {words}")
    return fields if len(fields) == 6 else ["0", *fields]


def _check_item(part: _Part, item: str) -> None:
    base, slash, step = item.partition("/")
    if part.span(base) is None:
        if not _is_own(part, item):
            raise fault(
                "bad_cron",
                f"{part.word}: {item[:_SHOWN_CHARACTERS_MAX]!r} is not possible: {part.allowed}",
            )
    elif slash and not (step.isdecimal() and 1 <= int(step) <= part.high):
        allowed = f"a step is 1 to {part.high}"
        raise fault(
            "bad_cron", f"{part.word}: {item[:_SHOWN_CHARACTERS_MAX]!r} is not possible: {allowed}"
        )


def _is_own(part: _Part, item: str) -> bool:
    """Return True for L or LW in the days of the month, or 5L or TUE#2 in those of the week."""
    if part is _DAY_OF_MONTH:
        return item in ("L", "LW")
    found = _NTH.fullmatch(item) if part is _DAY_OF_WEEK else None
    return found is not None and part.value(found[1]) is not None


def _possible(fields: list[str]) -> set[str]:
    """Return expressions that represent all values of H in these fields.

    They differ only in values that decide whether there is such a day."""

    def picking(day: int, month: int) -> Pick:
        return lambda position, size: min({3: day, 4: month}.get(position, 0), size - 1)

    days, months = (
        (range(size) if "H" in field else (0,))
        for size, field in ((31, fields[3]), (12, fields[4]))
    )
    return {
        _resolved(fields, picking(day, month)) for day in (min(days), max(days)) for month in months
    }


def _resolved(fields: list[str], pick: Pick) -> str:
    return " ".join(
        ",".join(_resolved_item(part, item, position, pick) for item in field.split(","))
        for position, (part, field) in enumerate(zip(_PARTS, fields, strict=True))
    )


def _resolved_item(part: _Part, item: str, position: int, pick: Pick) -> str:
    """Return the item in numbers for cronsim: no H, no FRI-SUN, no FRIL, no a-a/n."""
    base, slash, step = item.partition("/")
    span = part.span(base)
    if span is None:
        name = item.removesuffix("L")
        return f"{part.value(name)}L" if name != item and name in part.names else item
    low, high = span
    if base == "*":
        return item
    if base.startswith("H"):
        low += pick(position, min(int(step), high - low + 1) if slash else high - low + 1)
        high = high if slash else low
    if slash and "-" not in base and base != "H":
        return f"{low}/{step}"
    return f"{low}-{high}{slash}{step}" if low < high else str(low)


def _ever_due(resolved: str) -> bool:
    try:
        sim = CronSim(resolved, _ANY_LABEL)
    except CronSimError:
        return False
    # A day of the month that no month has is an error, even if the weekday alone would match.
    return all(any(map(match, _days_of(sim.months))) for match in (sim.match_dom, sim.match_day))


def _days_of(months: set[int]) -> Iterator[date]:
    for year in range(*_ALL_KINDS_OF_YEARS):
        for month in sorted(months):
            yield from (date(year, month, n) for n in range(1, monthrange(year, month)[1] + 1))


def day_items(position: int, field: str) -> tuple[list[int], list[str]]:
    """Return the numbers of a resolved field in order, and its items that depend on the month.

    The latter are L, LW, 5L and 2#3."""
    own = [item for item in field.split(",") if _is_own(_PARTS[position], item)]
    rest = ",".join(item for item in field.split(",") if item not in own)
    return (values(position, rest) if rest else []), own


def values(position: int, field: str) -> list[int]:
    """Return the numbers of a resolved field, in order."""
    return sorted(number for number in Field(position).parse(field) if isinstance(number, int))
