"""`opsjobs calendars`: times at which schedules do not fire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from opsjobs.cli import input_files, options, yaml_documents
from opsjobs.cli.client import Client, Json, RequestRefused, connect, path_of
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.importing import holiday_files
from opsjobs.cli.render import Column, Form, ago, plain, pluralize, show_list, show_one, tell
from opsjobs.model.calendar import CalendarDraft
from opsjobs.model.validation_messages import plain_words

app = typer.Typer(help="Calendars: times at which schedules do not fire.", no_args_is_help=True)

Calendar = Annotated[str, typer.Argument(metavar="CALENDAR", help="Name, id or uuid.")]
FILE_BYTES_MAX = 4 << 20
LEFT_SHOWN_MAX = 50
COLUMNS = (
    Column("id", lambda c: c["id"]),
    Column("name", lambda c: c["name"]),
    Column("kind", lambda c: c["kind"]),
    Column("timezone", lambda c: c["timezone"]),
    Column("windows", lambda c: len(c["windows"])),
    Column("description", lambda c: c["description"]),
    Column("changed", lambda c: ago(c["updated_at"]), wide=True),
)
CHANGES = (Column("name", lambda c: c["name"]), Column("change", lambda c: c["change"]))


@app.command("list")
def list_calendars(output: options.Output = Form.TABLE, limit: options.Limit = 200) -> None:
    """List calendars by name."""
    with connect() as client:
        found, more = client.items("/calendars", limit=limit)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(calendar: Calendar, output: options.Output = Form.TABLE) -> None:
    """Show one calendar with its windows."""
    with connect() as client:
        show_one(client.by_name("calendar", calendar), output)


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
        str | None, typer.Option("--from", metavar="MOMENT", help="Start of a single period.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="MOMENT", help="End of a single period.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing calendar of this name.")
    ] = False,
) -> None:
    """Add a calendar of dates, days of every year, weekdays, times of day, or a single period.

    Each kind of option makes its own window; --start and --end apply to --on and --date. For more,
    use a file: `calendars apply`.
    """
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
            metavar="MOMENT",
            help="Check this time instead of now; without an offset, in the calendar's zone.",
        ),
    ] = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Show whether a calendar is open or closed, why, and until when.

    Exit code 1 if it is closed.
    """
    with connect() as client:
        path = path_of("calendar", client.by_name("calendar", calendar)["id"])
        answer = client.get(f"{path}/check", at=at)
    if output in (Form.JSON, Form.YAML):
        show_one(answer, output)
    else:
        print(plain(_render_check(answer)))
    raise typer.Exit(ExitCode.OK if answer["open"] else ExitCode.ERROR)


@app.command()
def rm(
    calendars: Annotated[
        list[str], typer.Argument(metavar="CALENDAR…", help="Names, ids or uuids.")
    ],
) -> None:
    """Remove calendars. A calendar that a schedule uses cannot be removed."""
    with connect() as client:
        for ref in calendars:
            found = client.by_name("calendar", ref)
            client.delete(path_of("calendar", found["id"]))
            tell(f"calendar {plain(found['name'])} is removed")


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
        found = holiday_files.read(input_files.read_text(file, FILE_BYTES_MAX))
    except ValueError as wrong:
        raise CommandFailed(f"{file}: {wrong}.", ExitCode.USAGE) from None
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
    """Store the calendar; return it and what was done."""
    if replace and (old := _find_calendar(client, body["name"])) is not None:
        return client.put(path_of("calendar", old["id"]), body), "replaced"
    try:
        return client.post("/calendars", body), "added"
    except RequestRefused as refused:
        if refused.code == "name_taken":
            raise CommandFailed(
                f"{refused}\nUse --replace to replace it.", refused.exit_code
            ) from None
        raise


def _apply_one(client: Client, body: Json, *, dry_run: bool) -> Json:
    """Create or update the calendar of this name; return the change, also of a dry run."""
    old = _find_calendar(client, body.get("name", ""))
    if old is not None and _normalize(body).items() <= old.items():
        return {"name": old["name"], "change": "unchanged"}
    if old is None:
        if not dry_run:
            client.post("/calendars", body)
        return {"name": body.get("name"), "change": "created"}
    if not dry_run:
        client.put(path_of("calendar", old["id"]), body)
    return {"name": old["name"], "change": "updated"}


def _normalize(body: Json, placed: yaml_documents.Placed | None = None) -> Json:
    """Return the body as the service shows it. Raises CommandFailed if it is invalid.

    All bodies are checked first, so that none is stored if one is invalid.
    """
    try:
        return CalendarDraft.model_validate(body).data()
    except ValidationError as wrong:
        first = wrong.errors()[0]
        context: Mapping[str, Any] = first.get("ctx") or {}
        where = "".join(f"/{step}" for step in (*first["loc"], *context.get("at", ())))
        words = str(context.get("detail") or plain_words(first))
        at = f"{placed.at(where)}: " if placed is not None else ""
        raise CommandFailed(
            f"{at}{plain(body.get('name'))}: {where}: {plain(words)}.", ExitCode.USAGE
        ) from None
