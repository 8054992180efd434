"""Watch an execution to its end: output, Ctrl-C, summary, exit code."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from types import FrameType

from opsjobs.cli.client import Client, Json, RequestRefused
from opsjobs.cli.exit_codes import CommandFailed, ExitCode, get_execution_exit_code
from opsjobs.cli.live_view import LiveView
from opsjobs.cli.output_lines import OutputLines
from opsjobs.cli.render import discard_stdout, get_style
from opsjobs.cli.run_summary import Tally
from opsjobs.cli.sse import Event
from opsjobs.cli.terminal import Terminal
from opsjobs.cli.terminal_escapes import escape_json


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
        """Set what the first Ctrl-C does; one that came earlier counts."""
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
    try:
        with view:
            ended = _follow(client, execution, terminal, tally, names, view=view, as_json=as_json)
    except KeyboardInterrupt:
        fate = "continues" if interrupts is None else "is being cancelled"
        raise CommandFailed(
            f"interrupted: execution {execution['id']} {fate}. See it with: {_see(execution)}",
            ExitCode.INTERRUPTED,
        ) from None
    except BrokenPipeError:
        discard_stdout()
        raise CommandFailed(
            f"broken pipe: execution {execution['id']} continues. See it with: {_see(execution)}"
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
    """Print the events; return the ended execution, or None if the view was left."""
    lines = OutputLines(terminal.write, names if int(execution["total_targets"]) > 1 else None)
    for events in client.follow(int(execution["id"]), terminal.notice):
        for event in events:
            data = json.loads(event.data)
            tally.event(event.event, data)
            if view is not None:
                view.event(event.event, data)
            if as_json:
                terminal.write("stdout", _line(event, data))
            else:
                _show(event.event, data, lines)
        terminal.flush()
        if view is not None and view.left:
            lines.finish()
            terminal.close_line()
            return None
    terminal.close_line()
    return _ended(client, execution, tally)


def _see(execution: Json) -> str:
    return f"opsjobs executions show {execution['id']}"


def _show(kind: str, data: Json, lines: OutputLines) -> None:
    if kind == "output":
        lines.output(data)
    elif kind == "result":
        lines.finish(data.get("target_run"), data.get("action_key"))
    elif kind == "end":
        lines.finish()


def _line(event: Event, data: Json) -> bytes:
    """Return an event as a line of JSON."""
    position = int(event.id) if event.id.isdigit() else None
    line = json.dumps(
        {"id": position, "event": event.event, "data": data},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return escape_json(line).encode("utf-8", "backslashreplace") + b"\n"


def _ended(client: Client, execution: Json, tally: Tally) -> Json:
    """Return the ended execution.

    It is made of the last event if the service went away right after that.
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
