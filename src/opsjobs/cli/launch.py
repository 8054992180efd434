"""Launch an execution and watch it to its end: output, Ctrl-C, summary, exit code."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from opsjobs.cli.client import Client, Json, RequestRefused
from opsjobs.cli.errors import CommandFailed, ExitCode, get_execution_exit_code
from opsjobs.cli.event_stream import Event
from opsjobs.cli.live_view import LiveView, Tally, render_header, render_wait_reason
from opsjobs.cli.messages import discard_stdout, plain, pluralize, tell
from opsjobs.cli.render import Column, Form, get_style, seconds, show_list, show_one
from opsjobs.cli.terminal import OutputLines, Terminal
from opsjobs.cli.terminal_escapes import escape_json
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
    tell(f"{render_header(execution)}. Follow it with: opsjobs executions follow {execution['id']}")
    if (hold := render_wait_reason(execution)) is not None:
        tell(hold)
    print(execution["id"])
    return ExitCode.OK


def parse_wait_limit(wait_limit: str | None) -> float | None:
    """Return the time to wait for a person's decision; None: without limit.

    Raises CommandFailed.
    """
    if wait_limit is None:
        return None if sys.stderr.isatty() else UNATTENDED_SECONDS
    try:
        return parse_duration(wait_limit)
    except ValueError as error:
        raise CommandFailed(
            f"--wait-limit: {error}. Use a duration such as 10m, or 0s to exit at once.",
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
    """Print the execution that `body` would start. Raises CommandFailed if it is refused."""
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


class Interrupts:
    """Ctrl-C while an execution runs: the first one cancels it, the second one exits."""

    def __init__(self) -> None:
        self.asked = False
        self._cancel: Callable[[], None] | None = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def cancels(self, cancel: Callable[[], None]) -> None:
        """Set the effect of the first Ctrl-C; an earlier one counts."""
        self._cancel = cancel
        if self.asked:
            self._ask()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._cancel is not None:
            self._ask()

    def _ask(self) -> None:
        # On a thread: the signal interrupts reading the stream, which continues until the execution
        # ends.
        assert self._cancel is not None
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()


def watch(
    client: Client,
    execution: Json,
    interrupts: Interrupts | None,
    *,
    as_json: bool = False,
    raw: bool = False,
    waits_seconds: float | None = None,
) -> ExitCode:
    """Show an execution until it has ended, then its summary; return the exit code.

    Without `interrupts`, Ctrl-C just exits. `waits_seconds`: exit with ExitCode.WAITING after
    waiting this long for a person's decision; None: without limit.
    """
    terminal = Terminal(raw=raw)
    if interrupts is not None:
        interrupts.cancels(lambda: _cancel(client, int(execution["id"]), terminal.notice))
    names = TargetNames(client, int(execution["id"]))
    tally = Tally(names)
    view = LiveView(client, execution, terminal, tally, waits_seconds=waits_seconds)
    see_it = f"See it with: opsjobs executions show {execution['id']}"
    try:
        with view:
            ended = _follow(client, execution, terminal, tally, names, view=view, as_json=as_json)
    except KeyboardInterrupt:
        fate = "continues" if interrupts is None else "is being cancelled"
        raise CommandFailed(
            f"interrupted: execution {execution['id']} {fate}. {see_it}", ExitCode.INTERRUPTED
        ) from None
    except BrokenPipeError:
        discard_stdout()
        raise CommandFailed(
            f"broken pipe: execution {execution['id']} continues. {see_it}"
        ) from None
    if ended is None:
        words = (
            f"execution {execution['id']} still waits for a person's decision. Follow it with: "
            f"opsjobs executions follow {execution['id']}"
        )
        raise CommandFailed(words, ExitCode.WAITING)
    status, *rest = tally.summary(ended)
    terminal.notice(status, get_style(str(ended["status"])))
    if rest:
        terminal.notice("\n".join(rest))
    return get_execution_exit_code(
        str(ended["status"]), interrupted=interrupts is not None and interrupts.asked
    )


def follow(client: Client, execution: Json) -> tuple[Json, Tally]:
    """Print all output of an execution until it has ended, without a live view.

    Return the ended execution and its summary.
    """
    names = TargetNames(client, int(execution["id"]))
    tally = Tally(names)
    ended = _follow(client, execution, Terminal(), tally, names)
    assert ended is not None, "without a live view there is nothing to leave for"
    return ended, tally


def _follow(
    client: Client,
    execution: Json,
    terminal: Terminal,
    tally: Tally,
    names: TargetNames,
    *,
    view: LiveView | None = None,
    as_json: bool = False,
) -> Json | None:
    """Print the events; return the ended execution, or None if the view was closed."""
    lines = OutputLines(terminal.write, names if int(execution["total_targets"]) > 1 else None)
    for events in client.follow(int(execution["id"]), terminal.notice):
        for event in events:
            data = json.loads(event.data)
            tally.event(event.event, data)
            if view is not None:
                view.event(event.event, data)
            if as_json:
                terminal.write("stdout", _json_line(event, data))
            else:
                _show(event.event, data, lines)
        terminal.flush()
        if view is not None and view.left:
            lines.finish()
            terminal.close_line()
            return None
    terminal.close_line()
    return _get_ended(client, execution, tally)


def _show(kind: str, data: Json, lines: OutputLines) -> None:
    if kind == "output":
        lines.output(data)
    elif kind == "result":
        lines.finish(data.get("target_run"), data.get("action_key"))
    elif kind == "end":
        lines.finish()


def _json_line(event: Event, data: Json) -> bytes:
    """Return an event as a line of JSON."""
    position = int(event.id) if event.id.isdigit() else None
    line = json.dumps(
        {"id": position, "event": event.event, "data": data},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return escape_json(line).encode("utf-8", "backslashreplace") + b"\n"


def _get_ended(client: Client, execution: Json, tally: Tally) -> Json:
    """Return the ended execution.

    It is built from the last event if the service became unavailable directly after that.
    """
    try:
        return dict(client.get(f"/executions/{execution['id']}"))
    except CommandFailed:
        return {**execution, **(tally.ended or {})}


def _cancel(client: Client, execution_id: int, tell: Callable[[str], None]) -> None:
    tell(f"cancelling execution {execution_id}; Ctrl-C again exits without waiting")
    try:
        client.post(f"/executions/{execution_id}/cancel", {"reason": "Ctrl-C"})
    except RequestRefused as refused:
        if refused.status != 409:  # it has ended meanwhile: its `end` event is about to arrive
            tell(f"the cancel was refused: {refused}")
    except CommandFailed as failed:
        tell(f"the cancel request failed: {failed}")


class TargetNames:
    """Names of an execution's targets by their ids, fetched on first use."""

    def __init__(self, client: Client, execution_id: int) -> None:
        self._client = client
        self._path = f"/executions/{execution_id}/targets"
        self._known: dict[str, str] | None = None

    def __call__(self, target_id: str) -> str:
        """Return the name of this target; its id if it is not in the execution."""
        if self._known is None:
            runs, _ = self._client.items(self._path, limit=0)
            self._known = {str(r["target"]["id"]): str(r["target"]["name"]) for r in runs}
        return self._known.get(target_id, target_id)
