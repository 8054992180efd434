"""`opsjobs status` and `opsjobs config`: state of the service, settings of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect
from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.messages import pluralize, tell
from opsjobs.cli.render import (
    Column,
    Form,
    elapsed,
    render_counts,
    render_time,
    seconds,
    show_list,
    show_one,
    size,
)
from opsjobs.settings import Settings, SettingsError, describe, for_service, load, unknown

config = typer.Typer(
    help="Settings: show their values and origins, and check them.", no_args_is_help=True
)

COLUMNS = (
    Column("name", lambda s: s["name"]),
    Column("value", lambda s: s["value"]),
    Column("origin", lambda s: s["origin"]),
    Column("default", lambda s: s["default"], wide=True),
    Column("what", lambda s: s["description"], wide=True),
)


WORKER_COLUMNS = (
    Column("worker", lambda w: w["name"]),
    Column("zone", lambda w: w["zone"]),
    Column("alive", lambda w: w["alive"]),
    Column("running", lambda w: w["running"]),
    Column("concurrency", lambda w: w["concurrency"]),
    Column("renewed", lambda w: elapsed(w["renewed_seconds_ago"])),
    Column("id", lambda w: w["id"], wide=True),
)
QUEUE_COLUMNS = (
    Column("zone", lambda q: q["zone"]),
    Column("waiting", lambda q: q["waiting"]),
    Column("ready", lambda q: q["ready"]),
    Column("running", lambda q: q["running"]),
    Column(
        "oldest ready",
        lambda q: None if q["oldest_ready_seconds"] is None else f"{q['oldest_ready_seconds']:g} s",
    ),
    Column("workers", lambda q: q["workers"]),
)


INTEGRATION_COLUMNS = (
    Column("service", lambda i: i["name"]),
    Column("host", lambda i: i["host"]),
    Column("profile", lambda i: i["profile"]),
    Column("state", lambda i: i["state"]),
    Column("since", lambda i: render_time(i["since"])),
    Column("waiting", lambda i: i["waiting"]),
    Column("failing in", lambda i: _failing_in(i["processes"])),
    Column("last error", lambda i: i["last_error"]),
)


def status(output: options.Output = Form.TABLE) -> None:
    """Show the state of the service: components, workers, queues, connected services."""
    with connect() as client:
        found = client.get("/status")
        url = client.endpoint.url
    if output not in (Form.TABLE, Form.WIDE):
        show_one(found, output, name="status")
        return
    reasons = {f"! {n}": reason["detail"] for n, reason in enumerate(found["reasons"], start=1)}
    show_one(
        {
            "opsjobs": f"{found['version']} at {url}",
            "status": found["status"],
            **reasons,
            **_parts(found),
        },
        output,
    )
    tables = (
        ("workers", WORKER_COLUMNS),
        ("queues", QUEUE_COLUMNS),
        ("integrations", INTEGRATION_COLUMNS),
    )
    for heading, columns in tables:
        if heading == "integrations" and not found[heading]:
            continue
        print()
        show_list(found[heading], columns, output)


def _failing_in(processes: Sequence[Mapping[str, Any]]) -> str | None:
    failing = [each["process"] for each in processes if each["state"] in ("failing", "open")]
    return ", ".join(failing) or None


FIGURE_COLUMNS = (
    Column("job type", lambda f: f.get("job_type") or "all"),
    Column("executions", lambda f: f["executions"]["total"]),
    Column("completed", lambda f: _percent(f["success_share"])),
    Column("runs", lambda f: f["runs"]["total"]),
    Column("succeeded", lambda f: _percent(f["run_success_share"])),
    Column("median", lambda f: _seconds(f["duration_seconds"]["median"])),
    Column("p95", lambda f: _seconds(f["duration_seconds"]["p95"])),
    Column("queued p95", lambda f: _seconds(f["queue_seconds"]["p95"])),
)
BUSY_COLUMNS = (
    Column("job", lambda j: j["job_name"]),
    Column("executions", lambda j: j["executions"]),
    Column("completed", lambda j: _percent(j["success_share"])),
)


def stats(output: options.Output = Form.TABLE) -> None:
    """Show figures of the last hour, day and week: success, duration, busiest jobs.

    Only executions that you may see count. Durations are at most 5 per cent off.
    """
    with connect() as client:
        found = client.get("/stats")
    if output not in (Form.TABLE, Form.WIDE):
        show_one(found, output, name="at")
        return
    for number, period in enumerate(found["periods"]):
        if number:
            print()
        print(f"Last {period['period']}, since {render_time(period['since'])}")
        print(f"  executions: {render_counts(period['executions']['by_status'])}")
        print(f"  runs: {render_counts(period['runs']['by_status'])}")
        if not period["executions"]["total"]:
            continue
        kinds = period["job_types"] if len(period["job_types"]) > 1 else []
        show_list([period, *kinds], FIGURE_COLUMNS, output)
        print()
        show_list(period["busiest_jobs"], BUSY_COLUMNS, output)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share * 100:.1f} %"


def _seconds(given: float | None) -> str | None:
    return None if given is None else seconds(given * 1_000)


def _parts(found: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of the components that are not workers or queues."""
    database, scheduler = found["database"], found["scheduler"]
    schema = (
        ""
        if database["schema"] == database["schema_needed"]
        else f", needs {database['schema_needed']}: `opsjobs db upgrade`"
    )
    ticked = scheduler["ticked_seconds_ago"]
    return {
        "python": found["python"],
        "database": f"PostgreSQL {database['version']}, schema {database['schema']}{schema}",
        "redis": _redis(found),
        "scheduler": f"{scheduler['status']}, "
        + ("never seen" if ticked is None else f"ticked {elapsed(ticked)}"),
        "schedules": _schedules(found["schedules"]),
        "executions": render_counts(found["executions"]),
        "circuits": render_counts(found["circuits"]),
        "storage": _storage(found["storage"]),
        "log": (
            f"{found['log']['bytes'] / (1 << 20):.1f} MiB, "
            f"{pluralize(found['events_unpublished'], 'event')} to publish"
        ),
        "stream clients": found["streams"],
    }


def _redis(found: Mapping[str, Any]) -> str:
    if found["redis"] == "away":
        return "away: slower, but correct"
    version = found["redis_version"]
    return f"{found['redis']}, version {version}" if version else str(found["redis"])


def _schedules(found: Mapping[str, Any]) -> str:
    parts = [f"{found['total']}"]
    if found["paused"]:
        parts.append(f"{found['paused']} paused")
    if found["late"]:
        parts.append(f"{found['late']} LATE: does a scheduler run?")
    if found["next_due_at"]:
        parts.append(f"next at {render_time(found['next_due_at'])}")
    return ", ".join(parts)


def _storage(found: Mapping[str, Any]) -> str:
    limit = found["file_bytes_limit"]
    most = f" of {size(limit)}" if limit else ""
    return f"database {size(found['database_bytes'])}, files {size(found['file_bytes'])}{most}"


@config.command("show")
def show(output: options.Output = Form.TABLE) -> None:
    """Show every setting with its value and its origin; secrets are masked."""
    show_list([asdict(doc) for doc in describe()], COLUMNS, output)
    for name, similar in unknown().items():
        tell(
            f"{name} is set, but is not a setting."
            + (f" Did you mean {similar}?" if similar else "")
        )
    _load_settings(os.environ)


@config.command()
def check(
    production: Annotated[
        bool, typer.Option("--production", help="Check as if ENVIRONMENT were production.")
    ] = False,
) -> None:
    """Check whether api, worker and scheduler can start with these settings.

    Exit code 1 and every reason if not.
    """
    for_service(
        _load_settings({**os.environ, "ENVIRONMENT": "production"} if production else os.environ)
    )
    tell("the settings are valid")


def _load_settings(environ: Mapping[str, str]) -> Settings:
    try:
        return load(environ)
    except SettingsError as error:
        raise CommandFailed(f"the settings are invalid:\n{error}") from None
