"""The service's words in the words of the command line: options and commands in place of fields and routes."""

from __future__ import annotations

import re
from collections.abc import Callable

_REPLACED: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"override_safety: true and a reason"), "--override-safety REASON"),
    (re.compile(r"`?\breuse_name\b`?(?!:)"), "--reuse-name"),
    (re.compile(r"GET /([a-z-]+)/(\d+)\b(?!/)"), r"`opsjobs \1 show \2`"),
    (re.compile(r"GET /(approvals|dead-letters)\b(?!/)"), r"`opsjobs \1 list`"),
)

_OF_SCHEDULES = {
    "type": "--cron, --at or --every",
    "at": "--at",
    "local_time": "--at",
    "cron": "--cron",
    "every": "--every",
    "interval": "--interval",
    "timezone": "--timezone",
    "weekdays": "--on",
    "time": "--time",
    "day": "--day",
    "start_at": "--start",
    "end_at": "--end",
    "calendars": "--calendar",
    "misfire_window": "--misfire-window",
    "max_firings": "--max-firings",
    "jitter": "--jitter",
    "anchor": "--anchor",
    "name": "--name",
    "from": "--from",
}
_FIELD = re.compile(r"^( *)/(?:schedule/)?([a-z_]+)(?:/\d+)?(?=: )", re.MULTILINE)


def in_options(words: str, path: str) -> str:
    """Return a refusal at this path with options and commands in place of the fields and routes that they stand for."""
    if re.search(r"/schedules(/\d+|/preview)?$", path):
        words = _FIELD.sub(lambda field: field[1] + _OF_SCHEDULES.get(field[2], field[0].strip()), words)
    for pattern, replacement in _REPLACED:
        words = pattern.sub(replacement, words)
    return words
