"""What an execution came to, gathered from its events as they pass, and told in a few lines at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opsjobs.cli.render import counted, counts, plain, seconds
from opsjobs.model.execution import RunStatus

FAILURES_SHOWN = 20
SLOWEST_SHOWN = 3


@dataclass(slots=True)
class _Run:
    """One target run as far as its events have told."""

    target: str = ""
    status: str = RunStatus.WAITING
    code: str = ""
    message: str = ""
    exit_code: int | None = None
    duration_ms: float = 0.0
    proof: str | None = None


# What a cancel or a timeout found, in words; in this order.
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
        self.ended: Mapping[str, Any] | None = None

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take in one event; output is not looked at."""
        if kind == "status" and data.get("target_run") is not None:
            self._status(data)
        elif kind == "result":
            self._result(data)
        elif kind == "end":
            self.ended = data

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
        if isinstance(data.get("exit_code"), int):
            run.exit_code = data["exit_code"]
        if isinstance(error, Mapping) and error and not run.code:
            run.code, run.message = str(error.get("code", "")), str(error.get("message", ""))

    def summary(self, execution: Mapping[str, Any]) -> Iterator[str]:
        """The lines of the summary of this ended execution (as GET /executions/{id} gives it)."""
        total, duration_ms = int(execution["total_targets"]), execution.get("duration_ms")
        told = counts(execution.get("counts") or Counter(r.status for r in self._runs.values()))
        speed = f" ({total * 1_000 / duration_ms:.1f} targets/s)" if duration_ms else ""
        of = f"of {counted(total, 'target')} in {seconds(duration_ms)}{speed}"
        yield f"execution {execution['id']} {execution['status']}: {told} {of}"
        slowest = self.slowest()
        if len(self._runs) > 1 and slowest:
            yield "slowest: " + ", ".join(f"{name} {seconds(ms)}" for name, ms in slowest)
        if proofs := self._proofs():
            yield f"stopped: {proofs}"
        yield from self._failures(int(execution["id"]))

    def _proofs(self) -> str:
        """`3 killed, 1 already finished`: what was proven of the commands that were to be stopped."""
        seen = Counter(run.proof for run in self._runs.values())
        return ", ".join(f"{seen[proof]} {words}" for proof, words in _PROOFS.items() if seen[proof])

    def slowest(self, shown: int = SLOWEST_SHOWN) -> list[tuple[str, float]]:
        """The runs that took longest: name and milliseconds of their actions together."""
        runs = sorted((r for r in self._runs.values() if r.duration_ms), key=lambda r: -r.duration_ms)
        return [(plain(self._names(r.target)), r.duration_ms) for r in runs[:shown]]

    def _failures(self, execution_id: int) -> Iterator[str]:
        failed = [r for r in self._runs.values() if r.status not in (RunStatus.SUCCEEDED, RunStatus.WAITING, RunStatus.RUNNING)]
        failed.sort(key=lambda r: self._names(r.target))
        names = [plain(self._names(r.target)) for r in failed[:FAILURES_SHOWN]]
        width = max(map(len, names), default=0)
        for name, run in zip(names, failed, strict=False):
            yield f"  {name:<{width}}  {_why(run)}"
        if len(failed) > FAILURES_SHOWN:
            yield f"  … and {len(failed) - FAILURES_SHOWN} more: `opsjobs executions show {execution_id}`"


def _took_ms(result: Mapping[str, Any]) -> float:
    begun, ended = result.get("started_at"), result.get("finished_at")
    if not begun or not ended:
        return 0.0
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() * 1_000


def _why(run: _Run) -> str:
    """`failed, exit 3 (nonzero_exit)` or `unreachable (connection_refused): web-2 refused …`; no word twice."""
    code = f" ({run.code})" if run.code and run.code != run.status else ""
    exit_code = f", exit {run.exit_code}" if run.exit_code else ""
    message = f": {plain(run.message)}" if run.message else ""
    return f"{run.status}{exit_code}{code}{message}"
