"""Options of a schedule, and their body of POST /jobs/{id}/schedules."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

import typer

from opsjobs.cli import options, yaml_documents
from opsjobs.cli.client import Json
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.model.schedule.draft import Misfire, Overlap, ScheduleDraft
from opsjobs.model.time_zones import DstFold, DstGap

_SHORT = re.compile(r"(\d{1,6})(m|min|h|d|w)")
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "daily", "w": "weekly"}
_EVERY = ("minutes", "hours", "daily", "weekly", "monthly")
# Timing fields: a new timing replaces all of them.
WHEN = frozenset(
    {"type", "cron", "at", "local_time", "every", "interval", "anchor", "time", "weekdays", "day"},
)
HOW = (
    "--cron '30 2 * * *', --at 2026-12-01T09:00:00+01:00, --every daily --time 02:30, --every "
    "15m, or -f FILE"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTiming:
    """Options of a schedule; None: not given."""

    name: Annotated[
        str | None, typer.Option(help="The name of the schedule, unique within its job.")
    ] = None
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="Five fields, six with seconds, or @daily: '30 2 * * mon-fri'.",
        ),
    ] = None
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Once, at 2026-12-01T09:00; with an offset or --timezone."
        ),
    ] = None
    every: Annotated[
        str | None,
        typer.Option(
            metavar="PERIOD", help="15m, 2h, 3d, 2w; or minutes, hours, daily, weekly, monthly."
        ),
    ] = None
    interval: Annotated[
        int | None,
        typer.Option(min=1, help="With --every: fire every this many periods (default: 1)."),
    ] = None
    time: Annotated[
        str | None,
        typer.Option(metavar="HH:MM", help="With daily, weekly and monthly: the local time."),
    ] = None
    weekdays: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="DAY[,DAY]", help="With weekly: mon, tue … May be repeated."),
    ] = None
    day: Annotated[
        str | None, typer.Option(metavar="DAY", help="With monthly: 15, last, or '2nd tue'.")
    ] = None
    anchor: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With an interval: the time from which it is counted."),
    ] = None
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", "-z", metavar="ZONE", help="IANA zone: Europe/Berlin."),
    ] = None
    dst_gap: Annotated[
        DstGap | None,
        typer.Option(help="What to do with a time that a clock change skips (default: run_after)."),
    ] = None
    dst_fold: Annotated[
        DstFold | None,
        typer.Option(
            help="What to do with a time that a clock change repeats: "
            "once (the first; default) or twice."
        ),
    ] = None
    misfire: Annotated[Misfire | None, typer.Option(help="What to do with missed firings.")] = None
    misfire_window: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How late a missed firing may still run.")
    ] = None
    overlap: Annotated[
        Overlap | None, typer.Option(help="What to do while the previous execution still runs.")
    ] = None
    jitter: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Delay each firing by its own amount, up to this."),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Do not fire before this time; `none` removes it."),
    ] = None
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Do not fire after this time; `none` removes it."),
    ] = None
    max_firings: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many firings; 0 removes the limit.")
    ] = None
    calendars: Annotated[
        list[str] | None,
        typer.Option(
            "--calendar",
            metavar="NAME[,NAME]",
            help="Do not fire when these calendars are closed; '' for none.",
        ),
    ] = None
    params: options.Params = None
    file: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--file",
            help="A body in YAML or JSON (- is standard input); options override it.",
        ),
    ] = None

    def body(self, kept: Json | None = None) -> Json:
        """Return the whole schedule: options, over the file, over `kept`. Raises CommandFailed."""
        base = kept or {}
        for given in (
            yaml_documents.single_body(self.file, "schedule") if self.file is not None else {},
            self._collect(),
        ):
            replaced = WHEN if given.keys() & {"cron", "at", "local_time", "every"} else frozenset()
            values = {**(base.get("parameters") or {}), **(given.get("parameters") or {})}
            base = {
                **{name: value for name, value in base.items() if name not in replaced},
                **given,
            }
            base |= {"parameters": values} if values else {}
        return base

    def _collect(self) -> Json:
        given: Json = {name: getattr(self, name) for name in _PLAIN}
        given["weekdays"] = options.split(self.weekdays) or None
        given["day"] = (
            int(self.day)
            if self.day is not None and re.fullmatch("[0-9]{1,9}", self.day)
            else self.day
        )
        given["parameters"] = options.pairs("--param", self.params) or None
        return {
            **{name: value for name, value in given.items() if value is not None},
            **self._collect_timing(),
            **self._collect_removable(),
        }

    def _collect_timing(self) -> Json:
        timings = [name for name in ("cron", "at", "every") if getattr(self, name) is not None]
        if len(timings) > 1:
            raise CommandFailed(
                f"--{timings[0]} and --{timings[1]} exclude each other.", ExitCode.USAGE
            )
        if self.cron is not None:
            return {"type": "cron", "cron": self.cron}
        if self.at is not None:
            return {"type": "once", "at" if _has_offset(self.at) else "local_time": self.at}
        return self._recurring() if self.every is not None else {}

    def _recurring(self) -> Json:
        assert self.every is not None
        if self.every in _EVERY:
            return {"type": "recurring", "every": self.every}
        short = _SHORT.fullmatch(self.every)
        if short is None:
            raise CommandFailed(
                f"--every: {self.every!r} is not a period. "
                f"Use 15m, 2h, 3d, 2w, or one of {', '.join(_EVERY)}.",
                ExitCode.USAGE,
            )
        if self.interval is not None:
            raise CommandFailed(
                f"--every {self.every} sets the interval already: omit --interval.", ExitCode.USAGE
            )
        return {"type": "recurring", "every": _UNITS[short[2]], "interval": int(short[1])}

    def _collect_removable(self) -> Json:
        """Return the fields that can be removed: `none`, 0 or an empty name removes them."""
        given: Json = {}
        for name, value in (("start_at", self.start), ("end_at", self.end)):
            if value is not None:
                given[name] = None if value == "none" else value
        if self.max_firings is not None:
            given["max_firings"] = self.max_firings or None
        if self.calendars is not None:
            given["calendars"] = options.split(self.calendars)
        return given


# Options with the same name and value in the body.
_PLAIN = (
    *("name", "timezone", "anchor", "interval", "time"),
    *("dst_gap", "dst_fold", "misfire", "misfire_window", "overlap", "jitter"),
)


timed = options.spread(ScheduleTiming, "timing")
"""Decorate a command: its parameter `timing` becomes all options of a schedule."""


def to_draft(schedule: Json) -> Json:
    """Return the body that would create this stored schedule."""
    return {
        name: schedule[name]
        for name in ScheduleDraft.model_fields
        if schedule.get(name) is not None
    }


def has_options(timing: ScheduleTiming) -> bool:
    """Return True if an option was given."""
    return any(value is not None for value in asdict(timing).values())


def _has_offset(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return True  # the service reports the error
