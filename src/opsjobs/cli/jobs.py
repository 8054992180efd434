"""`opsjobs jobs`: what is stored to be run."""

from __future__ import annotations

from typing import Annotated

import typer

from opsjobs.cli import options
from opsjobs.cli.client import connect, path_of
from opsjobs.cli.launching import launch
from opsjobs.cli.render import Column, Form, ago, show_list, show_one, tell

app = typer.Typer(help="Jobs: list, show, run and delete them.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(metavar="JOB", help="Name, id or uuid.")]

COLUMNS = (
    Column("id", lambda j: j["id"]),
    Column("name", lambda j: j["name"]),
    Column("status", lambda j: j.get("status")),
    Column("actions", lambda j: len(j.get("actions") or ())),
    Column("tags", lambda j: j.get("tags")),
    Column("version", lambda j: j.get("version"), wide=True),
    Column("type", lambda j: j.get("job_type"), wide=True),
    Column("changed", lambda j: ago(j.get("updated_at"))),
    Column("description", lambda j: j.get("description"), wide=True),
)


@app.command("list")
def list_jobs(output: options.Output = Form.TABLE, limit: options.Limit = 100) -> None:
    """List jobs, the newest first."""
    with connect() as client:
        jobs, more = client.items("/jobs", limit=limit)
    show_list(jobs, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(job: Job, output: options.Output = Form.TABLE) -> None:
    """Show one job as it is now."""
    with connect() as client:
        show_one(client.by_name("job", job), output)


@app.command()
def run(
    job: Job,
    *,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    reason: options.Reason = None,
    as_json: options.AsJson = False,
    detach: options.Detach = False,
) -> None:
    """Run a job, live, on all of its targets or on some of them.

    Exit codes as of `opsjobs run`.
    """
    narrowed = options.selection(targets, groups, selector)
    body = {**({"targets": narrowed} if narrowed else {}), **({"reason": reason} if reason else {})}
    with connect() as client:
        path = f"{path_of('job', client.by_name('job', job)['id'])}/execute"
        raise typer.Exit(launch(client, path, body, as_json=as_json, detach=detach))


@app.command()
def delete(job: Job) -> None:
    """Delete a job. Its executions stay; its name is free again."""
    with connect() as client:
        found = client.by_name("job", job)
        client.delete(path_of("job", found["id"]))
    tell(f"job {found['name']} is deleted")
