"""Firings of schedules on the terminal: next ones, past ones, and the week's forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opsjobs.cli.client import Json
from opsjobs.cli.render import Column, Form, plain, render_time, seconds, show_list, show_one, tell

BAR_CHARACTERS = 30


def _closed(moment: Mapping[str, Any]) -> str | None:
    closed = moment.get("closed")
    return f"{closed['calendar']}: {closed['reason']}" if closed else None


MOMENTS = (
    Column("local", lambda m: m["local"]),
    Column("utc", lambda m: render_time(m["utc"])),
    Column("closed by", _closed),
)
FIRINGS = (
    Column("due", lambda f: render_time(f["due_at"])),
    Column("status", lambda f: f["status"]),
    Column("kind", lambda f: f.get("kind"), wide=True),
    Column("rule", lambda f: f.get("rule"), wide=True),
    Column("fired", lambda f: f.get("fired_at"), wide=True),
    Column("late", lambda f: seconds(f.get("late_ms"))),
    Column("execution", lambda f: f.get("execution_id")),
    Column("what", lambda f: f.get("explained")),
)
COLLISIONS = (
    Column("due", lambda c: render_time(c["due_at"])),
    Column("schedule", lambda c: c["schedule"]["name"]),
    Column("job", lambda c: c["schedule"]["job_name"]),
    Column("calendar", lambda c: c["calendar"]),
    Column("closed because", lambda c: c["reason"]),
    Column("until", lambda c: render_time(c.get("until")), wide=True),
)


def show_preview_firings(preview: Json, form: Form) -> None:
    """Print a preview: the firings on stdout, the description on stderr."""
    if form in (Form.JSON, Form.YAML):
        show_one(preview, form)
        return
    show_list(preview["moments"], MOMENTS, form, name="utc")
    tell(plain(preview["words"]))
    for note in preview.get("notes") or ():
        tell(f"note: {plain(note)}")


def show_firings(items: Sequence[Json], form: Form) -> None:
    """Print past firings."""
    show_list(items, FIRINGS, form, name="id")


def show_forecast(forecast: Json, form: Form, *, every_hour: bool) -> None:
    """Print the hours that have firings, then suppressed firings, then a description."""
    if form in (Form.JSON, Form.YAML):
        show_one(forecast, form)
        return
    hours = (
        forecast["hours"]
        if every_hour
        else sorted(forecast["busiest"], key=lambda hour: str(hour["from"]))
    )
    show_list(hours, _hours(forecast["hours"]), form, name="from")
    if forecast["collisions"] and form is not Form.NAME:
        print()
        show_list(forecast["collisions"], COLLISIONS, form)
    tell(plain(forecast["words"]))
    for note in forecast["left_out"]:
        tell(f"note: {plain(note)}")


def _hours(hours: Sequence[Json]) -> tuple[Column, ...]:
    most = max((hour["firings"] for hour in hours), default=0)
    return (
        Column("hour", lambda h: render_time(h["from"])),
        Column("firings", lambda h: h["firings"]),
        Column("closed", lambda h: h["closed"] or None),
        Column("targets", lambda h: h["targets"]),
        Column(
            "",
            lambda h: (
                "█" * max(1, round(BAR_CHARACTERS * h["firings"] / most)) if h["firings"] else ""
            ),
        ),
    )
