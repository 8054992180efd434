"""`opsjobs calendars`: times at which schedules do not fire, also from holiday files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from opsjobs.cli import inputs, options, yaml_documents
from opsjobs.cli.client import Client, Json, RequestRefused, connect
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.importing.inventory import Skipped
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.nouns import Noun, add_list, add_remove, add_show
from opsjobs.cli.render import Column, Form, ago, show_list, show_one
from opsjobs.model.calendar import CalendarDraft
from opsjobs.model.validation_errors import plain_words

app = typer.Typer(help="Calendars: times at which schedules do not fire.", no_args_is_help=True)

Calendar = Annotated[str, typer.Argument(metavar="CALENDAR", help="Name, id or uuid.")]
FILE_BYTES_MAX = 4 << 20
LEFT_SHOWN_MAX = 50
CALENDAR = Noun(
    "calendar",
    (
        Column("id", lambda c: c["id"]),
        Column("name", lambda c: c["name"]),
        Column("kind", lambda c: c["kind"]),
        Column("timezone", lambda c: c["timezone"]),
        Column("windows", lambda c: len(c["windows"])),
        Column("description", lambda c: c["description"]),
        Column("changed", lambda c: ago(c["updated_at"]), wide=True),
    ),
)
CHANGES = (Column("name", lambda c: c["name"]), Column("change", lambda c: c["change"]))


add_list(app, CALENDAR, "List calendars by name.")
add_show(app, CALENDAR, "Show one calendar with its windows.")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as holidays.")],
    *,
    kind: Annotated[
        Literal["blackout", "only"],
        typer.Option(help="blackout: closed inside its windows; only: closed outside them."),
    ] = "blackout",
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone",
            "-z",
            metavar="ZONE",
            help="Time zone of its local times, such as Europe/Berlin.",
        ),
    ] = "UTC",
    description: Annotated[str | None, typer.Option(help="A description.")] = None,
    date: Annotated[
        list[str] | None,
        typer.Option("--date", metavar="DAY", help="A date, such as 2026-12-25. May be repeated."),
    ] = None,
    dates: Annotated[
        str | None,
        typer.Option(
            "--dates",
            metavar="FILE",
            help="A file of holidays: a date and its name per line, or iCalendar (.ics).",
        ),
    ] = None,
    yearly: Annotated[
        list[str] | None,
        typer.Option(
            "--yearly",
            metavar="DAYS",
            help="Days of every year: 12-25 or 12-24..01-02. May be repeated.",
        ),
    ] = None,
    weekdays: Annotated[
        list[str] | None, typer.Option("--on", metavar="DAY[,DAY]", help="Weekdays: mon, tue …")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Start of the window: 22:00 or 'fri 22:00'; needs --end."
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End of the window, exclusive: 06:00 or 'mon 06:00'."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Start of a single period.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="End of a single period.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing calendar of this name.")
    ] = False,
) -> None:
    """Add a calendar of dates, days of every year, weekdays, times of day, or a single period.

    Each kind of option makes its own window; --start and --end apply to --on and --date. For more,
    use a file: `calendars apply`.
    """
    if weekdays and not options.split(weekdays):
        raise options.names_nothing("--on")
    listed = _holidays(dates) if dates is not None else []
    windows = [
        *_make_windows(weekdays=options.split(weekdays) or None, dates=date, start=start, end=end),
        *([{"yearly": yearly}] if yearly else []),
        *([_drop_none({"from": since, "until": until})] if since or until else []),
        *listed,
    ]
    if not windows:
        raise CommandFailed(
            "no window is given. Use --date, --dates, --yearly, --on, --start and --end, --from "
            "or --until.",
            ExitCode.USAGE,
        )
    body = {
        "name": name,
        "kind": kind,
        "timezone": timezone,
        "description": description or "",
        "windows": windows,
    }
    with connect() as client:
        made, words = _store(client, body, replace=replace)
    print(made["id"])
    tell(f"calendar {plain(name)} is {words}: {pluralize(len(windows), 'window')}")


@app.command()
def apply(
    files: Annotated[
        list[str],
        typer.Option(
            "-f",
            "--file",
            metavar="FILE",
            help="A YAML file of calendars; - is standard input. May be repeated.",
        ),
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    output: options.Output = Form.TABLE,
) -> None:
    """Create or update calendars from files. If one is invalid, none is changed.

    A file is a stream of YAML documents, each the body of POST /calendars.
    """
    placed = yaml_documents.placed_bodies(files, "calendar", "name and windows")
    if not placed:
        raise CommandFailed("no calendar found in these files.", ExitCode.USAGE)
    yaml_documents.check_names(placed, "calendar")
    for one in placed:
        _normalize(one.body, one)
    with connect() as client:
        items = [_apply_one(client, one.body, dry_run=dry_run) for one in placed]
    show_list(items, CHANGES, output)
    changed = sum(item["change"] != "unchanged" for item in items)
    tell(
        f"{pluralize(changed, 'calendar')} {'would change' if dry_run else 'changed'}, "
        f"{len(items) - changed} unchanged"
    )


@app.command()
def check(
    calendar: Calendar,
    *,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Check this time instead of now; without an offset, in the calendar's zone.",
        ),
    ] = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Show whether a calendar is open or closed, why, and until when.

    Exit code 1 if it is closed.
    """
    with connect() as client:
        found = CALENDAR.find(client, calendar)
        answer = client.get(f"{CALENDAR.path(found)}/check", at=at)
    if output in (Form.JSON, Form.YAML):
        show_one(answer, output)
    else:
        print(plain(_render_check(answer)))
    raise typer.Exit(ExitCode.OK if answer["open"] else ExitCode.ERROR)


add_remove(app, CALENDAR, "Remove calendars. A calendar that a schedule uses cannot be removed.")


def _render_check(answer: Json) -> str:
    state = "open" if answer["open"] else f"closed ({answer['reason']})"
    end = f"until {_local(answer['local_until'])}" if answer["local_until"] else "with no end"
    at, zone = _local(answer["local"]), answer["timezone"]
    return f"{answer['calendar']} is {state} at {at} {end}, {zone}"


def _local(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _make_windows(**window: Any) -> list[Json]:
    """Return a window each for weekdays and dates, with the time of day.

    The time of day alone makes a window of every day.
    """
    part = _drop_none({"start": window["start"], "end": window["end"]})
    days = [{kind: window[kind], **part} for kind in ("weekdays", "dates") if window[kind]]
    return days or ([part] if part else [])


def _drop_none(window: Json) -> Json:
    return {name: value for name, value in window.items() if value is not None}


def _holidays(file: str) -> list[Json]:
    try:
        found = read_holidays(inputs.read_text(file, FILE_BYTES_MAX))
    except ValueError as error:
        raise CommandFailed(f"{file}: {error}.", ExitCode.USAGE) from None
    for left in found.left[:LEFT_SHOWN_MAX]:
        tell(f"not imported: {plain(left.what)}: {plain(left.reason)}")
    if len(found.left) > LEFT_SHOWN_MAX:
        tell(f"not imported: and {len(found.left) - LEFT_SHOWN_MAX} more")
    if not (windows := found.windows()):
        raise CommandFailed(f"{file}: it has no all-day dates.", ExitCode.USAGE)
    return windows


def _find_calendar(client: Client, name: object) -> Json | None:
    found, _ = client.items("/calendars", limit=1, name=str(name))
    return next(iter(found), None)


def _store(client: Client, body: Json, *, replace: bool) -> tuple[Json, str]:
    """Store the calendar; return it and the change."""
    if replace and (old := _find_calendar(client, body["name"])) is not None:
        return client.put(CALENDAR.path(old), body), "replaced"
    try:
        return client.post("/calendars", body), "added"
    except RequestRefused as refused:
        if refused.code == "name_taken":
            raise CommandFailed(
                f"{refused}\nUse --replace to replace it.", refused.exit_code
            ) from None
        raise


def _apply_one(client: Client, body: Json, *, dry_run: bool) -> Json:
    """Create or update the calendar of this name; return the change, even of a dry run."""
    old = _find_calendar(client, body.get("name", ""))
    if old is not None and _normalize(body).items() <= old.items():
        return {"name": old["name"], "change": "unchanged"}
    if old is None:
        if not dry_run:
            client.post("/calendars", body)
        return {"name": body.get("name"), "change": "created"}
    if not dry_run:
        client.put(CALENDAR.path(old), body)
    return {"name": old["name"], "change": "updated"}


def _normalize(body: Json, placed: yaml_documents.Placed | None = None) -> Json:
    """Return the body in the service's form. Raises CommandFailed if it is invalid.

    All bodies are checked first, so that none is stored if one is invalid.
    """
    try:
        return CalendarDraft.model_validate(body).data()
    except ValidationError as error:
        first = error.errors()[0]
        context: Mapping[str, Any] = first.get("ctx") or {}
        where = "".join(f"/{step}" for step in (*first["loc"], *context.get("at", ())))
        words = str(context.get("detail") or plain_words(first))
        at = f"{placed.at(where)}: " if placed is not None else ""
        raise CommandFailed(
            f"{at}{plain(body.get('name'))}: {where}: {plain(words)}.", ExitCode.USAGE
        ) from None


# --- holiday files


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


def read_holidays(text: str) -> Holidays:
    """Return the holidays in the text of a file. Raises ValueError with the line."""
    text = text.removeprefix("\ufeff")
    return (
        _read_icalendar(text)
        if text.lstrip().upper().startswith("BEGIN:VCALENDAR")
        else _read_lines(text)
    )


def _name_field(name: str) -> dict[str, str]:
    return {"name": name} if name else {}


def _read_lines(text: str) -> Holidays:
    found = Holidays()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        match = _LINE.fullmatch(words)
        try:
            day = date.fromisoformat(match[1]) if match else None
        except ValueError as error:
            raise ValueError(f"line {number}: {words[:40]!r}: {error}") from None
        if match is None or day is None:
            raise ValueError(
                f"line {number}: {words[:40]!r} is not a date: "
                "write 2026-12-25, followed by its name"
            )
        found.dates.setdefault(_clean_name(match[2] or ""), {})[day] = None
    return found


def _read_icalendar(text: str) -> Holidays:
    """Return the all-day events of an iCalendar file; recurring ones only if yearly."""
    found = Holidays()
    for event in _iter_events(text):
        try:
            _add_event(found, event)
        except ValueError as error:
            found.left.append(
                Skipped(_clean_name(event.get("SUMMARY", "an event without a name")), str(error))
            )
    return found


def _iter_events(text: str) -> Iterator[dict[str, str]]:
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


def _add_event(found: Holidays, event: dict[str, str]) -> None:
    name = _clean_name(re.sub(r"\\([,;\\])", r"\1", event.get("SUMMARY", "").replace("\\n", " ")))
    first = _parse_day(event.get("DTSTART", ""))
    last = _parse_day(event["DTEND"]) - timedelta(days=1) if "DTEND" in event else first
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


def _parse_day(value: str) -> date:
    if re.fullmatch(r"\d{8}", value) is None:
        raise ValueError("it is not an all-day event")
    return date.fromisoformat(f"{value[:4]}-{value[4:6]}-{value[6:]}")


def _clean_name(name: str) -> str:
    return " ".join(name.split()).strip("\"'")[:200]
