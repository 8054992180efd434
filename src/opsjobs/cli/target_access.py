"""`opsjobs targets test` and `trust`, and `opsjobs circuits`: connections to targets."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from opsjobs.cli import options
from opsjobs.cli.client import Client, Json, connect, path_of
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.messages import plain, pluralize, tell
from opsjobs.cli.options import All, Chosen, Group, query_each, render_failure, select_targets
from opsjobs.cli.render import Column, Form, ago, seconds, show_list
from opsjobs.model.target import REVOKED, HostKeyPolicy, Transport, host_key_fingerprint
from opsjobs.model.winrm import spell_fingerprint

STEP_COLUMNS = (
    Column("step", lambda s: s["name"]),
    Column("ok", lambda s: s["ok"]),
    Column("took", lambda s: seconds(s.get("ms"))),
    Column("error", lambda s: _step_error(s.get("error"))),
)
TRIAL_COLUMNS = (
    Column("target", lambda t: t["name"]),
    Column("ok", lambda t: t["ok"]),
    Column("took", lambda t: seconds(sum(step.get("ms") or 0 for step in t["steps"]))),
    Column("failed at", lambda t: (_failed_step(t) or {}).get("name")),
    Column("error", lambda t: _step_error((_failed_step(t) or {}).get("error"))),
)


def try_connection(
    targets: Chosen = None,
    *,
    selector: options.Selector = None,
    group: Group = None,
    all_: All = False,
    output: options.Output = Form.TABLE,
) -> None:
    """Test the connection to targets, step by step; several at a time.

    Shows each step for one target, one line per target for several. Exit code 1 if one of them
    fails.
    """
    with connect() as client:
        found = select_targets(client, targets or (), selector, group, everything=all_)
        trials = [
            _trial(target, answer)
            for target, answer in query_each(found, lambda t: _test(client, t))
        ]
    if output is Form.TABLE and len(trials) == 1:
        (trial,) = trials
        tell(f"{trial['name']}: {_verdict(trial)}")
        show_list(trial["steps"], STEP_COLUMNS, output)
    else:
        show_list(trials, TRIAL_COLUMNS, output)
    failed = [trial for trial in trials if not trial["ok"]]
    if len(trials) > 1:
        tell(f"{len(trials) - len(failed)} of {len(trials)} targets work")
    raise typer.Exit(ExitCode.ERROR if failed else ExitCode.OK)


def _verdict(trial: Json) -> str:
    """Return the result of a test: a target can work without sudo, or without SFTP."""
    if not trial["ok"]:
        return "does not work"
    lacks = [_LACKS.get(step["name"], step["name"]) for step in trial["steps"] if not step["ok"]]
    return f"works, but {', and '.join(lacks)}" if lacks else "works"


_LACKS = {
    "sudo": "not as root: sudo without a password is refused (become needs it, or a credential)",
    "sftp": "files cannot be transferred: SFTP is refused",
    "durable": "commands do not survive a lost connection: PowerShell or WMI refuses them",
    "file": "files cannot be transferred: PowerShell does not serve them",
}


def _test(client: Client, target: Json) -> Json:
    report: Json = client.post(f"{path_of('target', target['id'])}/test")
    return report


def _trial(target: Json, answer: Json | CommandFailed) -> Json:
    if isinstance(answer, CommandFailed):
        steps: list[Json] = [{"name": "request", "ok": False, "ms": None, "error": str(answer)}]
        return {"name": target["name"], "ok": False, "steps": steps}
    return {"name": target["name"], **answer}


def _failed_step(trial: Mapping[str, Any]) -> Json | None:
    return None if trial["ok"] else next((step for step in trial["steps"] if not step["ok"]), None)


def _step_error(error: object) -> str:
    if isinstance(error, dict):
        return f"{error.get('code')}: {error.get('message')}"
    return str(error or "")


# --- trust


def trust(
    targets: Chosen = None,
    *,
    selector: options.Selector = None,
    group: Group = None,
    all_: All = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help=(
                "Trust without asking, after the fingerprints were verified. "
                "Only for targets without trusted keys."
            ),
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="With --yes: also replace keys that are trusted already."),
    ] = False,
) -> None:
    """Show the host keys of targets, and pin them after confirmation.

    Several targets are scanned at a time. One that fails does not stop the others. Exit code 1 if
    a target is not trusted afterwards.
    """
    failed: list[CommandFailed] = []
    with connect() as client:
        found = select_targets(client, targets or (), selector, group, everything=all_)
        for target, scanned in query_each(found, lambda t: _scan(client, t)):
            try:
                _trust(client, target, scanned, yes=yes, replace=replace)
            except CommandFailed as error:
                failed.append(error)
                tell(render_failure(target, error))
    if failed and len(found) > 1:
        tell(f"{len(found) - len(failed)} of {pluralize(len(found), 'target')} are trusted")
    usage = any(wrong.exit_code is ExitCode.USAGE for wrong in failed)
    if usage:
        raise typer.Exit(ExitCode.USAGE)
    raise typer.Exit(ExitCode.ERROR if failed else ExitCode.OK)


def _scan(client: Client, target: Json) -> list[Json]:
    """Return the host keys that a target presents now."""
    if target.get("host_key_policy") == HostKeyPolicy.CA:
        raise CommandFailed("its host keys are verified by its CA: there is nothing to pin.")
    shown: list[Json] = client.post(f"{path_of('target', target['id'])}/scan-host-keys")[
        "host_keys"
    ]
    if not shown:
        raise CommandFailed(
            f"it presented no host key. Check that {target['host']}:{target['port']} is an SSH "
            "server."
        )
    return shown


def _trust(
    client: Client, target: Json, scanned: list[Json] | CommandFailed, *, yes: bool, replace: bool
) -> None:
    if isinstance(scanned, CommandFailed):
        raise scanned
    if target.get("transport") == Transport.WINRM:
        _trust_certificate(client, target, scanned[0], yes=yes, replace=replace)
        return
    name, pinned = plain(target["name"]), [*(target.get("host_keys") or ())]
    keys = [key["key"] for key in scanned]
    revoked = [line for line in pinned if line.startswith(REVOKED)]
    if bad := {line.removeprefix(REVOKED) for line in revoked} & {*keys}:
        raise CommandFailed(
            f"it presents a revoked host key, and is not trusted: {bad.pop()[:60]} …"
        )
    if {*keys, *revoked} == {*pinned}:
        tell(f"{name}: its host keys are already trusted")
        return
    tell(f"{name} ({target['host']}:{target['port']}) presents:")
    for key in scanned:
        tell(f"  {plain(str(key['key']).split(' ')[0])}  {plain(key['fingerprint'])}")
    if so_far := [line for line in pinned if line not in revoked]:
        tell(f"WARNING: they replace the {pluralize(len(so_far), 'key')} trusted so far:")
        for line in fingerprints(so_far):
            tell(f"  {plain(line)}")
        tell("Trust them only if you know why they have changed, such as a reinstallation.")
        if yes and not replace:
            raise CommandFailed(
                "its keys differ from the trusted ones. Verify them, then pass --yes --replace.",
                ExitCode.USAGE,
            )
    if not yes and not _confirm():
        raise CommandFailed("it is not trusted; nothing was changed.")
    # With the version, so that a concurrent change is not overwritten.
    body = {
        "host_keys": [*keys, *revoked],
        "host_key_policy": HostKeyPolicy.PINNED,
        "version": target["version"],
    }
    client.patch(path_of("target", target["id"]), body)
    tell(f"{name} is trusted with {pluralize(len(keys), 'host key')}")


def _trust_certificate(
    client: Client, target: Json, shown: Json, *, yes: bool, replace: bool
) -> None:
    """Pin the certificate of a WinRM host, after confirmation."""
    name, pinned = plain(target["name"]), target["winrm"]["fingerprint"]
    digits = str(shown["key"]).rpartition(" ")[2]
    if pinned == digits:
        tell(f"{name}: its certificate is already trusted")
        return
    tell(f"{name} ({target['host']}:{target['port']}) presents:")
    tell(f"  x509  SHA256 {plain(shown['fingerprint'])}")
    if pinned:
        tell(f"WARNING: it replaces the certificate trusted so far: {spell_fingerprint(pinned)}")
        tell("Trust it only if you know why it has changed, such as a renewal.")
        if yes and not replace:
            raise CommandFailed(
                "its certificate differs from the trusted one. Verify it, then pass --yes "
                "--replace.",
                ExitCode.USAGE,
            )
    if not yes and not _confirm():
        raise CommandFailed("it is not trusted; nothing was changed.")
    body = {"winrm": {"fingerprint": digits}, "version": target["version"]}
    client.patch(path_of("target", target["id"]), body)
    tell(f"{name} is trusted with this certificate")


def _confirm() -> bool:
    if not sys.stdin.isatty():
        raise CommandFailed(
            "stdin is not a terminal: verify the fingerprints, then pass --yes.", ExitCode.USAGE
        )
    return typer.confirm("Are these the machine's fingerprints? Trust them?", err=True)


def fingerprints(lines: Sequence[str]) -> list[str]:
    """Return `ssh-ed25519 SHA256:…` of each host key, as `ssh-keygen -l` prints it.

    The mark `@revoked` is kept.
    """
    return [host_key_fingerprint(line) for line in lines]


def render_host_key_trust(target: Mapping[str, Any]) -> str:
    """Return the verification of host keys: the number of pinned ones, `none`, or the policy."""
    if target.get("transport") == "local":
        return ""
    if (winrm := target.get("winrm")) is not None:
        return _render_certificate_trust(winrm)
    policy = target.get("host_key_policy")
    pinned = [line for line in target.get("host_keys") or () if not line.startswith(REVOKED)]
    if policy == HostKeyPolicy.PINNED:
        return str(len(pinned)) if pinned else "none"
    return f"{policy} ({len(pinned)})" if pinned else str(policy)


def _render_certificate_trust(winrm: Mapping[str, Any]) -> str:
    if winrm["scheme"] == "http":
        return "http"
    if winrm["fingerprint"]:
        return "certificate"
    if not winrm["verify"]:
        return "unchecked"
    return "ca" if winrm["ca"] else "system CAs"


# --- circuits


circuits = typer.Typer(
    help="Circuits: logins that are paused after repeated failures.", no_args_is_help=True
)

CIRCUIT_COLUMNS = (
    Column("target", lambda c: c["target"]["name"] or c["target"]["id"]),
    Column("credential", lambda c: c["credential"]),
    Column("state", lambda c: c["state"]),
    Column("since", lambda c: ago(c["since"])),
    Column("until", lambda c: c["until"]),
    Column("failures", lambda c: c["failures"]),
    Column("why", lambda c: (c["error"] or {}).get("code")),
    Column("message", lambda c: (c["error"] or {}).get("message"), wide=True),
)


@circuits.command("list")
def list_circuits(
    closed: Annotated[bool, typer.Option("--closed", help="Include closed circuits.")] = False,
    output: options.Output = Form.TABLE,
    limit: options.Limit = 200,
) -> None:
    """List the circuits that are not closed, newest first."""
    with connect() as client:
        found, more = client.items(
            "/circuits", limit=limit, state=["closed", "open", "half_open"] if closed else None
        )
    show_list(found, CIRCUIT_COLUMNS, output)
    options.tell_more(more, limit)


@circuits.command()
def reset(
    targets: Annotated[list[str], typer.Argument(metavar="TARGET", help="Names, ids or uuids.")],
) -> None:
    """Close the circuits of targets, so that they are contacted again at once."""
    with connect() as client:
        for ref in targets:
            target = client.by_name("target", ref)
            found = client.post(f"/circuits/{target['id']}/reset")["items"]
            tell(f"target {target['name']}: {pluralize(len(found), 'circuit')} closed")
