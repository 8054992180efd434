"""`opsjobs targets runs`, and the health of a target in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect, path_of
from opsjobs.cli.render import (
    Column,
    Form,
    ago,
    render_duration,
    render_error,
    render_wait,
    shorten,
    show_list,
)
from opsjobs.model.execution import RunStatus

COLUMNS = (
    Column("execution", lambda r: r["execution"]["id"]),
    Column("job", lambda r: r["execution"]["job_name"]),
    Column("summary", lambda r: shorten(r["execution"].get("summary")), sparse=True),
    Column("status", lambda r: r["status"]),
    Column("exit", lambda r: r.get("exit_code")),
    Column("launched", lambda r: ago(r["execution"]["created_at"])),
    Column("took", render_duration),
    Column("by", lambda r: r["execution"]["requested_by"], wide=True),
    Column("via", lambda r: r["execution"]["triggered_by"], wide=True),
    Column("waits for", render_wait),
    Column("error", lambda r: (r.get("error") or {}).get("code")),
    Column("message", render_error),
)


def list_runs(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Name, id or uuid.")],
    *,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs with this status.")] = None,
    job: Annotated[
        str | None, typer.Option(metavar="JOB", help="Only runs of this job (name or id).")
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 20,
) -> None:
    """List the runs on a target in all executions, the newest first."""
    with connect() as client:
        found = client.by_name("target", target)
        runs, more = client.items(
            f"{path_of('target', found['id'])}/runs", limit=limit, status=status, job=job
        )
    show_list(runs, COLUMNS, output)
    options.tell_more(more, limit)


def health_in_words(health: Mapping[str, Any] | None) -> str | None:
    """Return the health of a target with its reason, such as `unhealthy: auth_failed`."""
    if health is None:
        return None
    words = [str(health["status"])]
    if circuit := health["circuit"]:
        words.append(f"circuit {circuit['state']} after {circuit['code']}")
    if last := health["last_run"]:
        words.append(f"last run {last['status']} {ago(last['at'])}")
    if health["waiting_runs"]:
        words.append(f"{health['waiting_runs']} waiting")
    if health["dead_letters"]:
        words.append(f"{health['dead_letters']} dead letters")
    return ", ".join(words)
