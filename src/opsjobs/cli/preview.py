"""Dry runs: commands and targets on stdout, a summary on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.cli.client import Client, Json
from opsjobs.cli.exit_codes import ExitCode
from opsjobs.cli.render import Column, Form, plain, pluralize, seconds, show_list, show_one, tell

_COLUMNS = (
    Column("wave", lambda c: c["wave"]),
    Column("target", lambda c: c["target"]),
    Column("action", lambda c: c["action"]),
    Column("command", lambda c: c["command"]),
)


def show_preview(client: Client, path: str, body: Json, *, as_json: bool) -> ExitCode:
    """Print what `body` would start, without starting it. Raises CommandFailed if refused."""
    told = client.post(path, {**body, "dry_run": True})
    if as_json:
        show_one(told, Form.JSON)
        return ExitCode.OK
    wave_of = {name: number for number, wave in enumerate(told["waves"], start=1) for name in wave}
    show_list([{**command, "wave": wave_of.get(command["target"])} for command in told["commands"]], _COLUMNS, Form.TABLE)
    if told["commands_total"] > len(told["commands"]):
        tell(f"… and {told['commands_total'] - len(told['commands'])} more")
    tell(_summary(told))
    return ExitCode.OK


def _summary(told: Mapping[str, Any]) -> str:
    lines = [
        f"dry run: {pluralize(len(told['targets']), 'target')} in {pluralize(len(told['waves']), 'wave')}; nothing was started"
    ]
    changes, estimate = told["changes"], told["estimate"]
    if told.get("verdict") is not None:
        found = [f"{f['rule']} ({f['severity']}): {f['reason']}" for f in told["findings"]]
        lines += [f"safety check: {told['verdict']}", *(plain(line) for line in found)]
    if changes["since"] is not None:
        named = [(word, changes[word]) for word in ("added", "removed") if changes[word]]
        lines += [f"{word} since execution {changes['since']}: {', '.join(names[:20])}" for word, names in named]
    if estimate["seconds"] is not None:
        lines.append(f"estimated: {seconds(estimate['seconds'] * 1_000)}, from {pluralize(estimate['executions'], 'execution')}")
    return "\n".join(lines)
