"""`opsjobs jobs`: list, run, edit and export jobs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import job_view, options, yaml_documents
from opsjobs.cli.client import RequestRefused, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.inputs import ask_secret, read_secret
from opsjobs.cli.launch import launch, show_preview
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.nouns import Noun, add_remove
from opsjobs.cli.render import Column, Form, ago, show_list, show_one

app = typer.Typer(
    help="Jobs: list, show, run, validate, export and apply them.", no_args_is_help=True
)

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

CHANGES = (
    Column("name", lambda c: c["name"]),
    Column("change", lambda c: c["change"]),
    Column("version", lambda c: c.get("version")),
    Column("safety", lambda c: c.get("verdict")),
    Column("differs at", lambda c: c.get("paths")),
)

Files = Annotated[
    list[str],
    typer.Option(
        "-f",
        "--file",
        metavar="FILE",
        help="A YAML file of jobs; - is standard input. May be repeated.",
    ),
]


@app.command("list")
def list_jobs(output: options.Output = Form.TABLE, limit: options.Limit = 100) -> None:
    """List jobs, the newest first."""
    with connect() as client:
        jobs, more = client.items("/jobs", limit=limit)
    show_list(jobs, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(job: Job, output: options.Output = Form.TABLE) -> None:
    """Show one job: its parameters, its steps, and the non-default fields of its policy."""
    with connect() as client:
        found = client.by_name("job", job)
    if output in (Form.TABLE, Form.WIDE):
        sys.stdout.write("".join(f"{line}\n" for line in job_view.lines(found)))
    else:
        show_one(yaml_documents.readable(found), output)


@app.command()
def run(
    job: Job,
    *,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    exclude: options.Exclude = None,
    params: options.Params = None,
    param_files: options.ParamFiles = None,
    dry_run: options.DryRun = False,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
    as_json: options.AsJson = False,
    raw: options.Raw = False,
    detach: options.Detach = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Run a job, live, on all of its targets or on some of them.

    Prompts for required secrets that are not given, without echo. Exit codes as for `opsjobs run`.
    """
    narrowed = options.selection(targets, groups, selector, exclude, alone=True)
    because = options.because(reason, override_safety)
    with connect() as client:
        found = client.by_name("job", job)
        given = {
            "targets": narrowed,
            "parameters": read_parameters(found, params, param_files),
            **because,
        }
        body = {name: value for name, value in given.items() if value}
        path = f"{path_of('job', found['id'])}/execute"
        if dry_run:
            raise typer.Exit(show_preview(client, path, body, as_json=as_json))
        raise typer.Exit(
            launch(
                client, path, body, as_json=as_json, detach=detach, raw=raw, wait_limit=wait_limit
            )
        )


@app.command()
def apply(
    files: Files,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    override_safety: options.OverrideSafety = None,
    output: options.Output = Form.TABLE,
) -> None:
    """Create or update jobs from files: all of them, or none.

    A file is a stream of YAML documents, each the body of POST /jobs.
    """
    _apply(files, output, dry_run=dry_run, override=override_safety)


@app.command()
def plan(files: Files, *, output: options.Output = Form.TABLE) -> None:
    """Show what `jobs apply` would change, and change nothing."""
    _apply(files, output, dry_run=True)


@app.command()
def export(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="JOB", help="Jobs to export (default: all).")
    ] = None,
    *,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="TAG", help="Only those with this tag. May be repeated."),
    ] = None,
    output: Annotated[
        Literal["yaml", "json"], typer.Option("-o", "--output", help="Output format.")
    ] = "yaml",
) -> None:
    """Write jobs for `jobs apply`, without fields that have their default."""
    with connect() as client:
        ids = [client.by_name("job", name)["name"] for name in names or ()]
        found = client.get("/jobs/export", name=ids or None, tag=tags or None)["jobs"]
    if output == "json":
        show_one({"jobs": found}, Form.JSON)
    else:
        yaml_documents.write(found)


@app.command()
def validate(files: Files) -> None:
    """Check the jobs in these files, and store nothing. Exit code 1 if one is invalid."""
    wrong = 0
    with connect() as client:
        placed = yaml_documents.placed_bodies(files)
        doubles = {id(placed_job): first for first, placed_job in yaml_documents.doubles(placed)}
        for placed_job in placed:
            name = placed_job.body.get("name")
            result = client.post("/jobs/validate", placed_job.body)
            if (first := doubles.get(id(placed_job))) is not None:
                detail = f"{first.at('/name')} has a job of this name, too"
                result["errors"] += [
                    {"pointer": "/name", "detail": detail, "code": "duplicate_name"}
                ]
            valid = result["valid"] and first is None
            wrong += not valid
            for kind in ("errors", "warnings"):
                for fault in result[kind]:
                    where = fault["pointer"] or "the whole"
                    place = placed_job.at(fault["pointer"]) + (f": {name}" if name else "")
                    print(
                        plain(
                            f"{place}: {kind[:-1]} at {where}: {fault['detail']} ({fault['code']})"
                        )
                    )
            if valid:
                tell(f"{plain(name or placed_job.at())} is valid")
    raise typer.Exit(ExitCode.ERROR if wrong else ExitCode.OK)


@app.command()
def clone(
    job: Job,
    *,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name of the copy (default: the job's name with “(copy)”)."
        ),
    ] = None,
) -> None:
    """Copy a job, without its executions and schedules."""
    with connect() as client:
        path = path_of("job", client.by_name("job", job)["id"])
        made = client.post(f"{path}/clone", {"name": name} if name else {})
    tell(f"job {made['name']} is created")
    print(made["id"])


@app.command()
def pause(job: Job) -> None:
    """Pause a job: no execution starts until it is resumed. Running executions continue."""
    _set(job, "pause", "is paused")


@app.command()
def resume(job: Job) -> None:
    """Resume a paused job."""
    _set(job, "resume", "is resumed")


add_remove(
    app,
    Noun("job", COLUMNS),
    "Remove jobs. Their executions stay; their names can be used again.",
)


def _set(job: str, verb: str, words: str) -> None:
    with connect() as client:
        path = path_of("job", client.by_name("job", job)["id"])
        changed = client.post(f"{path}/{verb}")
    tell(f"job {changed['name']} {words}")


def _apply(files: list[str], output: Form, *, dry_run: bool, override: str | None = None) -> None:
    placed = yaml_documents.placed_bodies(files)
    if not placed:
        raise CommandFailed("no job found in these files.", ExitCode.USAGE)
    yaml_documents.check_names(placed, "job")
    with connect() as client:
        body = {"jobs": [one.body for one in placed], **options.because(None, override)}
        try:
            answer = client.post("/jobs/apply", body, dry_run="true" if dry_run else None)
        except RequestRefused as refused:
            raise refused.reworded(yaml_documents.in_places(str(refused), placed, "job")) from None
    show_list(answer["items"], CHANGES, output)
    for item in answer["items"]:
        for warning in item.get("warnings") or ():
            tell(
                plain(
                    f"{item['name']}: warning at {warning['pointer'] or 'the whole'}: "
                    f"{warning['detail']} ({warning['code']})"
                )
            )
    changed = sum(item["change"] != "unchanged" for item in answer["items"])
    tell(
        f"{pluralize(changed, 'job')} {'would change' if dry_run else 'changed'}, "
        f"{len(answer['items']) - changed} unchanged"
    )


# --- parameters


def read_parameters(
    job: Mapping[str, Any], given: list[str] | None, files: list[str] | None
) -> dict[str, str]:
    """Return the parameter values for a launch of this job. Raises CommandFailed.

    Prompts for missing required secrets, if stdin is a terminal. Warns of secrets among the
    arguments, where the process list and the shell's history show them.
    """
    values, from_files = options.pairs("--param", given), options.pairs("--param-file", files)
    if both := sorted(values.keys() & from_files.keys()):
        raise CommandFailed(
            f"{both[0]}: given by --param and by --param-file. Use one of them.", ExitCode.USAGE
        )
    if sum(path == "-" for path in from_files.values()) > 1:
        raise CommandFailed(
            "--param-file: standard input holds one value. Use a file for the others.",
            ExitCode.USAGE,
        )
    declared: Sequence[Mapping[str, Any]] = job.get("parameters") or ()
    for parameter in declared:
        if parameter.get("secret") and parameter["name"] in values:
            name = parameter["name"]
            tell(
                f"warning: -p {name}=… shows a secret in the process list "
                "and in the shell's history. "
                f"Use --param-file {name}=FILE, or leave it out to be asked."
            )
    values |= {name: read_secret(path) for name, path in from_files.items()}
    return values | {
        name: ask_secret(name, otherwise="") for name in _missing_secrets(declared, values)
    }


def _missing_secrets(declared: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> list[str]:
    """Return the names of required secrets without a value.

    Returns none if stdin is not a terminal: the service then reports what is missing.
    """
    if not sys.stdin.isatty():
        return []
    required = [
        p
        for p in declared
        if p.get("secret") and p.get("required") and not p.get("from_credential")
    ]
    return [str(parameter["name"]) for parameter in required if parameter["name"] not in values]
