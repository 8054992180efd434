"""`opsjobs executions`: list, show, follow, cancel and retry executions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, RequestRefused, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.execution_diff import diff
from opsjobs.cli.execution_output import artifacts, logs, render_result_group, search
from opsjobs.cli.launch import launch, parse_wait_limit, watch
from opsjobs.cli.live_view import render_wait_reason
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.render import (
    Column,
    Form,
    ago,
    render_counts,
    render_duration,
    render_error,
    render_wait,
    seconds,
    shorten,
    show_list,
    show_one,
)
from opsjobs.model.execution import ExecutionStatus, RunStatus, TriggeredBy
from opsjobs.model.retry_request import Which

app = typer.Typer(
    help="Executions: list, show, follow, cancel and retry them.", no_args_is_help=True
)

Execution = Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")]


COLUMNS = (
    Column("id", lambda e: e["id"]),
    Column("job", lambda e: e["job_name"]),
    Column("summary", lambda e: shorten(e.get("summary")), sparse=True),
    Column("number", lambda e: e.get("number"), wide=True),
    Column("status", lambda e: e["status"]),
    Column("targets", lambda e: e["total_targets"]),
    Column("outcome", lambda e: render_counts(e.get("counts") or {})),
    Column("started", lambda e: ago(e.get("started_at"))),
    Column("took", lambda e: seconds(e.get("duration_ms"))),
    Column("by", lambda e: e.get("requested_by")),
    Column("via", lambda e: e.get("triggered_by"), wide=True),
    Column("error", lambda e: e.get("error"), wide=True),
    Column("uuid", lambda e: e["uuid"], wide=True),
)


RUN_COLUMNS = (
    Column("target", lambda r: r["target"]["name"]),
    Column("host", lambda r: r["target"]["host"], wide=True),
    Column("status", lambda r: r["status"]),
    Column("step", lambda r: r.get("step")),
    Column("wave", lambda r: None if r.get("wave") is None else r["wave"] + 1),
    Column("took", render_duration),
    Column("waits for", render_wait),
    Column("contact lost", lambda r: ago(r.get("contact_lost_at"))),
    Column("exit", lambda r: r.get("exit_code")),
    Column("attempt", lambda r: r.get("attempt"), wide=True),
    Column("worker", lambda r: r.get("worker"), wide=True),
    Column("cancel proof", lambda r: r.get("cancel_proof")),
    Column("error", lambda r: (r.get("error") or {}).get("code")),
    Column("message", render_error),
)


def _select_columns(runs: Sequence[Mapping[str, Any]], form: Form) -> Sequence[Column]:
    """Return the columns that have values in these runs; all of them for -o wide."""
    if form is Form.WIDE or not runs:
        return RUN_COLUMNS
    always = ("target", "status", "step", "took")
    used = [
        c
        for c in RUN_COLUMNS
        if c.heading in always or any(c.value(run) not in (None, "", "-") for run in runs)
    ]
    one_wave = len({run.get("wave") for run in runs}) < 2
    return [c for c in used if not (c.heading == "wave" and one_wave)]


@app.command("list")
def list_executions(
    job: Annotated[str | None, typer.Option(help="Only those of this job, by name or id.")] = None,
    status: Annotated[
        ExecutionStatus | None, typer.Option(help="Only those with this status.")
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List executions, the newest first."""
    with connect() as client:
        path = (
            "/executions"
            if job is None
            else f"{path_of('job', client.by_name('job', job)['id'])}/executions"
        )
        found, more = client.items(path, limit=limit, status=status)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def show(
    execution: Annotated[
        str | None, typer.Argument(metavar="EXECUTION", help="Id or uuid.")
    ] = None,
    *,
    last: Annotated[bool, typer.Option("--last", help="The newest execution.")] = False,
    status: Annotated[RunStatus | None, typer.Option(help="Only targets with this status.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """Show an execution and its result on each target.

    For a failed target it shows the failed step and the last line of stderr. Above the table: what
    the execution waits for, its retries, and the last good run of its job.
    """
    if (execution is None) != last:
        raise CommandFailed("give an execution, or --last for the newest one.", ExitCode.USAGE)
    with connect() as client:
        path = path_of("execution", _newest(client) if execution is None else execution)
        found = client.get(path)
        runs, more = client.items(f"{path}/targets", limit=limit, status=status)
        good = last_good(client, found)
    if output not in (Form.TABLE, Form.WIDE):
        show_one({**found, "targets": runs, "last_good": good}, output, name="id")
        return
    tell(headline(found, good))
    show_list(runs, _select_columns(runs, output), output)
    options.tell_more(more, limit)


def _newest(client: Client) -> str:
    found, _ = client.items("/executions", limit=1)
    if not found:
        raise CommandFailed("there is no execution yet.", ExitCode.NOT_FOUND)
    return str(found[0]["id"])


@app.command()
def follow(
    execution: Execution,
    as_json: options.AsJson = False,
    raw: options.Raw = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Follow an execution live, from its first line to its end.

    Ctrl-C stops following and cancels nothing. Exit codes as for `opsjobs run`.
    """
    with connect() as client:
        found = client.get(path_of("execution", execution))
        raise typer.Exit(
            watch(
                client,
                found,
                None,
                as_json=as_json,
                raw=raw,
                waits_seconds=parse_wait_limit(wait_limit),
            )
        )


@app.command()
def cancel(
    execution: Execution,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--target", metavar="NAME[,NAME]", help="Only these targets. May be repeated."
        ),
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Cancel an execution, or only some of its targets.

    Waiting targets are not started, and running commands are stopped. Each target records the
    outcome (cancel proof). With `--target` the other targets continue.
    """
    body: Json = {"targets": options.split(target)} if target else {}
    body |= {"reason": reason} if reason else {}
    with connect() as client:
        asked = client.post(f"{path_of('execution', execution)}/cancel", body)
    done = "" if (runs := asked.get("targets")) is None else f"{_render_cancelled(runs)}; "
    tell(
        f"{done}execution {asked['id']} is {asked['status']}: "
        f"see the cancel proof of each target with `opsjobs executions show {asked['id']}`"
    )


def _render_cancelled(runs: Json) -> str:
    counted = (
        (runs["cancelled"], "cancelled"),
        (runs["stopping"], "being stopped"),
        (runs["ended_before"], "had ended before"),
    )
    return ", ".join(f"{pluralize(count, 'target')} {how}" for count, how in counted if count)


@app.command()
def pause(execution: Execution, reason: options.Reason = None) -> None:
    """Pause an execution: start no further targets. Running commands continue."""
    with connect() as client:
        asked = client.post(
            f"{path_of('execution', execution)}/pause", {"reason": reason} if reason else {}
        )
    tell(
        f"execution {asked['id']} is {asked['status']}. Continue with: "
        f"opsjobs executions resume {asked['id']}"
    )


@app.command()
def resume(execution: Execution) -> None:
    """Resume a paused execution; if a gate paused it, open the next wave."""
    with connect() as client:
        asked = client.post(f"{path_of('execution', execution)}/resume")
    if (accepted := asked.get("accepted")) is not None:
        allowed = (
            f"max_fail is {accepted['max_fail']}"
            if accepted.get("max_fail") is not None
            else "the wave's check failed"
        )
        tell(
            f"execution {asked['id']}: {pluralize(accepted['failures'], 'failure')} accepted; "
            f"{allowed}"
        )
    tell(f"execution {asked['id']} is {asked['status']}")
    if (hold := render_wait_reason(asked)) is not None:
        tell(hold)


@app.command()
def retry(
    execution: Execution,
    *,
    which: Annotated[
        Which | None, typer.Option(help="Only targets with this result (default: unsuccessful).")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--target", metavar="NAME[,NAME]", help="Only these targets. May be repeated."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Include targets that were already retried.")
    ] = False,
    dry_run: options.DryRun = False,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
    as_json: options.AsJson = False,
    raw: options.Raw = False,
    detach: options.Detach = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Retry the failed targets of an execution, live, starting at the step that failed.

    Starts a new execution; steps that succeeded are not repeated. Exit codes as for `opsjobs run`.
    """
    if which is not None and target:
        raise CommandFailed("--which and --target exclude each other.", ExitCode.USAGE)
    body: Json = (
        {"targets": options.split(target)} if target else {"which": which or Which.UNSUCCESSFUL}
    )
    body |= options.because(reason, override_safety) | ({"again": True} if again else {})
    with connect() as client:
        path = f"{path_of('execution', execution)}/retry"
        if dry_run:
            _show_retry(client.post(path, {**body, "dry_run": True}), as_json=as_json)
            return
        raise typer.Exit(
            launch(
                client, path, body, as_json=as_json, detach=detach, raw=raw, wait_limit=wait_limit
            )
        )


RETRIED = (
    Column("target", lambda t: t["name"]),
    Column("host", lambda t: t["host"], wide=True),
    Column("status", lambda t: t["status"]),
    Column("error", lambda t: t.get("error")),
)


def _show_retry(preview: Json, *, as_json: bool) -> None:
    if as_json:
        show_one(preview, Form.JSON)
        return
    tell(
        f"would retry {pluralize(preview['total_targets'], 'target')} of execution "
        f"{preview['execution']}, starting at the step that failed:"
    )
    show_list(preview["targets"], RETRIED, Form.TABLE)
    if preview["retries"]:
        before = ", ".join(
            f"{retry['id']} ({retry['status']})" if retry["status"] else f"{retry['id']}"
            for retry in preview["retries"]
        )
        tell(f"already retried by {before}: use --again to retry them again")
    if preview["needs_approval"]:
        tell("it would need an approval")


@app.command()
def groups(
    execution: Execution,
    *,
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise",
            help="Ignore what differs on every machine: its name, numbers, times, hex.",
        ),
    ] = False,
    stream: Annotated[
        Literal["stdout", "stderr"] | None, typer.Option(help="Compare only this stream.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="KEY", help="Compare only this action.")
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Compare runs that have not ended, too.")
    ] = False,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """Group the targets of an execution by identical result."""
    compared = {
        "normalise": normalise or None,
        "stream": stream,
        "action": action,
        "running": running or None,
    }
    with connect() as client:
        path = f"{path_of('execution', execution)}/groups"
        found, more = client.items(path, limit=limit, **compared)
    if output in (Form.TABLE, Form.WIDE):
        sys.stdout.write("\n".join(render_result_group(group) for group in found))
    else:
        show_list(found, (), output, name="digest")
    options.tell_more(more, limit)


app.command("diff")(diff)
app.command("logs")(logs)
app.command("artifacts")(artifacts)
app.command("search")(search)


def last_good(client: Client, e: Json) -> Json | None:
    """Return the last completed execution of the same job before this one, or None."""
    if e.get("job_id") is None:
        return None
    try:
        found, _ = client.items(
            f"/jobs/{e['job_id']}/executions",
            limit=LAST_GOOD_SEARCHED,
            status=ExecutionStatus.COMPLETED,
        )
    except RequestRefused:  # the job was deleted, or is not visible to the caller
        return None
    return next(
        (
            {name: one[name] for name in ("id", "finished_at")}
            for one in found
            if one["id"] < e["id"]
        ),
        None,
    )


LAST_GOOD_SEARCHED = 20


def headline(e: Json, good: Json | None) -> str:
    """Return the summary of an execution in a few lines."""
    number = "" if e.get("number") is None else f" (number {e['number']})"
    duration = f", {seconds(e['duration_ms'])}" if e.get("duration_ms") is not None else ""
    asked = (
        f"started by {plain(e.get('requested_by'))} ({e.get('triggered_by')}), "
        f"{ago(e.get('created_at'))}"
    )
    lines = [
        f"execution {e['id']} of {plain(e['job_name'])}{number}: {e['status']}{duration}; {asked}"
    ]
    if e.get("summary"):
        lines.append(plain(e["summary"]))
    lines += [plain(line) for line in (e.get("error"), render_wait_reason(e)) if line]
    if e.get("parent") is not None and e.get("triggered_by") == TriggeredBy.RETRY:
        lines.append(f"retries execution {e['parent']}")
    if e.get("retries"):
        lines.append(f"retried by {', '.join(str(one) for one in e['retries'])}")
    if good is not None and e["status"] != ExecutionStatus.COMPLETED:
        lines.append(f"last good run: execution {good['id']}, {ago(good['finished_at'])}")
    return "\n".join(lines)
