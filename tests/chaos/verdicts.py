"""The verdict on every run of a round: right, honest about what cannot be known, or wrong, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg.rows import DictRow

from chaos.work import Step, Work
from kit.start_witness import Testimony, Witness

RIGHT, LOST, UNREACHABLE, DEAD, NO_SPOOL = "right", "lost", "unreachable", "dead", "no spool"
"""The verdicts; any other one is the sentence that describes the error."""

_RUNS = """
select id, uuid, execution_id, target_host as host, status, exit_code, error_code, error_message, cancel_proof, attempt, finished_at
from target_runs where execution_id = any(%s)"""
_RESULTS = """
select target_run_id, action, attempt, status, exit_code, error_code, cancel_proof, stdout_bytes, stderr_bytes, outputs
from job_execution_results where execution_id = any(%s)"""
_OUTPUT = """
select target_run_id, action, attempt, stream, string_agg(data, ''::bytea order by seq) as data, sum(dropped) as dropped
from execution_log where event = 'output' and execution_id = any(%s) group by 1, 2, 3, 4"""


@dataclass
class Launched:
    """One execution of a round."""

    id: int
    mark: str
    work: Work
    addresses: Sequence[str]
    cancelled: bool = False

    def key(self, number: int, host: str) -> str:
        """Return the witness's key of a step (1, 2 …) on a machine."""
        return f"{self.mark}-{number}.{host}"


_TOLD = ("id", "uuid", "status", "exit_code", "error_code", "error_message", "cancel_proof")

Streams = tuple[bytes, bytes]
Own = Callable[["Seen"], str | None]
"""Return the fault's own verdict for a run that it has changed; None for the usual one."""


@dataclass
class Seen:
    """One run, as database, log and witness show it."""

    launched: Launched
    row: DictRow
    results: Mapping[str, DictRow]
    said: Mapping[str, Streams]
    dropped: bool
    starts: Sequence[Sequence[Testimony]] = field(default_factory=list)
    ends: Sequence[Sequence[Testimony]] = field(default_factory=list)

    @property
    def started(self) -> int:
        """The number of its commands that have started."""
        return sum(len(starts) for starts in self.starts)

    def expected(self, number: int) -> Streams:
        """Return the output of the step without a fault."""
        step, key = (
            self.launched.work.steps[number - 1],
            self.launched.key(number, self.row["host"]),
        )
        return step.stdout(key), step.stderr(key)

    def heard(self, number: int) -> Streams:
        """Return the stored output."""
        return self.said.get(f"step-{number}", (b"", b""))

    def __str__(self) -> str:
        told = {name: self.row[name] for name in _TOLD}
        return f"execution {self.launched.id} ({self.launched.work.name}) on {self.row['host']}: {told}"


class RunChecker:
    """Checks the runs of one round.

    `lost`, `unreachable`: whether these may be the outcome of an honest record here.
    """

    def __init__(
        self,
        rows: Callable[..., Sequence[DictRow]],
        witness: Witness,
        *,
        allowed: Iterable[str],
        own: Own | None,
    ) -> None:
        self._rows = rows
        self._witness = witness
        self._allowed = frozenset(allowed)
        self._own = own or (lambda _: None)

    def check(self, launched: Sequence[Launched]) -> list[tuple[Seen, str]]:
        """Return every run with its verdict."""
        return [(seen, self._verdict(seen)) for seen in self.look(launched)]

    def look(self, launched: Sequence[Launched]) -> list[Seen]:
        """Return every run, with the latest attempt of its actions."""
        by_id = {one.id: one for one in launched}
        results = self._results(list(by_id))
        said, dropped = self._said(list(by_id), results)
        starts, ends = self._witness.starts(), self._witness.ends()
        found = []
        for run in self._rows(_RUNS, list(by_id)):
            one = by_id[run["execution_id"]]
            keys = [one.key(number, run["host"]) for number in range(1, len(one.work.steps) + 1)]
            seen = Seen(one, run, results[run["id"]], said[run["id"]], run["id"] in dropped)
            seen.starts, seen.ends = (
                [starts.get(key, []) for key in keys],
                [ends.get(key, []) for key in keys],
            )
            found.append(seen)
        return found

    def _results(self, executions: Sequence[int]) -> dict[int, dict[str, DictRow]]:
        results: dict[int, dict[str, DictRow]] = defaultdict(dict)
        for row in sorted(self._rows(_RESULTS, executions), key=lambda row: row["attempt"]):
            results[row["target_run_id"]][row["action"]] = row
        return results

    def _said(
        self, executions: Sequence[int], results: Mapping[int, Mapping[str, DictRow]]
    ) -> tuple[dict[int, dict[str, Streams]], set[int]]:
        said: dict[int, dict[str, Streams]] = defaultdict(dict)
        dropped: set[int] = set()
        for row in self._rows(_OUTPUT, executions):
            run, action = row["target_run_id"], row["action"]
            if row["attempt"] != results[run][action]["attempt"]:
                continue
            stdout, stderr = said[run].get(action, (b"", b""))
            data = bytes(row["data"] or b"")
            said[run][action] = (data, stderr) if row["stream"] == "stdout" else (stdout, data)
            dropped |= {run} if row["dropped"] else set()
        return said, dropped

    def _verdict(self, seen: Seen) -> str:
        if seen.row["finished_at"] is None:
            return f"has not ended (I5): {seen}"
        if twice := [starts for starts in seen.starts if len(starts) > 1]:
            return f"started twice (I1), {twice}: {seen}"
        own = self._own(seen)
        verdict = own if own is not None else self._by_status(seen)
        return verdict if verdict in (RIGHT, *self._allowed) else f"{verdict}: {seen}"

    def _by_status(self, seen: Seen) -> str:
        match seen.row["status"]:
            case "cancelled":
                return cancelled(seen)
            case "lost":
                return lost(seen)
            case "unreachable":
                return unreachable(seen)
            case "dead":
                return check_dead(seen)
            case status:
                planned = seen.launched.work.status
                return as_planned(seen) if status == planned else f"is {status}, not {planned}"


def as_planned(seen: Seen) -> str:
    """Check that every step ended as it does without a fault, with every byte."""
    steps = seen.launched.work.steps
    if seen.dropped:
        return "output was dropped"
    for number, step in enumerate(steps, start=1):
        if fault := _step(seen, number, step):
            return f"step {number} {fault}"
    deciding = next((step for step in steps if step.status != "succeeded"), steps[-1])
    code = None if deciding.timeout else deciding.code
    return (
        RIGHT
        if seen.row["exit_code"] == code
        else f"says exit code {seen.row['exit_code']}, not {code} (I10)"
    )


def _step(seen: Seen, number: int, step: Step) -> str:
    result = seen.results.get(f"step-{number}")
    starts, ends = seen.starts[number - 1], seen.ends[number - 1]
    if result is None or result["status"] != step.status:
        return f"is {result and result['status']}, not {step.status}"
    if len(starts) != 1:
        return f"started {len(starts)} times (I1)"
    if seen.heard(number) != seen.expected(number):
        return f"said {_differing(seen.heard(number), seen.expected(number))} (I3)"
    if step.timeout:
        return "" if not ends and result["exit_code"] is None else "went on beyond its timeout"
    if result["exit_code"] != step.code or [end.code for end in ends] != [step.code]:
        return f"has exit code {result['exit_code']}, testified {[e.code for e in ends]}, not {step.code} (I10)"
    return _handed_on(seen, number, step)


def _handed_on(seen: Seen, number: int, step: Step) -> str:
    key = seen.launched.key(number, seen.row["host"])
    stored = seen.results[f"step-{number}"]["outputs"] or {}
    expected = step.outputs(key) if step.outputs else {}
    differing = [name for name in {**stored, **expected} if stored.get(name) != expected.get(name)]
    return (
        f"handed on {len(stored)} values of {len(expected)}, other ones in {differing[:3]} (I3)"
        if differing
        else ""
    )


def _differing(heard: Streams, expected: Streams) -> str:
    differences = []
    for name, got, meant in zip(("stdout", "stderr"), heard, expected, strict=True):
        if got != meant:
            at = next(
                (n for n, (a, b) in enumerate(zip(got, meant, strict=False)) if a != b),
                min(len(got), len(meant)),
            )
            parts = f"{got[at : at + 40]!r} for {meant[at : at + 40]!r}"
            differences.append(
                f"{len(got)} of {len(meant)} bytes of {name}, other from byte {at} on: {parts}"
            )
    return "; ".join(differences)


def cancelled(seen: Seen) -> str:
    """Check the proof of a requested cancel.

    never_started: no step did. killed: it did not come to its end. None: it only waited.
    """
    if not seen.launched.cancelled:
        return "was cancelled, and nobody asked for that"
    proof = seen.row["cancel_proof"]
    if proof == "never_started":
        return RIGHT if not _unfinished(seen) else "was never started, it says, and did (I9)"
    if proof in ("killed", None):
        return RIGHT if honest_beginning(seen) else "stored what the command did not say (I3)"
    return f"was cancelled with the proof {proof}"


def lost(seen: Seen) -> str:
    """Check that an unknown outcome has no exit code, and only output of the command."""
    if seen.row["exit_code"] is not None or seen.row["error_code"] != "lost":
        return f"is lost, with exit code {seen.row['exit_code']} and error {seen.row['error_code']} (I10)"
    return (
        LOST if honest_beginning(seen) else "is lost, and stored what the command did not say (I3)"
    )


def unreachable(seen: Seen) -> str:
    """Check that it did not begin."""
    if _unfinished(seen):
        return "is unreachable, it says, and started"
    return (
        UNREACHABLE
        if honest_beginning(seen)
        else "is unreachable, and stored what the command did not say (I3)"
    )


def check_dead(seen: Seen) -> str:
    """Check that it was given up after too many dead workers."""
    return (
        DEAD
        if seen.row["error_code"] == "poison" and honest_beginning(seen)
        else "is dead for no good reason"
    )


def _unfinished(seen: Seen) -> list[int]:
    """Return the steps that have started without a result that has their end."""
    told = {
        action
        for action, result in seen.results.items()
        if result["status"] in ("succeeded", "failed", "timeout")
    }
    return [
        number
        for number, starts in enumerate(seen.starts, start=1)
        if starts and f"step-{number}" not in told
    ]


def honest_beginning(seen: Seen) -> bool:
    """Check that the stored output is the beginning of the commands' output, and nothing else."""
    pairs = (
        pair
        for n in range(1, len(seen.starts) + 1)
        for pair in zip(seen.heard(n), seen.expected(n), strict=True)
    )
    return all(meant.startswith(got) for got, meant in pairs)


def crowds(seen: Iterable[Seen], slots: int) -> list[str]:
    """Return machines on which more commands ran at once than they have slots (I7).

    The witness shows it.
    """
    moments: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in seen:
        for starts, ends in zip(one.starts, one.ends, strict=True):
            if starts and ends:
                moments[one.row["host"]] += [(starts[0].at, 1), (ends[0].at, -1)]
    found = []
    for host, changes in moments.items():
        at_once = highest = 0
        for _, change in sorted(changes):
            at_once += change
            highest = max(highest, at_once)
        if highest > slots:
            found.append(f"{highest} commands at once on {host}, which has {slots} slots (I7)")
    return found
