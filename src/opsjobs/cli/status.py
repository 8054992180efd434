"""`opsjobs status` and `opsjobs config`: state of the service, settings of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect
from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.render import (
    Column,
    Form,
    elapsed,
    pluralize,
    render_counts,
    show_list,
    show_one,
    tell,
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


def status(output: options.Output = Form.TABLE) -> None:
    """Show the state of the service: components, workers, queues."""
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
    for heading, columns in (("workers", WORKER_COLUMNS), ("queues", QUEUE_COLUMNS)):
        print()
        show_list(found[heading], columns, output)


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
        "database": f"PostgreSQL {database['version']}, schema {database['schema']}{schema}",
        "redis": "away: slower, but correct" if found["redis"] == "away" else found["redis"],
        "scheduler": f"{scheduler['status']}, "
        + ("never seen" if ticked is None else f"ticked {elapsed(ticked)}"),
        "executions": render_counts(found["executions"]),
        "log": (
            f"{found['log']['bytes'] / (1 << 20):.1f} MiB, "
            f"{pluralize(found['events_unpublished'], 'event')} to publish"
        ),
        "stream clients": found["streams"],
    }


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
