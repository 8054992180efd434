"""`opsjobs targets`: the machines, how to reach them, and whether they are who they say."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from opsjobs.cli import importing_targets, options
from opsjobs.cli.client import Client, Json, connect, path_of
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.render import Column, Form, counted, plain, seconds, show_list, show_one, tell
from opsjobs.model.target import REVOKED, HostKeyPolicy, TargetDraft, Transport

app = typer.Typer(help="Targets: the machines, and their host keys.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(metavar="TARGET", help="Name, id or uuid.")]
SeveralTargets = Annotated[list[str], typer.Argument(metavar="TARGET…", help="Names, ids or uuids.")]

COLUMNS = (
    Column("id", lambda t: t["id"]),
    Column("name", lambda t: t["name"]),
    Column("host", lambda t: t["host"]),
    Column("port", lambda t: t.get("port")),
    Column("transport", lambda t: t.get("transport")),
    Column("credential", lambda t: t.get("credential")),
    Column("labels", lambda t: t.get("labels")),
    Column("groups", lambda t: t.get("groups")),
    Column("host keys", lambda t: len(t.get("host_keys") or ()) or t.get("host_key_policy"), wide=True),
    Column("zone", lambda t: t.get("zone"), wide=True),
    Column("slots", lambda t: t.get("slots"), wide=True),
    Column("jump", lambda t: t.get("jump"), wide=True),
)
STEP_COLUMNS = (
    Column("step", lambda s: s["name"]),
    Column("ok", lambda s: s["ok"]),
    Column("took", lambda s: seconds(s.get("ms"))),
    Column("error", lambda s: _step_error(s.get("error"))),
)


@app.command("list")
def list_targets(
    selector: options.Selector = None,
    group: Annotated[str | None, typer.Option("-g", "--group", help="Only targets of this group.")] = None,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List targets by name."""
    with connect() as client:
        found, more = client.items("/targets", limit=limit, selector=selector, groups=group)
    show_list(found, COLUMNS, output)
    options.tell_more(more, limit)


@app.command()
def show(target: Target, output: options.Output = Form.TABLE) -> None:
    """Show one target."""
    with connect() as client:
        show_one(client.by_name("target", target), output)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, such as web-1.")],
    host: Annotated[str | None, typer.Argument(help="Address or host name; the same as the name where it is left out.")] = None,
    *,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="SSH port.")] = 22,
    credential: Annotated[str | None, typer.Option("-c", "--credential", help="Name of the credential to log in with.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label. May be repeated.")] = None,
    group: options.Groups = None,
    jump: Annotated[str | None, typer.Option(help="Name of the target to go through.")] = None,
    zone: Annotated[str, typer.Option(help="The zone whose workers reach it.")] = "default",
    slots: Annotated[int, typer.Option(min=1, help="Runs on it at a time.")] = 10,
    transport: Annotated[Transport, typer.Option(help="How it is reached.")] = Transport.SSH,
    host_key_policy: Annotated[HostKeyPolicy, typer.Option(help="Which host keys are good.")] = HostKeyPolicy.PINNED,
    host_key: Annotated[
        list[str] | None,
        typer.Option("--host-key", metavar="KEY", help="A host key, or with policy ca the CA's; `@revoked KEY`: never good."),
    ] = None,
) -> None:
    """Add a machine.

    Then trust its host key: `opsjobs targets trust NAME`.
    """
    body: Json = {
        "name": name,
        "host": host or name,
        "port": port,
        "transport": transport,
        "labels": _labels(label),
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
    untrusted = transport is Transport.SSH and host_key_policy is HostKeyPolicy.PINNED and not host_key
    hint = f"; next: opsjobs targets trust {name}" if untrusted else ""
    tell(f"target {name} is added{hint}")


app.command("import")(importing_targets.import_targets)


@app.command("test")
def try_out(targets: SeveralTargets, output: options.Output = Form.TABLE) -> None:
    """Try to reach targets, step by step.

    Exit code 1 where one does not work.
    """
    all_ok = True
    with connect() as client:
        for ref in targets:
            target = client.by_name("target", ref)
            report = client.post(f"{path_of('target', target['id'])}/test")
            all_ok = all_ok and bool(report["ok"])
            tell(f"{target['name']}: {'works' if report['ok'] else 'does not work'}")
            show_list(report["steps"], STEP_COLUMNS, output)
    raise typer.Exit(Exit.OK if all_ok else Exit.ERROR)


@app.command()
def trust(
    targets: SeveralTargets,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: the fingerprints were compared elsewhere.")] = False,
) -> None:
    """Show the host keys of targets, and pin them after a yes."""
    with connect() as client:
        for ref in targets:
            _trust(client, client.by_name("target", ref), yes)


def _trust(client: Client, target: Json, yes: bool) -> None:
    scanned = client.post(f"{path_of('target', target['id'])}/scan-host-keys")["host_keys"]
    if not scanned:
        raise CommandFailed(f"{target['name']} has shown no host key: is {target['host']}:{target['port']} an SSH server?")
    if target.get("host_key_policy") == HostKeyPolicy.CA:
        raise CommandFailed(f"the host keys of {target['name']} are judged by its CA: there is nothing to pin.")
    keys, pinned = [key["key"] for key in scanned], [*(target.get("host_keys") or ())]
    revoked = [line for line in pinned if line.startswith(REVOKED)]
    if bad := {line.removeprefix(REVOKED) for line in revoked} & {*keys}:
        raise CommandFailed(f"{target['name']} shows a host key that was revoked, and is not trusted: {bad.pop()[:60]} …")
    if {*keys, *revoked} == {*pinned}:
        tell(f"{target['name']}: its host keys are trusted already")
        return
    tell(f"{target['name']} ({target['host']}:{target['port']}) shows:")
    for key in scanned:
        tell(f"  {plain(str(key['key']).split(' ')[0])}  {plain(key['fingerprint'])}")
    if len(pinned) > len(revoked):
        so_far = counted(len(pinned) - len(revoked), "key")
        tell(f"CAREFUL: they take the place of the {so_far} trusted so far. Was the machine set up anew? Else do not trust them.")
    if not yes and not _agreed(str(target["name"])):
        raise CommandFailed(f"{target['name']} is not trusted; nothing has changed.")
    body = {field: target[field] for field in TargetDraft.model_fields if field in target}
    client.put(path_of("target", target["id"]), {**body, "host_keys": [*keys, *revoked], "host_key_policy": HostKeyPolicy.PINNED})
    tell(f"{target['name']} is trusted with {counted(len(keys), 'host key')}")


def _agreed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandFailed(f"nobody is here to say yes to the host keys of {name}: compare them, then use --yes.", Exit.USAGE)
    return typer.confirm("Are these the machine's own fingerprints? Trust them?", err=True)


@app.command()
def rm(targets: SeveralTargets) -> None:
    """Remove targets. What ran on them stays on record."""
    with connect() as client:
        for ref in targets:
            target = client.by_name("target", ref)
            client.delete(path_of("target", target["id"]))
            tell(f"target {target['name']} is removed")


def _labels(pairs: list[str] | None) -> dict[str, str]:
    labels = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CommandFailed(f"--label {pair}: write KEY=VALUE, such as env=prod.", Exit.USAGE)
        labels[key.strip()] = value.strip()
    return labels


def _step_error(error: object) -> str:
    if isinstance(error, dict):
        return f"{error.get('code')}: {error.get('message')}"
    return str(error or "")
