"""Watching an execution to its end: its output as it comes, Ctrl-C as a request to cancel, the summary, the exit code."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from opsjobs.cli.client import Client, Json, Refused
from opsjobs.cli.exits import CommandFailed, Exit, of_execution
from opsjobs.cli.lines import Lines
from opsjobs.cli.render import hush, tell
from opsjobs.cli.sse import Event
from opsjobs.cli.tally import Tally


class Terminal:
    """Bytes to stdout and stderr in the order in which they came, also where both are the same terminal."""

    def __init__(self) -> None:
        self._last = "stdout"
        self._open_line = False

    def write(self, stream: str, portion: bytes) -> None:
        """Put bytes on one of the two; what waits for the other one goes out first."""
        if stream != self._last:
            self.flush()
            self._last = stream
        self._file(stream).write(portion)
        if portion:
            self._open_line = not portion.endswith(b"\n")

    def flush(self) -> None:
        """Let everything be seen."""
        self._file(self._last).flush()

    def close_line(self) -> None:
        """On a terminal: begin a new line where the remote output ended without one."""
        if self._open_line and self._file(self._last).isatty():
            self.write("stderr", b"\n")
        self.flush()

    def _file(self, stream: str) -> Any:
        return sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer


class Interrupts:
    """Ctrl-C while an execution runs: the first asks for its cancel, the second leaves."""

    def __init__(self) -> None:
        self.asked = False
        self._cancel: Callable[[], None] | None = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def cancels(self, cancel: Callable[[], None]) -> None:
        """Say what the first Ctrl-C does, as soon as there is something to cancel; one that came before counts."""
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
        # On a thread: the signal comes in the middle of reading the stream, which goes on until the execution has ended.
        assert self._cancel is not None
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()


def watch(client: Client, execution: Json, interrupts: Interrupts | None, *, as_json: bool = False) -> Exit:
    """Show an execution until it has ended, then its summary; the exit code. Without `interrupts` Ctrl-C just leaves."""
    if interrupts is not None:
        interrupts.cancels(lambda: _cancel(client, int(execution["id"])))
    try:
        ended, tally = follow(client, execution, as_json=as_json)
    except KeyboardInterrupt:
        fate = "goes on" if interrupts is None else "is being cancelled"
        raise CommandFailed(
            f"left before the end; execution {execution['id']} {fate}: {_see(execution)}", Exit.INTERRUPTED
        ) from None
    except BrokenPipeError:
        hush()
        raise CommandFailed(f"nobody reads the output any more; execution {execution['id']} goes on: {_see(execution)}") from None
    tell("\n".join(tally.summary(ended)))
    return of_execution(str(ended["status"]), interrupted=interrupts is not None and interrupts.asked)


def follow(client: Client, execution: Json, *, as_json: bool = False) -> tuple[Json, Tally]:
    """Put out everything that an execution says until it has ended; how it ended, and what it came to."""
    names = _Names(client, int(execution["id"]))
    several = int(execution["total_targets"]) > 1
    terminal, tally = Terminal(), Tally(names)
    lines = Lines(terminal.write, names if several else None)
    for events in client.follow(int(execution["id"]), tell):
        for event in events:
            _show(event, terminal, lines, tally, as_json)
        terminal.flush()
    terminal.close_line()
    return _ended(client, execution, tally), tally


def _see(execution: Json) -> str:
    return f"`opsjobs executions show {execution['id']}`"


def _show(event: Event, terminal: Terminal, lines: Lines, tally: Tally, as_json: bool) -> None:
    data = json.loads(event.data)
    tally.event(event.event, data)
    if as_json:
        position = int(event.id) if event.id.isdigit() else None
        line = json.dumps({"id": position, "event": event.event, "data": data}, ensure_ascii=False, separators=(",", ":"))
        terminal.write("stdout", line.encode("utf-8", "backslashreplace") + b"\n")
    elif event.event == "output":
        lines.output(data)
    elif event.event == "result":
        lines.finish(data.get("target_run"), data.get("action_key"))
    elif event.event == "end":
        lines.finish()


def _ended(client: Client, execution: Json, tally: Tally) -> Json:
    """The execution as it ended; from its last event where the service went away right after that."""
    try:
        return dict(client.get(f"/executions/{execution['id']}"))
    except CommandFailed:
        return {**execution, **(tally.ended or {})}


def _cancel(client: Client, execution_id: int) -> None:
    tell(f"cancelling execution {execution_id}; Ctrl-C again leaves without waiting")
    try:
        client.post(f"/executions/{execution_id}/cancel", {"reason": "Ctrl-C"})
    except Refused as refused:
        if refused.status != 409:  # ended in the meantime: its end is about to come
            tell(f"the cancel was refused: {refused}")
    except CommandFailed as failed:
        tell(f"the cancel did not get through: {failed}")


class _Names:
    """The names of an execution's targets by their ids, fetched when the first is needed."""

    def __init__(self, client: Client, execution_id: int) -> None:
        self._client = client
        self._path = f"/executions/{execution_id}/targets"
        self._known: dict[str, str] | None = None

    def __call__(self, target_id: str) -> str:
        if self._known is None:
            runs, _ = self._client.items(self._path, limit=0)
            self._known = {str(r["target"]["id"]): str(r["target"]["name"]) for r in runs}
        return self._known.get(target_id, target_id)
