"""`opsjobs import crontab`: import cron entries as jobs with schedules."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from opsjobs.cli import inputs, options, yaml_documents
from opsjobs.cli.client import Client, Json, RequestRefused, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.importing import crontab
from opsjobs.cli.importing.crontab_jobs import (
    SCHEDULE,
    TAG,
    CrontabOptions,
    PlannedJob,
    plan_jobs,
    prefix_of,
    source_of,
)
from opsjobs.cli.importing.inventory import Skipped
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import Column, Form, show_list
from opsjobs.model.job import JobDraft
from opsjobs.model.schedule.draft import ScheduleDraft
from opsjobs.model.time_zones import zone_names
from opsjobs.model.validation_errors import plain_words

app = typer.Typer(help="Import jobs from other schedulers.", no_args_is_help=True)

FILE_BYTES_MAX = 1 << 20
JOBS_A_REQUEST = 100
BYTES_A_REQUEST = 900_000
GONE_SHOWN_MAX = 20
_JOB_POINTER = re.compile(r"/jobs/(\d+)/")
TIMES = ("type", "cron", "timezone", "jitter")
COLUMNS = (
    Column("line", lambda p: p["place"]),
    Column("job", lambda p: p["name"]),
    Column("change", lambda p: p["change"]),
    Column("when", lambda p: p["cron"]),
    Column("timezone", lambda p: p["timezone"]),
    Column("schedule", lambda p: p["schedule"]),
)


@app.callback()
def imports() -> None:
    """Import jobs from other schedulers."""


@app.command("crontab", no_args_is_help=True)
def import_crontab(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help="Crontabs; - is standard input, such as from `crontab -l`."
        ),
    ],
    *,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The owner of the crontab; its commands run as this user."
        ),
    ] = None,
    system: Annotated[
        bool,
        typer.Option("--system", help="Each line names its user (the default for files in /etc)."),
    ] = False,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    credential: Annotated[
        str | None,
        typer.Option(
            "-c", "--credential", help="The credential with the password for sudo (default: none)."
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone",
            "-z",
            metavar="ZONE",
            help="The time zone of its times (default: CRON_TZ, else this machine's).",
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="The prefix of job names (default: made from the targets).")
    ] = None,
    timeout: Annotated[str, typer.Option(help="The timeout of a run; cron has none.")] = "24h",
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Create new schedules paused.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the jobs and schedules as YAML, without contacting the service.",
        ),
    ] = False,
    override_safety: options.OverrideSafety = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Import crontabs: a job and a schedule for each line, on these targets.

    Repeating the import changes only what is different. Each line that cannot be imported is
    reported with the reason. Remove the lines from the crontab afterwards, or both will run them.
    """
    selection = options.selection(targets, groups, selector)
    if user is not None and system:
        raise CommandFailed(
            "--user and --system exclude each other: lines of a system crontab name their users.",
            ExitCode.USAGE,
        )
    if not selection and not dry_run:
        raise CommandFailed(
            "no targets are given. Use -t web-1,web-2, -g GROUP or -l env=prod.", ExitCode.USAGE
        )
    chosen = CrontabOptions(
        selection,
        prefix if prefix is not None else prefix_of(selection),
        _zone(timezone),
        options.duration("--timeout", timeout) or timeout,
        user,
        credential,
        not disabled,
    )
    plans, sources, lost = _read(files, chosen, system=system)
    if dry_run:
        yaml_documents.write(
            [plan.job for plan in plans], [_schedule_in_words(plan.schedule) for plan in plans]
        )
        tell(
            f"would import {pluralize(len(plans), 'job')} with a schedule each; "
            f"{pluralize(lost, 'line')} skipped"
        )
        return
    with connect() as client:
        items = _store(client, plans, options.because(None, override_safety))
        lost += len(plans) - len(items)
        gone = _find_obsolete(client, sources, plans)
    show_list(items, COLUMNS, output)
    _tell(items, gone, lost)


def _zone(asked: str | None) -> str:
    if asked is not None:
        if asked not in zone_names():
            raise CommandFailed(
                f"--timezone: {asked!r} is not a time zone. Use one such as Europe/Berlin.",
                ExitCode.USAGE,
            )
        return asked
    found = local_zone()
    tell(
        f"times without a CRON_TZ are taken as {found}, the zone of this machine; "
        "use --timezone for another one"
    )
    return found


def local_zone(root: Path = Path("/")) -> str:
    """Return the name of the local time zone, or UTC if it is unknown."""
    names = [os.environ.get("TZ", "").removeprefix(":")]
    with suppress(OSError, UnicodeDecodeError):
        names.append((root / "etc/timezone").read_text().strip())
    target = os.path.realpath(root / "etc/localtime")
    names.append(target.rpartition("/zoneinfo/")[2])
    return next((name for name in names if name in zone_names()), "UTC")


# --- reading


def _read(
    files: Sequence[str], chosen: CrontabOptions, *, system: bool
) -> tuple[list[PlannedJob], set[str], int]:
    """Return the plans of all entries that can be imported, the crontabs' tags, and a count.

    The count is of skipped lines; each of them is reported with the reason.
    """
    entries: list[tuple[crontab.CrontabEntry, str]] = []
    sources: set[str] = set()
    lost = 0
    for file in files:
        text = inputs.read_text(file, FILE_BYTES_MAX)
        by_place = file.startswith("/etc/") and chosen.user is None
        try:
            found = crontab.read(
                "crontab" if file == "-" else file, text, system=system or by_place
            )
        except ValueError as error:
            raise CommandFailed(f"{file}: {error}.", ExitCode.USAGE) from None
        for left in found.left:
            tell(_render_skipped(left))
        lost += sum(left.target for left in found.left)
        source = source_of(file, chosen, system=system or by_place)
        sources.add(source)
        entries += [(entry, source) for entry in found.entries]
        if not (system or by_place) and _looks_like_a_system_one(found.entries):
            tell(
                f"{plain(file)}: every command begins with `root`. "
                "If it is a system crontab, use --system."
            )
    plans = plan_jobs(entries, chosen)
    good = [plan for plan in plans if _is_good(plan)]
    return good, sources, lost + len(plans) - len(good)


def _is_good(plan: PlannedJob) -> bool:
    """Return True if the service would accept the plan.

    It is checked here, so that one invalid line does not block the others.
    """
    try:
        JobDraft.model_validate(plan.job)
        ScheduleDraft.model_validate(plan.schedule)
    except ValidationError as error:
        first = error.errors()[0]
        words = (first.get("ctx") or {}).get("detail") or plain_words(first)
        tell(f"{plain(plan.place)}: skipped: {plain(words)}")
        return False
    return True


def _looks_like_a_system_one(entries: Sequence[crontab.CrontabEntry]) -> bool:
    return len(entries) > 0 and all(entry.command.split()[:1] == ["root"] for entry in entries)


def _render_skipped(left: Skipped) -> str:
    return f"{plain(left.what)}: {'skipped: ' if left.target else ''}{plain(left.reason)}"


def _schedule_in_words(schedule: Json) -> str:
    """Return the schedule as a comment above its job.

    The documents hold only jobs, as `jobs apply` expects.
    """
    return f"schedule {', '.join(f'{name}: {value}' for name, value in schedule.items())}"


# --- storing


def _store(client: Client, plans: Sequence[PlannedJob], why: Json) -> list[Json]:
    items: list[Json] = []
    for portion in _portions(plans):
        stored, jobs = _apply(client, portion, why)
        for plan, job in zip(stored, jobs, strict=True):
            shown = {
                "place": plan.place,
                "name": job["name"],
                "change": job["change"],
                **_render_times(plan.schedule),
            }
            items.append(
                {**shown, "id": job["id"], "schedule": _schedule(client, job["id"], plan.schedule)}
            )
    return items


def _apply(
    client: Client, plans: Sequence[PlannedJob], why: Json
) -> tuple[Sequence[PlannedJob], list[Json]]:
    """Store the jobs; return the stored plans and their changes.

    A job that the safety check blocks is reported and skipped; it does not block the others.
    """
    while plans:
        try:
            return plans, list(
                client.post("/jobs/apply", {"jobs": [plan.job for plan in plans], **why})["items"]
            )
        except RequestRefused as refused:
            matches = [_JOB_POINTER.match(pointer) for pointer in refused.pointers]
            blocked = {int(match[1]) for match in matches if match is not None}
            if refused.code != "safety_blocked" or not blocked:
                raise
            for n in sorted(blocked):
                tell(
                    f"{plain(plans[n].place)}: skipped: the safety check blocks it; "
                    "see why with `opsjobs safety check`"
                )
            plans = [plan for n, plan in enumerate(plans) if n not in blocked]
    return [], []


def _portions(plans: Sequence[PlannedJob]) -> Iterator[list[PlannedJob]]:
    portion: list[PlannedJob] = []
    size = 0
    for plan in plans:
        length = len(json.dumps(plan.job))
        if portion and (len(portion) == JOBS_A_REQUEST or size + length > BYTES_A_REQUEST):
            yield portion
            portion, size = [], 0
        portion.append(plan)
        size += length
    if portion:
        yield portion


def _render_times(schedule: Json) -> Json:
    return {name: schedule[name] for name in ("cron", "timezone")}


def _schedule(client: Client, job_id: int, body: Json) -> str:
    """Create or update the schedule of this job; return the change.

    Only the times of an existing schedule are taken from the crontab: other fields may have been
    edited.
    """
    path = f"{path_of('job', job_id)}/schedules"
    found, _ = client.items(path, limit=1, name=SCHEDULE)
    if not found:
        client.post(path, body)
        return "created"
    old = found[0]
    canonical: Json = ScheduleDraft.model_validate(body).model_dump(mode="json")
    wanted = {name: canonical[name] for name in TIMES}
    if all(old.get(name) == value for name, value in wanted.items()):
        return "unchanged"
    kept = {name: old[name] for name in canonical if old.get(name) is not None}
    client.put(path_of("schedule", old["id"]), {**kept, **wanted}, etag=f'"{old["version"]}"')
    return "updated"


def _find_obsolete(client: Client, sources: set[str], plans: Sequence[PlannedJob]) -> list[str]:
    """Return the jobs of an earlier import of these crontabs that no line matches any more."""
    now = {plan.job["name"] for plan in plans}
    found, _ = client.items("/jobs", limit=0, tags=TAG)
    return sorted(
        job["name"] for job in found if sources & {*job["tags"]} and job["name"] not in now
    )


def _tell(items: Sequence[Json], gone: Sequence[str], lost: int) -> None:
    for name in gone[:GONE_SHOWN_MAX]:
        tell(
            f"{plain(name)} was imported earlier, but no line matches it now. If it is obsolete: "
            f"opsjobs jobs rm {plain(name)}"
        )
    if len(gone) > GONE_SHOWN_MAX:
        tell(f"and {len(gone) - GONE_SHOWN_MAX} more jobs of earlier imports")
    changed = sum(
        item["change"] != "unchanged" or item["schedule"] != "unchanged" for item in items
    )
    tell(
        f"{pluralize(changed, 'line')} changed something, {len(items) - changed} unchanged, "
        f"{lost} skipped"
    )
    if any(item["schedule"] == "created" for item in items):
        tell("remove these lines from the crontab now, or both will run them")
