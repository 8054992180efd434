"""`opsjobs schedules`: launch jobs at set times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, RequestRefused, connect, is_id, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.launch import launch
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, ago, render_time, seconds, show_list, show_one
from opsjobs.cli.schedule_options import HOW, ScheduleTiming, has_options, timed, to_draft
from opsjobs.model.safety_verdict import SafetyVerdict

app = typer.Typer(
    help="Schedules: launch jobs at set times, and list past firings.", no_args_is_help=True
)

Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Name, JOB/NAME, id or uuid.")]
Job = Annotated[
    str | None, typer.Option("--job", metavar="JOB", help="Only those of this job, by name or id.")
]

SHOWN_NEXT = 3
SAME_NAME_SHOWN = 10
COLUMNS = (
    Column("id", lambda s: s["id"]),
    Column("name", lambda s: s["name"]),
    Column("job", lambda s: s.get("job_name")),
    Column("when", lambda s: s.get("words")),
    Column("next", lambda s: s.get("next") if s.get("enabled") else "paused"),
    Column("last", lambda s: render_last_firing(s.get("last_firing"))),
    Column("misfire", lambda s: s.get("misfire"), wide=True),
    Column("overlap", lambda s: s.get("overlap"), wide=True),
    Column("calendars", lambda s: s.get("calendars"), wide=True),
    Column("owner", lambda s: s.get("owner"), wide=True),
    Column("uuid", lambda s: s.get("uuid"), wide=True),
)


def render_last_firing(firing: Json | None) -> str | None:
    """Return the last firing for a cell: `triggered, 3h ago`."""
    return f"{firing['status']}, {ago(firing['due_at'])}" if firing else None


@app.command("list")
def list_schedules(
    *,
    job: Job = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enabled/--paused", help="Only enabled or only paused schedules."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 100,
) -> None:
    """List schedules, the newest first."""
    with connect() as client:
        path = (
            f"{path_of('job', client.by_name('job', job)['id'])}/schedules"
            if job is not None
            else "/schedules"
        )
        wanted = None if enabled is None else str(enabled).lower()
        found, more = client.items(path, limit=limit, enabled=wanted)
    show_list(
        [{"name": _ref(one)} for one in found] if output is Form.NAME else found, COLUMNS, output
    )
    options.tell_more(more, limit)


@app.command()
def show(schedule: Schedule, output: options.Output = Form.TABLE) -> None:
    """Show one schedule: its fields, its next firing, and its last one."""
    with connect() as client:
        it = find_schedule(client, schedule)
    if output is Form.NAME:
        it = {"name": _ref(it)}
    show_one(it if output in (Form.JSON, Form.YAML) else _summarize(it), output)


@app.command()
@timed
def add(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Name, id or uuid of the job.")],
    *,
    timing: ScheduleTiming,
    disabled: Annotated[bool, typer.Option("--disabled", help="Create it paused.")] = False,
) -> None:
    """Add a schedule to a job: once, recurring, or a cron expression.

    Shows the schedule in words with its next three firings, and prints its id.
    """
    body = timing.body()
    if not body:
        raise CommandFailed(f"no time is given. Use {HOW}.", ExitCode.USAGE)
    with connect() as client:
        launched = client.by_name("job", job)
        made = client.post(
            f"{path_of('job', launched['id'])}/schedules",
            {**body, **({"enabled": False} if disabled else {})},
        )
        _report(client, made, "is added" if made["enabled"] else "is added, paused")
        if launched.get("verdict") == SafetyVerdict.NEEDS_APPROVAL or (
            launched.get("policy") or {}
        ).get("approval"):
            tell(
                f"warning: {plain(launched['name'])} needs an approval: "
                "each execution waits for it (`opsjobs approvals list`)"
            )
    print(made["id"])


@app.command("set")
@timed
def change(schedule: Schedule, *, timing: ScheduleTiming) -> None:
    """Change a schedule. Options that are not given change nothing.

    --cron, --at or --every replaces the timing.
    """
    if not has_options(timing):
        raise CommandFailed(
            "nothing to change. See the options with: opsjobs schedules set --help",
            ExitCode.USAGE,
        )
    with connect() as client:
        old = find_schedule(client, schedule)
        changed = client.put(
            path_of("schedule", old["id"]), timing.body(to_draft(old)), etag=f'"{old["version"]}"'
        )
        _report(client, changed, "is changed")


@app.command("rm")
def remove(
    schedules: Annotated[
        list[str], typer.Argument(metavar="SCHEDULE", help="Names, JOB/NAME, ids or uuids.")
    ],
) -> None:
    """Remove schedules. Executions that they launched stay and continue."""
    with connect() as client:
        for ref in schedules:
            gone = find_schedule(client, ref)
            client.delete(path_of("schedule", gone["id"]))
            tell(f"schedule {plain(gone['name'])} of {plain(gone['job_name'])} is removed")


@app.command()
def pause(
    schedule: Schedule,
    reason: Annotated[
        str | None, typer.Option(help="The reason; it is stored with each skipped firing.")
    ] = None,
) -> None:
    """Pause a schedule. Until it is resumed, each due firing is recorded as skipped."""
    with connect() as client:
        path = path_of("schedule", find_schedule(client, schedule)["id"])
        changed = client.post(f"{path}/pause", {"reason": reason} if reason else {})
    tell(
        f"schedule {plain(changed['name'])} is paused. Continue with: "
        f"opsjobs schedules resume {changed['id']}"
    )


@app.command()
def resume(schedule: Schedule) -> None:
    """Resume a paused schedule with its next firing. Skipped firings stay skipped."""
    with connect() as client:
        changed = client.post(
            f"{path_of('schedule', find_schedule(client, schedule)['id'])}/resume"
        )
        _report(client, changed, "is resumed")


@app.command()
def trigger(
    schedule: Schedule,
    *,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
    as_json: options.AsJson = False,
    raw: options.Raw = False,
    detach: options.Detach = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Launch a schedule's job now, live, with its parameters. Its firings stay unchanged.

    Exit codes as for `opsjobs run`.
    """
    with connect() as client:
        path = f"{path_of('schedule', find_schedule(client, schedule)['id'])}/trigger"
        body = options.because(reason, override_safety)
        raise typer.Exit(
            launch(
                client, path, body, as_json=as_json, detach=detach, raw=raw, wait_limit=wait_limit
            )
        )


@app.command()
@timed
def preview(
    schedule: Annotated[
        str | None,
        typer.Argument(
            metavar="SCHEDULE", help="An existing schedule; without it, the options describe one."
        ),
    ] = None,
    *,
    timing: ScheduleTiming,
    after: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="The firings after this time (default: now)."),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=100, help="The number of firings.")
    ] = 5,
    output: options.Output = Form.TABLE,
) -> None:
    """Preview the firings of a schedule: in its own zone, in UTC and in words.

    Stores nothing. With SCHEDULE and options: the schedule with these changes.
    """
    with connect() as client:
        asked = _build_preview(client, schedule, timing)
        answer = client.post(
            "/schedules/preview", {**asked, "count": count, **({"from": after} if after else {})}
        )
    show_preview_firings(answer, output)


@app.command()
def firings(
    schedule: Annotated[
        str | None,
        typer.Argument(metavar="SCHEDULE", help="Name, id or uuid (default: all schedules)."),
    ] = None,
    *,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Only those with this status. May be repeated."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List past firings, latest first: what ran, what did not, and why."""
    with connect() as client:
        path = ""
        if schedule is not None:
            path = path_of("schedule", find_schedule(client, schedule)["id"])
        items, more = client.items(f"{path}/firings", limit=limit, status=status)
    columns = FIRINGS if schedule is not None else (*SCHEDULE_OF_FIRING, *FIRINGS)
    show_list(items, columns, output, name="id")
    options.tell_more(more, limit)


@app.command()
def moments(
    *,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this time on (default: now).")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Before this time (default: a day later)."),
    ] = None,
    output: options.Output = Form.TABLE,
    limit: Annotated[
        int, typer.Option(min=1, max=2_000, help="Maximum number of due times.")
    ] = 200,
) -> None:
    """List the coming due times of all schedules, in the order in which they fire."""
    query = {"from": since, "to": until, "limit": limit}
    with connect() as client:
        answer = client.get("/schedules/moments", **query)
    if output in (Form.JSON, Form.YAML):
        show_one(answer, output)
        return
    show_list(answer["moments"], ALL_MOMENTS, output, name="due_at")
    if answer["complete_until"] != answer["to"]:
        tell(
            f"there are more due times from {render_time(answer['complete_until'])} on: see --limit"
        )
    if answer["left_out"]:
        tell(f"{pluralize(answer['left_out'], 'schedule')} not looked at: there are too many")


@app.command()
def forecast(
    *,
    every_hour: Annotated[
        bool, typer.Option("--all", help="Every hour in order, not only the busiest ones.")
    ] = False,
    output: options.Output = Form.TABLE,
) -> None:
    """Forecast the firings of the coming week.

    Shows the busiest hours, and firings that a calendar suppresses.
    """
    with connect() as client:
        answer = client.get("/schedules/forecast")
    show_forecast(answer, output, every_hour=every_hour)


def find_schedule(client: Client, ref: str) -> Json:
    """Return the schedule with this id, uuid or name. Raises CommandFailed.

    A name that schedules of several jobs share is given as JOB/NAME.
    """
    if is_id(ref) and (found := client.find(path_of("schedule", ref))):
        return found
    # Names may contain slashes, such as `cron */5 * * * *`: try each split, then the whole name.
    splits = [
        (ref[:place], ref[place + 1 :]) for place, character in enumerate(ref) if character == "/"
    ]
    items: list[Json] = []
    for job, name in (*splits, (None, ref)):
        items, more = client.items("/schedules", limit=SAME_NAME_SHOWN, name=name, job_name=job)
        if items:
            break
    if not items:
        raise RequestRefused(
            f"There is no schedule {plain(ref)}: `opsjobs schedules list` shows them.",
            404,
            "schedule_not_found",
        )
    if len(items) > 1:
        several = ", ".join([*map(_ref, items), *(["and more"] if more else [])])
        raise CommandFailed(
            f"several schedules have the name {plain(ref)}: "
            f"name the one you mean ({plain(several)}).",
            ExitCode.USAGE,
        )
    return items[0]


def _ref(schedule: Json) -> str:
    """Return JOB/NAME, which is unique; a name alone may be shared."""
    return f"{schedule['job_name']}/{schedule['name']}"


def _summarize(schedule: Json) -> Json:
    """Return the non-empty fields, with the last firing as a sentence."""
    last_one = schedule.get("last_firing")
    sentence = f"{render_time(last_one['due_at'])}: {last_one['explained']}" if last_one else None
    shown = {name: value for name, value in schedule.items() if value not in (None, [], {})}
    return {**shown, **({"last_firing": sentence} if sentence else {})}


def _build_preview(client: Client, schedule: str | None, timing: ScheduleTiming) -> Json:
    if schedule is None:
        if not (body := timing.body()):
            raise CommandFailed(f"no schedule is given. Name one, or use {HOW}.", ExitCode.USAGE)
        return {"schedule": body}
    old = find_schedule(client, schedule)
    if not has_options(timing):
        return {"id": old["id"]}
    return {"id": old["id"], "schedule": timing.body(to_draft(old))}


def _report(client: Client, schedule: Json, words: str) -> None:
    """Print the schedule in words and its next firings."""
    tell(
        f"schedule {plain(schedule['name'])} of {plain(schedule['job_name'])} {words}: "
        f"{plain(schedule['words'])}"
    )
    upcoming: Any = client.post("/schedules/preview", {"id": schedule["id"], "count": SHOWN_NEXT})
    for moment in upcoming["moments"]:
        closed = (
            f", closed by {plain(moment['closed']['calendar'])}" if moment.get("closed") else ""
        )
        tell(f"  {moment['local']}  ({render_time(moment['utc'])}){closed}")
    if not upcoming["moments"]:
        tell("  it never fires")


# --- tables of firings


BAR_CHARACTERS = 30


def _closed_by(moment: Mapping[str, Any]) -> str | None:
    closed = moment.get("closed")
    return f"{closed['calendar']}: {closed['reason']}" if closed else None


MOMENTS = (
    Column("local", lambda m: m["local"]),
    Column("utc", lambda m: render_time(m["utc"])),
    Column("closed by", _closed_by),
)
ALL_MOMENTS = (
    Column("fires", lambda m: render_time(m["fire_at"])),
    Column("local", lambda m: m["local"]),
    Column("job", lambda m: m["schedule"]["job_name"]),
    Column("schedule", lambda m: m["schedule"]["name"]),
    Column("targets", lambda m: m["targets"]),
    Column("closed by", _closed_by),
)
SCHEDULE_OF_FIRING = (
    Column("job", lambda f: f["schedule"]["job_name"]),
    Column("schedule", lambda f: f["schedule"]["name"]),
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
    show_list(hours, _hour_columns(forecast["hours"]), form, name="from")
    if forecast["collisions"] and form is not Form.NAME:
        print()
        show_list(forecast["collisions"], COLLISIONS, form)
    tell(plain(forecast["words"]))
    for note in forecast["left_out"]:
        tell(f"note: {plain(note)}")


def _hour_columns(hours: Sequence[Json]) -> tuple[Column, ...]:
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
