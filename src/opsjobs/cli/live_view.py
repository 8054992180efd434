"""The live view of an execution, the reason of its wait, and its summary at the end."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from opsjobs.cli.client import Client, Json
from opsjobs.cli.errors import CommandFailed
from opsjobs.cli.messages import plain, pluralize
from opsjobs.cli.render import render_counts, seconds
from opsjobs.cli.terminal import Terminal, bytes_of
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.run_views import last_line

REDRAW_SECONDS = 0.5
QUIET_SECONDS = 1.5
"""Seconds without an event after which the service is asked why the execution waits."""
ASK_SECONDS_MAX = 15.0
"""The longest pause between these requests, which back off while it stays quiet."""


class LiveView:
    """Live view of one execution, in addition to its stream of events.

    Its own thread redraws the status line and requests the reason of a wait. `waits_seconds`: the
    time to wait for a person's decision; None: without limit. `left`: that time is over, so the
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
        self._terminal.notice(render_header(self._execution))
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
        hold = render_wait_reason(execution)
        if hold is not None and hold != self._hold and not self._over.is_set():
            self._terminal.notice(hold, "yellow")
        if hold is None:
            self._waits_since = None
        elif get_wait_kind(execution) in DECIDED_BY_PEOPLE:
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
        elapsed = now - self._began
        if done and elapsed >= 1.0:
            parts.append(f"{done / elapsed:.1f}/s")
        if self._hold:
            parts.insert(0, "PAUSED" if self._hold.startswith("paused") else "WAITING")
        return f"execution {self._execution['id']}: " + ", ".join([*parts, f"{elapsed:.0f} s"])


def render_header(execution: Mapping[str, Any]) -> str:
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


# --- waits


DECIDED_BY_PEOPLE = frozenset({"confirm", "max_fail", "pause", "approval"})
"""Kinds that only a person can decide."""


def get_wait_kind(execution: Mapping[str, Any]) -> str | None:
    """Return the kind of an execution's wait, or None if it does not wait."""
    return (execution.get("waiting_on") or {}).get("kind")


def render_wait_reason(execution: Mapping[str, Any]) -> str | None:
    """Return the reason of an execution's wait and how to continue it, or None.

    For example `paused: wave 1 of 2 has ended. Continue with: …`.
    """
    waiting = execution.get("waiting_on")
    if not waiting:
        return None
    number, reason = execution.get("id"), plain(waiting.get("reason") or "").rstrip(".")
    what, answer = f"waiting: {reason}", f"See: opsjobs executions show {number} -o wide"
    match waiting.get("kind"):
        case "confirm":
            what, answer = f"paused: {reason}", f"Continue with: opsjobs executions resume {number}"
        case "max_fail":
            what = f"paused: {reason}"
            answer = (
                f"Accept the failures with: opsjobs executions resume {number}; or end it: "
                f"opsjobs executions cancel {number}"
            )
        case "pause":
            by = f" by {plain(waiting['by'])}" if waiting.get("by") else ""
            what = f"paused{by}{': ' if reason else ''}{reason}"
            answer = f"Continue with: opsjobs executions resume {number}"
        case "approval":
            approval = waiting.get("approval")
            what = f"waiting for approval {approval}: {reason}"
            answer = (
                f"See: opsjobs approvals show {approval}. Another person decides with: "
                f"opsjobs approvals approve {approval}"
            )
        case "exclusive" if waiting.get("execution") is not None:
            answer = f"See: opsjobs executions show {waiting.get('execution')}"
        case "workers":
            answer = (
                "Start one with: opsjobs worker --zone "
                f"{plain((waiting.get('zones') or ['default'])[0])}"
            )
        case "maintenance":
            answer = f"See: opsjobs targets show {plain(waiting.get('target'))}"
        case "slot":
            answer = "See: opsjobs executions list --status running"
    return f"{what}. {answer}"


# --- the summary


FAILURES_SHOWN = 20
NAMES_SHOWN = 8
LAST_WORDS_BYTES = 1_024
SLOWEST_SHOWN = 3


@dataclass(slots=True)
class _Run:
    """State of one target run, from its events so far."""

    target: str = ""
    status: str = RunStatus.WAITING
    code: str = ""
    message: str = ""
    exit_code: int | None = None
    duration_ms: float = 0.0
    proof: str | None = None
    step: str = ""
    """The action that did not succeed."""
    stderr: bytes = b""
    """The end of its stderr."""


# Cancel proofs in words, in this order.
_PROOFS = {
    "killed": "killed",
    "already_finished": "already finished",
    "never_started": "never started",
    "unreachable": "unreachable, perhaps still running",
}


class Tally:
    """Counts by status, durations and failures of one execution."""

    def __init__(self, names: Callable[[str], str]) -> None:
        self._names = names
        self._runs: dict[object, _Run] = {}
        self._steps: set[str] = set()
        self.ended: Mapping[str, Any] | None = None

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Process one event; only the end of stderr is kept of output."""
        if kind == "output" and data.get("stream") == "stderr" and not data.get("dropped"):
            run = self._run(data)
            run.stderr = (run.stderr + bytes_of(data))[-LAST_WORDS_BYTES:]
        elif kind == "status" and data.get("target_run") is not None:
            self._status(data)
        elif kind == "result":
            self._result(data)
        elif kind == "end":
            self.ended = data

    def counts(self) -> Counter[str]:
        """Return the number of runs in each status, counting only runs with an event."""
        return Counter(run.status for run in list(self._runs.values()))

    def _run(self, data: Mapping[str, Any]) -> _Run:
        run = self._runs.setdefault(data.get("target_run"), _Run())
        target = data.get("target")
        run.target = str(target.get("id") if isinstance(target, Mapping) else target)
        return run

    def _status(self, data: Mapping[str, Any]) -> None:
        run, error = self._run(data), data.get("error") or {}
        run.status = str(data.get("status"))
        if isinstance(error, Mapping) and error:
            run.code, run.message = str(error.get("code", "")), str(error.get("message", ""))

    def _result(self, data: Mapping[str, Any]) -> None:
        run, error = self._run(data), data.get("error") or {}
        run.duration_ms += _took_ms(data)
        run.proof = data.get("cancel_proof") or run.proof
        self._steps.add(str(data.get("action_key") or ""))
        if data.get("status") not in (RunStatus.SUCCEEDED, RunStatus.SKIPPED, None):
            run.step = str(data.get("action_key") or "")
        if isinstance(data.get("exit_code"), int):
            run.exit_code = data["exit_code"]
        if isinstance(error, Mapping) and error and not run.code:
            run.code, run.message = str(error.get("code", "")), str(error.get("message", ""))

    def summary(self, execution: Mapping[str, Any]) -> Iterator[str]:
        """Yield the summary of this ended execution (the response of GET /executions/{id})."""
        total, duration_ms = int(execution["total_targets"]), execution.get("duration_ms")
        counts = render_counts(
            execution.get("counts") or Counter(r.status for r in self._runs.values())
        )
        speed = f" ({total * 1_000 / duration_ms:.1f} targets/s)" if duration_ms else ""
        of = f"of {pluralize(total, 'target')} in {seconds(duration_ms)}{speed}"
        yield f"execution {execution['id']} {execution['status']}: {counts} {of}"
        slowest = self.slowest()
        if len(self._runs) > 1 and slowest:
            yield "slowest: " + ", ".join(f"{name} {seconds(ms)}" for name, ms in slowest)
        if proofs := self._proofs():
            yield f"stopped: {proofs}"
        yield from self._failures(int(execution["id"]))

    def _proofs(self) -> str:
        """Return the cancel proofs of stopped commands: `3 killed, 1 already finished`."""
        seen = Counter(run.proof for run in self._runs.values())
        return ", ".join(
            f"{seen[proof]} {words}" for proof, words in _PROOFS.items() if seen[proof]
        )

    def slowest(self, shown: int = SLOWEST_SHOWN) -> list[tuple[str, float]]:
        """Return the slowest runs: name, and milliseconds of their actions together."""
        runs = sorted(
            (r for r in self._runs.values() if r.duration_ms), key=lambda r: -r.duration_ms
        )
        return [(plain(self._names(r.target)), r.duration_ms) for r in runs[:shown]]

    def _failures(self, execution_id: int) -> Iterator[str]:
        """Yield one line for each group of runs with the same failure.

        For example `3 failed at step patch, exit 100: E: Could not get lock (app03, db07, web09)`.
        """
        alike: dict[str, list[str]] = {}
        for run in self._runs.values():
            if run.status not in (RunStatus.SUCCEEDED, RunStatus.WAITING, RunStatus.RUNNING):
                alike.setdefault(self._why(run), []).append(plain(self._names(run.target)))
        ranked = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
        for reason, names in ranked[:FAILURES_SHOWN]:
            yield f"  {render_failures(reason, sorted(names))}"
        if len(ranked) > FAILURES_SHOWN:
            left = sum(len(names) for _, names in ranked[FAILURES_SHOWN:])
            yield f"  … and {left} more: `opsjobs executions show {execution_id}`"

    def _why(self, run: _Run) -> str:
        words = (
            last_line(run.stderr.decode("utf-8", "replace"))
            if run.code in ("", ErrorCode.NONZERO_EXIT)
            else ""
        )
        # All ad-hoc commands have the same step, so it is not shown.
        step = run.step if len(self._steps) > 1 or run.step != "step-1" else ""
        return render_reason(run.status, step, run.exit_code, run.code, words or run.message)


def render_reason(status: str, step: str, exit_code: int | None, code: str, words: str) -> str:
    """Return a failure, each fact once: `failed at step patch, exit 100: could not get lock`."""
    at = f" at step {plain(step)}" if step else ""
    exited = f", exit {exit_code}" if exit_code else ""
    named = f" ({code})" if code and code not in (status, ErrorCode.NONZERO_EXIT) else ""
    if code == ErrorCode.NONZERO_EXIT and re.fullmatch(r"exit (status )?\d+", words):
        words = ""
    return f"{status}{at}{exited}{named}{': ' + plain(words) if words else ''}"


def render_failures(reason: str, names: Sequence[str]) -> str:
    """Return `3 failed at step patch: … (app03, db07, web09)`; for one, its name comes first."""
    if len(names) == 1:
        return f"{names[0]} {reason}"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} {reason} ({', '.join(names[:NAMES_SHOWN])}{more})"


def _took_ms(result: Mapping[str, Any]) -> float:
    begun, ended = result.get("started_at"), result.get("finished_at")
    if not begun or not ended:
        return 0.0
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() * 1_000
