"""Lists of days, months and times in English."""

from __future__ import annotations

from collections.abc import Sequence

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
