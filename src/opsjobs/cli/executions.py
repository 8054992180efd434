"""`opsjobs executions`: what ran, what runs, what it said."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.artifacts import artifacts
from opsjobs.cli.client import Json, connect, path_of
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.launching import launch, patience
from opsjobs.cli.render import Column, Form, ago, counted, counts, plain, seconds, show_list, show_one, tell
from opsjobs.cli.watch import watch
from opsjobs.model.again import Which
from opsjobs.model.execution import ExecutionStatus, RunStatus

app = typer.Typer(help="Executions: what ran, what runs, what it said.", no_args_is_help=True)

Execution = Annotated[str, typer.Argument(metavar="EXECUTION", help="Id or uuid.")]


def waits_for(run: Mapping[str, Any]) -> str | None:
    """What a waiting run waits for: `timer`, `barrier: swap`, `hold: maintenance: new disk`, `a worker: zone paris has none`."""
    kind, what = run.get("waiting_for"), run.get("awaits")
    return f"{kind}: {what}" if kind and what else kind or what


COLUMNS = (
    Column("id", lambda e: e["id"]),
    Column("job", lambda e: e["job_name"]),
    Column("number", lambda e: e.get("number"), wide=True),
    Column("status", lambda e: e["status"]),
    Column("targets", lambda e: e["total_targets"]),
    Column("outcome", lambda e: counts(e.get("counts") or {})),
    Column("started", lambda e: ago(e.get("started_at"))),
    Column("took", lambda e: seconds(e.get("duration_ms"))),
    Column("by", lambda e: e.get("requested_by")),
    Column("via", lambda e: e.get("triggered_by"), wide=True),
    Column("uuid", lambda e: e["uuid"], wide=True),
)
RUN_COLUMNS = (
    Column("target", lambda r: r["target"]["name"]),
    Column("host", lambda r: r["target"]["host"], wide=True),
    Column("status", lambda r: r["status"]),
    Column("waits for", waits_for, wide=True),
    Column("exit", lambda r: r.get("exit_code")),
    Column("attempt", lambda r: r.get("attempt"), wide=True),
    Column("worker", lambda r: r.get("worker"), wide=True),
    Column("cancel proof", lambda r: r.get("cancel_proof"), wide=True),
    Column("error", lambda r: (r.get("error") or {}).get("code")),
    Column("message", lambda r: (r.get("error") or {}).get("message")),
)


@app.command("list")
def list_executions(
    job: Annotated[str | None, typer.Option(help="Only those of this job.")] = None,
    status: Annotated[ExecutionStatus | None, typer.Option(help="Only those with this status.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 50,
) -> None:
    """List executions, the newest first."""
    with connect() as client:
        path = "/executions" if job is None else f"{path_of('job', client.by_name('job', job)['id'])}/executions"
        found, more = client.items(path, limit=limit, status=status)
    show_list(found, COLUMNS, output, name="id")
    options.tell_more(more, limit)


@app.command()
def show(
    execution: Execution,
    status: Annotated[RunStatus | None, typer.Option(help="Only targets with this status.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """Show an execution and how it went on each target."""
    with connect() as client:
        path = path_of("execution", execution)
        found = client.get(path)
        runs, more = client.items(f"{path}/targets", limit=limit, status=status)
    if output not in (Form.TABLE, Form.WIDE):
        show_one({**found, "targets": runs}, output, name="id")
        return
    tell(_headline(found))
    show_list(runs, RUN_COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def follow(execution: Execution, as_json: options.AsJson = False, wait_limit: options.WaitLimit = None) -> None:
    """Show an execution from its first line to its end, live.

    Ctrl-C leaves and cancels nothing. Exit codes as of `opsjobs run`.
    """
    with connect() as client:
        found = client.get(path_of("execution", execution))
        raise typer.Exit(watch(client, found, None, as_json=as_json, waits_seconds=patience(wait_limit)))


@app.command()
def logs(
    execution: Execution,
    target: Annotated[str | None, typer.Option("-t", "--target", help="Only this target's lines.")] = None,
    stream: Annotated[
        str | None, typer.Option(metavar="stdout|stderr", help="With -t: exactly the bytes of this stream.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log entries, one line of JSON each.")] = False,
) -> None:
    """Print what an execution has written so far."""
    if stream is not None and (stream not in ("stdout", "stderr") or target is None):
        raise CommandFailed("--stream is stdout or stderr, and goes with -t TARGET.", Exit.USAGE)
    with connect() as client:
        form = "ndjson" if as_json else "text"
        for portion in client.raw(f"{path_of('execution', execution)}/log", format=form, target=target, stream=stream):
            sys.stdout.buffer.write(portion)
    sys.stdout.buffer.flush()


@app.command()
def cancel(execution: Execution, reason: options.Reason = None) -> None:
    """Cancel an execution.

    Targets that wait are not started, commands that run are ended, and each tells what became of it (cancel proof).
    """
    with connect() as client:
        asked = client.post(f"{path_of('execution', execution)}/cancel", {"reason": reason} if reason else {})
    tell(f"execution {asked['id']} is {asked['status']}: `opsjobs executions show {asked['id']}` has the proof for each target")


@app.command()
def pause(execution: Execution, reason: options.Reason = None) -> None:
    """Start nothing new of an execution; what runs goes on."""
    with connect() as client:
        asked = client.post(f"{path_of('execution', execution)}/pause", {"reason": reason} if reason else {})
    tell(f"execution {asked['id']} is {asked['status']}: `opsjobs executions resume {asked['id']}` lets it go on")


@app.command()
def resume(execution: Execution) -> None:
    """Let a paused execution go on; where it stands between two waves, with the next one."""
    with connect() as client:
        asked = client.post(f"{path_of('execution', execution)}/resume")
    tell(f"execution {asked['id']} is {asked['status']}")


@app.command()
def retry(
    execution: Execution,
    *,
    which: Annotated[Which | None, typer.Option(help="Only targets that ended so (default: unsuccessful).")] = None,
    target: Annotated[
        list[str] | None, typer.Option("-t", "--target", metavar="NAME[,NAME]", help="Just these targets. May be repeated.")
    ] = None,
    reason: options.Reason = None,
    override_safety: options.OverrideSafety = None,
    as_json: options.AsJson = False,
    detach: options.Detach = False,
    wait_limit: options.WaitLimit = None,
) -> None:
    """Do again, live, what did not end well, from the step where it went wrong.

    It is a new execution; what succeeded is not run again. Exit codes as of `opsjobs run`.
    """
    if which is not None and target:
        raise CommandFailed("--which and --target do not go together: name one of the two.", Exit.USAGE)
    body: Json = {"targets": options.split(target)} if target else {"which": which or Which.UNSUCCESSFUL}
    body |= options.because(reason, override_safety)
    with connect() as client:
        raise typer.Exit(
            launch(
                client, f"{path_of('execution', execution)}/retry", body, as_json=as_json, detach=detach, wait_limit=wait_limit
            )
        )


@app.command()
def groups(execution: Execution, output: options.Output = Form.TABLE, limit: options.Limit = 50) -> None:
    """Show which targets came to the same."""
    with connect() as client:
        found, more = client.items(f"{path_of('execution', execution)}/groups", limit=limit)
    if output in (Form.TABLE, Form.WIDE):
        sys.stdout.write("\n".join(block(group) for group in found))
    else:
        show_list(found, (), output, name="digest")
    options.tell_more(more, limit)


app.command("artifacts")(artifacts)

GROUP_NAMES_SHOWN = 8


def block(group: dict[str, object]) -> str:
    """One group of targets with the same outcome: who, how it ended, and what it said."""
    targets = group.get("targets")
    names = [plain(t["name"] if isinstance(t, dict) else t) for t in targets] if isinstance(targets, list) else []
    who = ", ".join(names[:GROUP_NAMES_SHOWN]) + (" …" if len(names) > GROUP_NAMES_SHOWN else "")
    exit_code = "" if group.get("exit_code") is None else f", exit {group['exit_code']}"
    said = str(group.get("stdout") or "").rstrip("\n")
    body = "".join(f"    {plain(line)}\n" for line in said.split("\n")) if said else ""
    return f"{counted(int(str(group['count'])), 'target')}: {group['status']}{exit_code}: {who}\n{body}"


def _headline(e: Json) -> str:
    number = "" if e.get("number") is None else f" (number {e['number']})"
    standing = e.get("error") or (e.get("waiting_on") or {}).get("reason")
    error = f"\n{plain(standing)}" if standing else ""
    by = f"{plain(e.get('requested_by'))} by {e.get('triggered_by')}, {ago(e.get('created_at'))}"
    took = f", {seconds(e['duration_ms'])}" if e.get("duration_ms") is not None else ""
    return f"execution {e['id']} of {plain(e['job_name'])}{number}: {e['status']}{took}; for {by}{error}"
