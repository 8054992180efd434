"""`opsjobs targets` and `opsjobs groups`: targets, and named sets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from opsjobs.cli import (
    importing_targets,
    options,
    target_access,
    target_changes,
)
from opsjobs.cli.client import PAGE_ITEMS, Client, Json, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.nouns import Noun, add_list, add_remove, add_show
from opsjobs.cli.options import parse_labels
from opsjobs.cli.render import (
    Column,
    Form,
    ago,
    render_duration,
    render_error,
    render_wait,
    shorten,
    show_list,
    show_one,
)
from opsjobs.cli.target_changes import warn_of_twins_of, warn_of_zones
from opsjobs.cli.winrm_options import WinrmFields
from opsjobs.model.execution import RunStatus
from opsjobs.model.target import HostKeyPolicy, Transport
from opsjobs.model.target_health import HealthStatus

app = typer.Typer(help="Targets: the machines, and their host keys.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(metavar="TARGET", help="Name, id or uuid.")]
TARGET = Noun(
    "target",
    (
        Column("id", lambda t: t["id"]),
        Column("name", lambda t: t["name"]),
        Column("host", lambda t: t["host"]),
        Column("port", lambda t: t.get("port")),
        Column("transport", lambda t: t.get("transport")),
        Column("credential", lambda t: t.get("credential")),
        Column("labels", lambda t: t.get("labels")),
        Column("health", lambda t: (t.get("health") or {}).get("status")),
        Column("groups", lambda t: t.get("groups")),
        Column("host keys", target_access.render_host_key_trust),
        Column("zone", lambda t: t.get("zone"), wide=True),
        Column("slots", lambda t: t.get("slots"), wide=True),
        Column("jump", lambda t: t.get("jump"), wide=True),
    ),
)


RESOLVED = (
    Column("id", lambda t: t["id"]),
    Column("name", lambda t: t["name"]),
    Column("host", lambda t: t["host"]),
)
RUN_COLUMNS = (
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
LABELS_SHOWN = 5
LABELS = (
    Column("label", lambda v: v["key"]),
    Column("value", lambda v: v["value"]),
    Column("targets", lambda v: v["targets"]),
)


@app.command("list")
def list_targets(
    selector: options.Selector = None,
    group: Annotated[
        str | None, typer.Option("-g", "--group", help="Only targets of this group.")
    ] = None,
    health: Annotated[
        HealthStatus | None, typer.Option(help="Only targets with this health.")
    ] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List targets by name; numbers in names are sorted by value: lab-2 before lab-10."""
    with connect() as client:
        found, more = client.items(
            "/targets", limit=limit, selector=selector, groups=group, health=health
        )
    show_list(found, TARGET.columns, output)
    options.tell_more(more, limit)


@app.command()
def resolve(
    *,
    targets: options.Targets = None,
    groups: options.Groups = None,
    selector: options.Selector = None,
    exclude: options.Exclude = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """Show the targets that a selection finds now, and why a launch on it would be refused.

    Exit code: 4 if a target or group does not exist.
    """
    selected = options.selection(targets, groups, selector, exclude)
    if not selected:
        raise CommandFailed(options.NO_TARGETS, ExitCode.USAGE)
    with connect() as client:
        found, first = _resolve(client, selected, limit)
    if output in (Form.JSON, Form.YAML):
        show_one({**first, "items": found}, output)
    else:
        show_list(found, RESOLVED, output)
        excluded = f", {first['excluded']} excluded" if first["excluded"] else ""
        tell(f"{pluralize(first['count'], 'target')}{excluded}{_labels_in_words(first['labels'])}")
        options.tell_more(first["count"] > len(found), limit)
    for refusal in first["refusals"]:
        tell(plain(refusal["detail"]))
    if any(refusal["code"] == "unknown_target" for refusal in first["refusals"]):
        raise typer.Exit(ExitCode.NOT_FOUND)


@app.command()
def labels(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Only this label, with all its values.")
    ] = None,
    output: options.Output = Form.TABLE,
) -> None:
    """List the labels that targets have, and the number of targets with each value."""
    with connect() as client:
        found = client.get("/targets/labels", key=key)["labels"]
    show_list(
        [{"key": one["key"], **value} for one in found for value in one["values"]], LABELS, output
    )
    if left_out := [one["key"] for one in found if one["more"]]:
        tell(f"{', '.join(map(plain, left_out))}: there are more values, only 50 are shown")


@app.command()
def show(target: Target, output: options.Output = Form.TABLE) -> None:
    """Show one target, with the fingerprints of its host keys and its maintenance."""
    with connect() as client:
        found = TARGET.find(client, target)
        if output in (Form.TABLE, Form.WIDE):
            state = client.get(f"{TARGET.path(found)}/maintenance")["maintenance"]
            shown: Json = {"host_keys": target_access.fingerprints(found.get("host_keys") or ())}
            shown["health"] = health_in_words(found.get("health"))
            found = {**found, **shown, "maintenance": target_changes.maintenance_in_words(state)}
        show_one(found, output)


@app.command()
@options.spread(WinrmFields, "winrm")
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web-1.")],
    host: Annotated[
        str | None, typer.Argument(help="Address or host name (default: the name).")
    ] = None,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Port (default: 22; with transport winrm 5986, over http 5985).",
        ),
    ] = None,
    credential: Annotated[
        str | None,
        typer.Option("-c", "--credential", help="Name of the credential to log in with."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="A label. May be repeated."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("-g", "--group", metavar="GROUP[,GROUP]", help="Groups that it belongs to."),
    ] = None,
    jump: Annotated[
        str | None, typer.Option(help="Name of the target to use as jump host.")
    ] = None,
    zone: Annotated[str, typer.Option(help="The zone whose workers reach it.")] = "default",
    slots: Annotated[int, typer.Option(min=1, help="Maximum number of runs on it at a time.")] = 10,
    transport: Annotated[Transport, typer.Option(help="How it is reached.")] = Transport.SSH,
    host_key_policy: Annotated[
        HostKeyPolicy, typer.Option(help="How host keys are verified.")
    ] = HostKeyPolicy.PINNED,
    host_key: Annotated[
        list[str] | None,
        typer.Option(
            "--host-key",
            metavar="KEY",
            help="A host key, or with policy ca the CA's; `@revoked KEY` for a revoked one.",
        ),
    ] = None,
    winrm: WinrmFields,
) -> None:
    """Add a target.

    Then trust its host key: `opsjobs targets trust NAME`.
    """
    body: Json = {
        "name": name,
        "host": host or name,
        **({} if port is None else {"port": port}),
        **({} if not (given := winrm.body()) else {"winrm": given}),
        "transport": transport,
        "labels": parse_labels("--label", label),
        "groups": options.split(group),
        "credential": credential,
        "jump": jump,
        "zone": zone,
        "slots": slots,
        "host_key_policy": host_key_policy,
        "host_keys": host_key or [],
    }
    with connect() as client:
        made = client.post("/targets", body)
        print(made["id"])
        warn_of_twins_of(client, made)
        warn_of_zones(client, [zone] if zone != "default" else [])
    untrusted = (
        transport is Transport.SSH and host_key_policy is HostKeyPolicy.PINNED and not host_key
    )
    hint = f". Trust its host key with: opsjobs targets trust {name}" if untrusted else ""
    tell(f"target {name} is added{hint}")


app.command("import")(importing_targets.import_targets)


app.command("set")(target_changes.set_)
app.command("label")(target_changes.label)
app.command("maintenance")(target_changes.maintenance)


@app.command("runs")
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
    show_list(runs, RUN_COLUMNS, output)
    options.tell_more(more, limit)


app.command("test")(target_access.try_connection)
app.command("trust")(target_access.trust)


add_remove(app, TARGET, "Remove targets. Their executions stay.")


def _resolve(client: Client, selected: Json, limit: int) -> tuple[list[Json], Json]:
    """Return at most `limit` targets of a selection (0: all), and the whole first answer."""
    first = page = client.post("/targets/resolve", {"targets": selected}, limit=PAGE_ITEMS)
    found: list[Json] = list(first["items"])
    while page["next"] is not None and not 0 < limit <= len(found):
        page = client.post(
            "/targets/resolve", {"targets": selected}, limit=PAGE_ITEMS, cursor=page["next"]
        )
        found += page["items"]
    return found[:limit] if limit else found, first


def _labels_in_words(labels: Sequence[Json]) -> str:
    """Return the most frequent value of the first labels, such as `: env=prod 300`."""
    shown = [
        f"{plain(one['key'])}={plain(one['values'][0]['value'])} {one['values'][0]['targets']}"
        for one in labels[:LABELS_SHOWN]
    ]
    return f" ({', '.join(shown)})" if shown else ""


# --- groups


groups = typer.Typer(help="Groups: named sets of targets.", no_args_is_help=True)

Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name, id or uuid.")]
Description = Annotated[str | None, typer.Option(help="A description.")]
Members = Annotated[
    list[str] | None,
    typer.Option(
        "-t", "--target", metavar="NAME[,NAME]", help="Targets of the group. May be repeated."
    ),
]
Subgroups = Annotated[
    list[str] | None,
    typer.Option(
        "-g",
        "--group",
        metavar="GROUP[,GROUP]",
        help="Groups whose targets belong to it, too. May be repeated.",
    ),
]
GROUP = Noun(
    "group",
    (
        Column("id", lambda g: g["id"]),
        Column("name", lambda g: g["name"]),
        Column("targets", lambda g: g["direct_targets"]),
        Column("selector", lambda g: g["selector"]),
        Column("groups", lambda g: g["groups"]),
        Column("description", lambda g: g["description"]),
        Column("changed", lambda g: ago(g["updated_at"]), wide=True),
    ),
    route="target-group",
)


add_list(groups, GROUP, "List groups by name.")
add_show(groups, GROUP, "Show one group.")


@groups.command("targets")
def list_group_targets(
    group: Group, output: options.Output = Form.TABLE, limit: options.Limit = 200
) -> None:
    """List all targets of a group now: named, by selector, and of its groups."""
    with connect() as client:
        found, more = client.items(f"{GROUP.path(GROUP.find(client, group))}/targets", limit=limit)
    show_list(found, TARGET.columns, output)
    options.tell_more(more, limit)


@groups.command("add")
def add_group(
    name: Annotated[str, typer.Argument(help="The name, such as web.")],
    *,
    description: Description = None,
    members: Members = None,
    subgroups: Subgroups = None,
    selector: options.Selector = None,
) -> None:
    """Add a group of named targets, of targets with certain labels, or of other groups."""
    with connect() as client:
        made = client.post(
            "/target-groups",
            {"name": name, **_build_group(description, members, subgroups, selector)},
        )
    print(made["id"])
    tell(f"group {name} is added")


@groups.command("set")
def change_group(
    group: Group,
    *,
    name: Annotated[str | None, typer.Option(help="The new name.")] = None,
    description: Description = None,
    members: Members = None,
    subgroups: Subgroups = None,
    selector: options.Selector = None,
) -> None:
    """Change a group. Options that are not given change nothing.

    --target and --group replace the whole list.
    """
    with connect() as client:
        found = GROUP.find(client, group)
        kept = {field: found[field] for field in ("name", "description", "selector", "groups")}
        given = _build_group(description, members, subgroups, selector)
        client.put(GROUP.path(found), {**kept, **given, **({"name": name} if name else {})})
    tell(f"group {name or found['name']} is changed")


add_remove(groups, GROUP, "Remove groups. Their targets stay.")


def _build_group(
    description: str | None,
    members: list[str] | None,
    subgroups: list[str] | None,
    selector: str | None,
) -> Json:
    """Return the given fields; an empty selector removes the selector."""
    body: Json = {
        "description": description,
        "targets": options.split(members) if members is not None else None,
        "groups": options.split(subgroups) if subgroups is not None else None,
    }
    given = {field: value for field, value in body.items() if value is not None}
    return given if selector is None else {**given, "selector": selector or None}


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
