"""Starting an execution from the command line: the request, hosts in place of names, and watching or leaving it."""

from __future__ import annotations

import re

from opsjobs.cli.client import Client, Json, Refused
from opsjobs.cli.exits import CommandFailed, Exit
from opsjobs.cli.render import counted, tell
from opsjobs.cli.watch import Interrupts, watch
from opsjobs.model.execution import ExecutionStatus

_ID_POINTER = re.compile(r"/targets/ids/(\d+)")


def launch(client: Client, path: str, body: Json, *, as_json: bool, detach: bool) -> Exit:
    """Start what `body` says and see it through; the exit code. Raises CommandFailed before anything has started."""
    with Interrupts() as interrupts:
        execution = _started(client, path, body)
        waits = _waits(execution)
        if waits and not detach:
            tell(waits)
        if not detach:
            return watch(client, execution, interrupts, as_json=as_json)
    tell(
        waits
        or f"execution {execution['id']} is started on {counted(execution['total_targets'], 'target')}; "
        f"watch it: opsjobs executions follow {execution['id']}"
    )
    print(execution["id"])
    return Exit.OK


def _waits(execution: Json) -> str | None:
    """Of one that is to be approved first, whom to ask."""
    if execution.get("status") != ExecutionStatus.PENDING_APPROVAL:
        return None
    on = execution.get("waiting_on") or {}
    return (
        f"execution {execution['id']} waits for approval {on.get('approval')}: {on.get('reason')}; somebody else sees it with "
        f"`opsjobs approvals show {on.get('approval')}` and approves; with safety:override, --override-safety REASON passes it"
    )


def _started(client: Client, path: str, body: Json) -> Json:
    while True:
        try:
            return dict(client.post(path, body))
        except Refused as refused:
            if refused.code != "unknown_target" or not isinstance(body.get("targets"), dict):
                raise
            # Ends: each time round at least one host has become a target, or the refusal is raised.
            body = {**body, "targets": {**body["targets"], "ids": _with_hosts(client, body, refused)}}


def _with_hosts(client: Client, body: Json, refused: Refused) -> list[str]:
    """The same ids, with the targets of a host in place of each host. Raises the refusal where one is no host either."""
    unknown = {int(m[1]) for pointer in refused.pointers if (m := _ID_POINTER.fullmatch(pointer))}
    ids: list[str] = []
    for position, ref in enumerate(body.get("targets", {}).get("ids", [])):
        ids += _of_host(client, ref, refused) if position in unknown else [ref]
    if not unknown:
        raise refused
    return ids


def _of_host(client: Client, host: str, refused: Refused) -> list[str]:
    found = [t for t in client.items("/targets", limit=0, host=host)[0] if t.get("host") == host]
    if not found:
        raise refused
    if len(found) > 1:
        names = ", ".join(str(t["name"]) for t in found[:10])
        raise CommandFailed(f"{len(found)} targets have the host {host}: name the one you mean ({names}).", Exit.USAGE)
    return [str(found[0]["id"])]
