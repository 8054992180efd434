"""Print results: tables for people; JSON, YAML and names for programs.

Data goes to stdout, messages go to stderr (`messages`).
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text
from ruamel.yaml import YAML

from opsjobs.cli.messages import plain, tell
from opsjobs.cli.terminal_escapes import escape_json, escape_output
from opsjobs.model.execution import ErrorCode

PIPE_COLUMNS = 100_000  # a table into a pipe is never folded
GAP = 2
FOLDED_COLUMNS = 16
"""The smallest width of a folded column; a column without that room is not shown."""
SUMMARY_COLUMNS = 40
"""The width of what an execution runs in a table; JSON has all of it."""
NEVER_FOLDED = frozenset({
    "id", "uuid", "name", "host", "target", "targets", "job", "schedule", "execution",
    "credential", "user", "username", "service", "group", "file", "key", "zone", "jump",
})  # fmt: skip
"""Headings of columns that are never folded: their cells are typed into other commands."""
REASONS = frozenset({
    "error", "message", "why", "reason", "waits for", "outcome", "changes", "summary",
})  # fmt: skip
"""Headings of columns with reasons: hidden only before names and ids."""

_STYLE_OF = {
    "succeeded": "green",
    "completed": "green",
    "running": "cyan",
    "queued": "cyan",
    "waiting": "dim",
    "ok": "green",
    "up": "green",
    "degraded": "yellow",
    "partial": "yellow",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "skipped": "yellow",
    "failed": "red",
    "unreachable": "red",
    "timeout": "red",
    "lost": "red",
    "dead": "red",
    "blocked": "red",
    "down": "red",
}


class Form(StrEnum):
    """Output formats of -o."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Column:
    """A table column: its heading, and the value of an item."""

    heading: str
    value: Callable[[Mapping[str, Any]], object]
    wide: bool = False
    """Only -o wide shows it."""
    sparse: bool = False
    """It is shown only if an item has a value."""


def show_list(
    items: Sequence[Mapping[str, Any]], columns: Sequence[Column], form: Form, *, name: str = "name"
) -> None:
    """Print a list of items; `name` is the field that `-o name` prints."""
    if form is Form.NAME:
        sys.stdout.write("".join(f"{plain(item[name])}\n" for item in items))
    elif form in (Form.JSON, Form.YAML):
        _structured(list(items), form)
    else:
        _table(items, [c for c in columns if _is_shown(c, items, form)])


def _is_shown(column: Column, items: Sequence[Mapping[str, Any]], form: Form) -> bool:
    if column.sparse and not any(column.value(item) for item in items):
        return False
    return form is Form.WIDE or not column.wide


def show_one(item: Mapping[str, Any], form: Form, *, name: str = "name") -> None:
    """Print one item: as a two-column list of its fields, or structured."""
    if form is Form.NAME:
        sys.stdout.write(f"{plain(item[name])}\n")
    elif form in (Form.JSON, Form.YAML):
        _structured(dict(item), form)
    else:
        _fields(item)


def has_colours(file: TextIO) -> bool:
    """Return True if colours can be used: the file is a terminal and NO_COLOR is not set."""
    return file.isatty() and not os.environ.get("NO_COLOR")


_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}


def paint(text: str, style: str | None, file: TextIO) -> str:
    """Return the text in this style if the file supports colours."""
    return (
        f"\x1b[{_CODES[style]}m{text}\x1b[0m"
        if style is not None and text and has_colours(file)
        else text
    )


def get_style(status: str) -> str | None:
    """Return the colour of a status."""
    return _STYLE_OF.get(status)


def console(file: TextIO) -> Console:
    """Return a rich console for this file.

    Colours only on a terminal and without NO_COLOR; no folding into a pipe; no markup.
    """
    width = None if file.isatty() else PIPE_COLUMNS
    return Console(
        file=file,
        width=width,
        no_color=not has_colours(file),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def cell(value: object) -> Text:
    """Return a table cell: "-" for empty values, statuses in colour, lists and maps joined."""
    text = _to_text(value)
    return Text(text, style=_STYLE_OF.get(text, ""))


def _to_text(value: object) -> str:
    if value is None or value in ("", [], (), {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ",".join(f"{plain(k)}={plain(v)}" for k, v in value.items())
        case list() | tuple():
            return ",".join(plain(v) for v in value)
        case _:
            return plain(value)


def shorten(text: str | None, most: int = SUMMARY_COLUMNS) -> str | None:
    """Return the text, or its beginning if it is longer."""
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"


def seconds(milliseconds: object) -> str:
    """Return a duration in ms for display: 45 ms, 1.25 s, 3 min 20 s."""
    if not isinstance(milliseconds, int | float):
        return "-"
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 120_000:
        return f"{milliseconds / 1_000:.2f} s"
    minutes, rest = divmod(int(milliseconds / 1_000), 60)
    return f"{minutes} min {rest} s"


def ago(moment: object, *, now: datetime | None = None) -> str:
    """Return the age of an RFC 3339 time: 12s ago, 5m ago, 3h ago, 4d ago."""
    if not isinstance(moment, str):
        return "-"
    return elapsed(((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds())


def elapsed(seconds_ago: float) -> str:
    """Return an age in seconds for display: 12s ago, 5m ago, 3h ago, 4d ago."""
    passed = max(0.0, seconds_ago)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if passed >= 2 * length:
            return f"{int(passed // length)}{unit} ago"
    return f"{int(passed)}s ago"


def render_time(moment: object) -> str | None:
    """Return an RFC 3339 time without zero milliseconds: `2026-11-26T01:30:00Z`."""
    return moment.replace(".000Z", "Z") if isinstance(moment, str) else None


def size(size_bytes: object) -> str:
    """Return a size for display: `3 B`, `12.5 MiB`."""
    if not isinstance(size_bytes, int):
        return ""
    number, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def render_counts(by_status: Mapping[str, int]) -> str:
    """Return counts by status: `{"succeeded": 10, "lost": 0}` -> "10 succeeded"."""
    return ", ".join(f"{n} {plain(status)}" for status, n in by_status.items() if n) or "none"


def _structured(value: object, form: Form) -> None:
    if form is Form.JSON:
        sys.stdout.write(escape_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")
        return
    yaml = YAML()
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(value, text)
    sys.stdout.write(
        escape_output(text.getvalue().encode()).decode() if sys.stdout.isatty() else text.getvalue()
    )


def _table(items: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    rows = [[cell(column.value(item)) for column in columns] for item in items]
    widths = [
        max((text.cell_len for text in texts), default=0) for texts in _by_column(columns, rows)
    ]
    room = console(sys.stdout).width if sys.stdout.isatty() else PIPE_COLUMNS
    empty = {i for i in range(len(columns)) if all(row[i].plain == "-" for row in rows)}
    kept = _fitting(columns, widths, room, empty)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for position in kept:
        whole = _is_whole(columns[position], widths[position])
        least = min(widths[position], widths[position] if whole else FOLDED_COLUMNS)
        table.add_column(
            columns[position].heading.upper(), overflow="fold", no_wrap=whole, min_width=least
        )
    for row in rows:
        table.add_row(*(row[position] for position in kept))
    # Wider than the terminal rather than cut: the remaining columns are names to be typed again.
    _print(table, at_least=_least(columns, widths, kept))
    if dropped := [
        column.heading for position, column in enumerate(columns) if position not in kept
    ]:
        tell(f"columns not shown, the terminal is too narrow: {', '.join(dropped)} (use -o json)")


def _by_column(columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> list[list[Text]]:
    return [
        [Text(column.heading), *(row[position] for row in rows)]
        for position, column in enumerate(columns)
    ]


def _is_whole(column: Column, width: int) -> bool:
    """Return True if a column is never folded: names, ids, and short cells."""
    return column.heading in NEVER_FOLDED or width <= FOLDED_COLUMNS


def _least(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> int:
    """Return the smallest width of a table of these columns."""
    return (
        sum((widths[i] if _is_whole(columns[i], widths[i]) else FOLDED_COLUMNS) + GAP for i in kept)
        - GAP
    )


def _fitting(
    columns: Sequence[Column], widths: Sequence[int], room: int, empty: Collection[int]
) -> list[int]:
    """Return the positions of columns with room: empty ones drop first, names and ids last."""
    kept = list(range(len(columns)))

    def worth(position: int) -> tuple[int, int]:
        heading = columns[position].heading
        if heading in NEVER_FOLDED:
            return 3, -position
        if position in empty:
            return 0, -position
        return 2 if heading in REASONS else 1, -position

    going = sorted(kept, key=worth)
    while len(kept) > 1 and _least(columns, widths, kept) > room:
        kept.remove(going.pop(0))
    return kept


def _fields(item: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in item.items():
        text = json.dumps(value, ensure_ascii=False) if _is_nested(value) else value
        table.add_row(plain(key), cell(text))
    _print(table)


def _is_nested(value: object) -> bool:
    inner: Sequence[object] = ()
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    return any(isinstance(v, Mapping | list) for v in inner)


def _print(table: Table, at_least: int = 0) -> None:
    # Rich pads each line with blanks to the table's width; they are removed for a pipe.
    out = console(sys.stdout)
    out.width = max(out.width, at_least)
    if sys.stdout.isatty():
        out.print(table)
        return
    with out.capture() as caught:
        out.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in caught.get().splitlines()))


def render_wait(run: Mapping[str, Any]) -> str | None:
    """Return the reason of a waiting run's wait.

    For example `timer`, `barrier: swap`, `hold: maintenance: new disk`, `a worker: zone paris has
    none`.
    """
    kind, what = run.get("waiting_for"), run.get("awaits")
    return f"{kind}: {what}" if kind and what else kind or what


def render_duration(run: Mapping[str, Any]) -> str:
    """Return how long a run took, or has taken so far."""
    began, ended = run.get("started_at"), run.get("finished_at")
    if not isinstance(began, str):
        return "-"
    until = datetime.fromisoformat(ended) if isinstance(ended, str) else datetime.now(UTC)
    return seconds(max((until - datetime.fromisoformat(began)).total_seconds(), 0.0) * 1_000)


def render_error(run: Mapping[str, Any]) -> str | None:
    """Return the error of a run: the last stderr line of a failed command, else the message."""
    error = run.get("error") or {}
    if error.get("code") in (None, ErrorCode.NONZERO_EXIT) and run.get("last_stderr"):
        return str(run["last_stderr"])
    return error.get("message")
