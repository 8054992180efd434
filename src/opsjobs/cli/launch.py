"""Launch an execution: send the request, resolve hosts to targets, watch or detach."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from opsjobs.cli.client import Client, Json, RequestRefused
from opsjobs.cli.exit_codes import CommandFailed, ExitCode
from opsjobs.cli.live_view import header
from opsjobs.cli.render import Column, Form, plain, pluralize, seconds, show_list, show_one, tell
from opsjobs.cli.waiting_reasons import hold_of
from opsjobs.cli.watch import Interrupts, watch
from opsjobs.model.units import parse_duration

_ID_POINTER = re.compile(r"/targets/ids/(\d+)")


UNATTENDED_SECONDS = 600.0
"""The default of --wait-limit if stderr is not a terminal."""


def launch(
    client: Client,
    path: str,
    body: Json,
    *,
    as_json: bool,
    detach: bool,
    raw: bool = False,
    wait_limit: str | None = None,
) -> ExitCode:
    """Start an execution and watch it; return the exit code.

    Raises CommandFailed before anything has started.
    """
    waits_seconds = parse_wait_limit(wait_limit)
    with Interrupts() as interrupts:
        execution = _start(client, path, body)
        if not detach:
            return watch(
                client, execution, interrupts, as_json=as_json, raw=raw, waits_seconds=waits_seconds
            )
    tell(f"{header(execution)}. Follow it with: opsjobs executions follow {execution['id']}")
    if (hold := hold_of(execution)) is not None:
        tell(hold)
    print(execution["id"])
    return ExitCode.OK


def parse_wait_limit(wait_limit: str | None) -> float | None:
    """Return how long to wait for a person's decision; None: without limit.

    Raises CommandFailed.
    """
    if wait_limit is None:
        return None if sys.stderr.isatty() else UNATTENDED_SECONDS
    try:
        return parse_duration(wait_limit)
    except ValueError as wrong:
        raise CommandFailed(
            f"--wait-limit: {wrong}. Use a duration such as 10m, or 0s to exit at once.",
            ExitCode.USAGE,
        ) from None


def _start(client: Client, path: str, body: Json) -> Json:
    while True:
        try:
            return dict(client.post(path, body))
        except RequestRefused as refused:
            if refused.code != "unknown_target" or not isinstance(body.get("targets"), dict):
                raise
            # Terminates: each round replaces at least one host by a target, or raises the refusal.
            body = {
                **body,
                "targets": {**body["targets"], "ids": _with_hosts(client, body, refused)},
            }


def _with_hosts(client: Client, body: Json, refused: RequestRefused) -> list[str]:
    """Return the ids with each host replaced by its target.

    Raises the refusal if one is not a host either.
    """
    matches = [_ID_POINTER.fullmatch(pointer) for pointer in refused.pointers]
    unknown = {int(match[1]) for match in matches if match is not None}
    ids: list[str] = []
    for position, ref in enumerate(body.get("targets", {}).get("ids", [])):
        ids += _of_host(client, ref, refused) if position in unknown else [ref]
    if not unknown:
        raise refused
    return ids


def _of_host(client: Client, host: str, refused: RequestRefused) -> list[str]:
    found = [t for t in client.items("/targets", limit=0, host=host)[0] if t.get("host") == host]
    if not found:
        raise refused
    if len(found) > 1:
        names = ", ".join(str(t["name"]) for t in found[:10])
        raise CommandFailed(
            f"{len(found)} targets have the host {host}: name the one you mean ({names}).",
            ExitCode.USAGE,
        )
    return [str(found[0]["id"])]


# --- dry runs


_PREVIEW_COLUMNS = (
    Column("wave", lambda c: c["wave"]),
    Column("target", lambda c: c["target"]),
    Column("action", lambda c: c["action"]),
    Column("command", lambda c: c["command"]),
)


def show_preview(client: Client, path: str, body: Json, *, as_json: bool) -> ExitCode:
    """Print what `body` would start, without starting it. Raises CommandFailed if refused."""
    preview = client.post(path, {**body, "dry_run": True})
    if as_json:
        show_one(preview, Form.JSON)
        return ExitCode.OK
    wave_of = {
        name: number for number, wave in enumerate(preview["waves"], start=1) for name in wave
    }
    show_list(
        [{**command, "wave": wave_of.get(command["target"])} for command in preview["commands"]],
        _PREVIEW_COLUMNS,
        Form.TABLE,
    )
    if preview["commands_total"] > len(preview["commands"]):
        tell(f"… and {preview['commands_total'] - len(preview['commands'])} more")
    tell(_summarize_preview(preview))
    return ExitCode.OK


def _summarize_preview(preview: Mapping[str, Any]) -> str:
    lines = [
        (
            f"dry run: {pluralize(len(preview['targets']), 'target')} in "
            f"{pluralize(len(preview['waves']), 'wave')}; nothing was started"
        )
    ]
    changes, estimate = preview["changes"], preview["estimate"]
    if preview.get("verdict") is not None:
        found = [f"{f['rule']} ({f['severity']}): {f['reason']}" for f in preview["findings"]]
        lines += [f"safety check: {preview['verdict']}", *(plain(line) for line in found)]
    if changes["since"] is not None:
        named = [(word, changes[word]) for word in ("added", "removed") if changes[word]]
        lines += [
            f"{word} since execution {changes['since']}: {', '.join(names[:20])}"
            for word, names in named
        ]
    if estimate["seconds"] is not None:
        lines.append(
            f"estimated: {seconds(estimate['seconds'] * 1_000)}, from "
            f"{pluralize(estimate['executions'], 'execution')}"
        )
    return "\n".join(lines)
