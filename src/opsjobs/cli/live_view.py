"""Live view of an execution: header, status line, notices of what it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from opsjobs.cli.client import Client, Json
from opsjobs.cli.exit_codes import CommandFailed
from opsjobs.cli.render import plain, pluralize
from opsjobs.cli.run_summary import Tally
from opsjobs.cli.terminal import Terminal
from opsjobs.cli.waiting_reasons import PEOPLE, hold_of, kind_of

REDRAW_SECONDS = 0.5
QUIET_SECONDS = 1.5
"""After this long without an event, the service is asked what the execution waits for."""
ASK_SECONDS_MAX = 15.0
"""The longest pause between these requests, which back off while it stays quiet."""


class LiveView:
    """Live view of one execution, beside its stream of events.

    Its own thread redraws the status line and asks what the execution waits for. `waits_seconds`:
    how long to wait for a person's decision; None: without limit. `left`: that time is over, so the
    view should end.
    """

    def __init__(
        self,
        client: Client,
        execution: Json,
        terminal: Terminal,
        tally: Tally,
        *,
        waits_seconds: float | None = None,
    ) -> None:
        self._client = client
        self._execution = execution
        self._terminal = terminal
        self._tally = tally
        self._waits_seconds = waits_seconds
        self._wave: tuple[int, int] | None = _wave_of(execution)
        self._began = self._moved = time.monotonic()
        self._ask = threading.Event()
        self._over = threading.Event()
        self._moves = 0
        self._hold: str | None = None
        self._waits_since: float | None = None
        self.left = False
        self._thread = threading.Thread(target=self._watch, name="live", daemon=True)

    def __enter__(self) -> LiveView:
        self._terminal.notice(header(self._execution))
        self._consider(self._execution)
        self._limit(time.monotonic())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> None:
        self._over.set()
        self._ask.set()
        self._thread.join(None if kind is None else 0.0)
        self._terminal.status("")

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Process one event that was just shown."""
        self._moved = time.monotonic()
        if (
            kind == "status"
            and data.get("execution") is not None
            and data.get("target_run") is None
        ):
            self._execution_moved(data)

    def _execution_moved(self, data: Mapping[str, Any]) -> None:
        self._moves += 1
        if data.get("wave") is not None:
            self._wave = (int(data["wave"]), int(data["waves"]))
        by = (
            f"resumed by {plain(data['by'])}"
            if data.get("by") and data.get("status") != "paused"
            else ""
        )
        wave = f"wave {data['wave']} of {data['waves']}" if data.get("wave") is not None else ""
        if notice := ": ".join(part for part in (by, wave) if part):
            self._terminal.notice(notice)
        elif data.get("reason") and data.get("status") != "paused":
            self._terminal.notice(plain(data["reason"]), "yellow")
        self._ask.set()

    # --- on the thread

    def _watch(self) -> None:
        pause_seconds, due = QUIET_SECONDS, self._began + QUIET_SECONDS
        while not self._over.is_set():
            urgent = self._ask.wait(REDRAW_SECONDS)
            self._ask.clear()
            if self._over.is_set():
                return
            now = time.monotonic()
            if self._moved > due - pause_seconds:
                pause_seconds = QUIET_SECONDS
                due = self._moved + pause_seconds
            if urgent or now >= due:
                self._look()
                pause_seconds = min(pause_seconds * 2, ASK_SECONDS_MAX)
                due = now + pause_seconds
            self._limit(now)
            self._terminal.status(self._status_line(now))

    def _look(self) -> None:
        moves = self._moves
        try:
            now = self._client.get(f"/executions/{self._execution['id']}")
        except CommandFailed:
            return  # the stream reports the outage, and resumes afterwards
        if moves == self._moves:  # else the response is outdated; it is requested again at once
            self._consider(now)

    def _consider(self, execution: Mapping[str, Any]) -> None:
        hold = hold_of(execution)
        if hold is not None and hold != self._hold and not self._over.is_set():
            self._terminal.notice(hold, "yellow")
        if hold is None:
            self._waits_since = None
        elif kind_of(execution) in PEOPLE:
            self._waits_since = self._waits_since or time.monotonic()
        self._hold = hold

    def _limit(self, now: float) -> None:
        if (
            self._waits_seconds is not None
            and self._waits_since is not None
            and now - self._waits_since >= self._waits_seconds
        ):
            self.left = True

    def _status_line(self, now: float) -> str:
        total = int(self._execution["total_targets"])
        counts = self._tally.counts()
        done = sum(counts.values()) - counts.pop("running", 0)
        running = self._tally.counts().get("running", 0)
        failed = sum(n for status, n in counts.items() if status not in ("succeeded", "waiting"))
        parts = [
            f"{done}/{total} done",
            f"{running} running",
            f"{max(total - done - running, 0)} waiting",
        ]
        if failed:
            parts.append(f"{failed} not succeeded")
        if self._wave is not None and self._wave[1] > 1:
            parts.append(f"wave {self._wave[0]} of {self._wave[1]}")
        seconds = now - self._began
        if done and seconds >= 1.0:
            parts.append(f"{done / seconds:.1f}/s")
        if self._hold:
            parts.insert(0, "PAUSED" if self._hold.startswith("paused") else "WAITING")
        return f"execution {self._execution['id']}: " + ", ".join([*parts, f"{seconds:.0f} s"])


def header(execution: Mapping[str, Any]) -> str:
    """Return the first line: `execution 19 of nightly on 20 targets (wave 1 of 2)`."""
    name = execution.get("job_name")
    of = f" of {plain(name)}" if name and execution.get("job_id") is not None else ""
    wave = _wave_of(execution)
    waves = f" (wave {wave[0]} of {wave[1]})" if wave is not None and wave[1] > 1 else ""
    return (
        f"execution {execution['id']}{of} on "
        f"{pluralize(int(execution['total_targets']), 'target')}{waves}"
    )


def _wave_of(execution: Mapping[str, Any]) -> tuple[int, int] | None:
    waves = execution.get("waves")
    return (int(waves["open"]), int(waves["total"])) if waves else None
