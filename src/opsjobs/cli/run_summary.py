"""Summary of an execution, gathered from its events."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.cli.output_lines import bytes_of
from opsjobs.cli.render import plain, pluralize, render_counts, seconds
from opsjobs.model.execution import ErrorCode, RunStatus
from opsjobs.model.run_views import last_line

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
        """Return the number of runs in each status, of runs with an event."""
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
        """Yield one line for each group of runs that failed alike.

        For example `3 failed at step patch, exit 100: E: Could not get lock (app03, db07, web09)`.
        """
        alike: dict[str, list[str]] = {}
        for run in self._runs.values():
            if run.status not in (RunStatus.SUCCEEDED, RunStatus.WAITING, RunStatus.RUNNING):
                alike.setdefault(self._why(run), []).append(plain(self._names(run.target)))
        ranked = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
        for why, names in ranked[:FAILURES_SHOWN]:
            yield f"  {failure(why, sorted(names))}"
        if len(ranked) > FAILURES_SHOWN:
            left = sum(len(names) for _, names in ranked[FAILURES_SHOWN:])
            yield f"  … and {left} more: `opsjobs executions show {execution_id}`"

    def _why(self, run: _Run) -> str:
        words = (
            last_line(run.stderr.decode("utf-8", "replace"))
            if run.code in ("", ErrorCode.NONZERO_EXIT)
            else ""
        )
        # The step of an ad-hoc command is always the same.
        step = run.step if len(self._steps) > 1 or run.step != "step-1" else ""
        return why(run.status, step, run.exit_code, run.code, words or run.message)


def why(status: str, step: str, exit_code: int | None, code: str, words: str) -> str:
    """Return a failure, each fact once: `failed at step patch, exit 100: could not get lock`."""
    at = f" at step {plain(step)}" if step else ""
    exited = f", exit {exit_code}" if exit_code else ""
    named = f" ({code})" if code and code not in (status, ErrorCode.NONZERO_EXIT) else ""
    if code == ErrorCode.NONZERO_EXIT and re.fullmatch(r"exit (status )?\d+", words):
        words = ""
    return f"{status}{at}{exited}{named}{': ' + plain(words) if words else ''}"


def failure(reason: str, names: Sequence[str]) -> str:
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
