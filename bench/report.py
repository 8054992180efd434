"""The figures as Markdown: each ratio with its reference, measured in the same run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from dispatch import Dispatch, FirstBytes
from ours import Round
from peers import Lap

STACK = ("worker", "postgres", "api", "scheduler", "valkey", "up")


@dataclass(slots=True)
class Figures:
    """The figures of one run. Fan-out: by name, parallel and temperature, the rounds in the order of measurement."""

    count: int
    commit: str
    versions: dict[str, str]
    strangers: list[float] = field(default_factory=list)
    """Cores that others kept busy, looked at between rounds."""
    seconds: float = 0.0
    remark: str = ""
    ready_new: list[float] = field(default_factory=list)
    ready_existing: list[float] = field(default_factory=list)
    idle_pss: dict[str, int] = field(default_factory=dict)
    idle_cpu: float = 0.0
    laps: dict[tuple[str, str, int], list[Lap]] = field(default_factory=dict)
    rounds: dict[tuple[str, str, int], list[Round]] = field(default_factory=dict)
    commands: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that a single `true` took, by its durability: off, required."""
    dispatch: Dispatch | None = None
    first_bytes: FirstBytes | None = None

    def lap(self, temperature: str, who: str, parallel: int, lap: Lap) -> None:
        """Add a round of a peer."""
        self.laps.setdefault((temperature, who, parallel), []).append(lap)

    def round(self, temperature: str, who: str, parallel: int, done: Round) -> None:
        """Add a round of opsjobs; the table shows it as `opsjobs` or `durable` with the worker's CPU."""
        self.rounds.setdefault((temperature, who, parallel), []).append(done)
        self.lap(temperature, who, parallel, Lap(done.seconds, done.cpu["worker"]))

    def rate(self, temperature: str, who: str, parallel: int) -> float:
        """Return the median of targets per second; 0 if it was not measured."""
        laps = self.laps.get((temperature, who, parallel))
        return self.count / median(lap.seconds for lap in laps) if laps else 0.0

    def ratio(
        self, temperature: str, who: str, parallel: int, against: str = "asyncssh"
    ) -> float | None:
        """Return the median ratio of rounds that were measured together; None if one of the two was not."""
        ours = self.laps.get((temperature, who, parallel), [])
        theirs = self.laps.get((temperature, against, parallel), [])
        if not ours or not theirs:
            return None
        pairs = zip(ours, theirs, strict=False)
        return median(b.seconds / a.seconds for a, b in pairs)


OURS = "opsjobs"
DURABLE = "durable"
WORDS = {
    OURS: "**opsjobs**, `durable: off` (API, worker, everything in PostgreSQL)",
    DURABLE: "**opsjobs**, durable (the same, and the command outlives its worker)",
    "asyncssh": "bare asyncssh (no record: the ceiling)",
    "parallel-ssh": "parallel-ssh (no record, host keys unchecked)",
    "ssh": "`ssh` under xargs",
    "ansible": "`ansible -m raw`",
}


def markdown(seen: Figures) -> str:
    """Return the text of RESULTS.md."""
    parts = [
        _head(seen),
        _goals(seen),
        _fan_out(seen, "warm"),
        _fan_out(seen, "cold"),
        _cpu(seen),
        _dispatch(seen),
        _stack(seen),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(seen: Figures) -> str:
    versions = ", ".join(f"{name} {version}".strip() for name, version in seen.versions.items())
    return (
        "# What `make bench` saw\n\n"
        f"One run on one machine with {os.cpu_count()} cores, which the targets (real OpenSSH servers), PostgreSQL, the service and the peers "
        "share: only ratios within a run mean something, and no figure here is a promise for another machine. Every figure is a median; "
        f"the rounds of all took turns. `echo ok` on {seen.count} loopback addresses.\n\n"
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {versions}; commit {seen.commit}; "
        f"between rounds others kept {median(seen.strangers or [0]):.1f} cores busy, {max(seen.strangers or [0]):.1f} at most; "
        f"{seen.seconds:.0f} s. {seen.remark}"
    )


def _goals(seen: Figures) -> str:
    rows = [row for row in _judged(seen) if row is not None]
    lines = [
        f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |"
        for what, goal, value, met in rows
    ]
    return "\n".join(["## Goals", "", "| what | goal | seen | met |", "|---|---|---|---|", *lines])


Judged = tuple[str, str, str, bool] | None


def _judged(seen: Figures) -> Iterable[Judged]:
    for temperature, goal in (("warm", 0.85), ("cold", 0.95)):
        for parallel in (32, 200):
            ratio = seen.ratio(temperature, OURS, parallel)
            yield _at_least(
                f"fan-out {temperature}, {parallel} parallel, of bare asyncssh", goal, ratio
            )
    for parallel in (32, 200):
        ratio = seen.ratio("warm", DURABLE, parallel)
        yield _at_least(f"durable fan-out warm, {parallel} parallel, of bare asyncssh", 0.4, ratio)
        laps = seen.laps.get(("warm", DURABLE, parallel), [])
        if laps:
            cpu = median(lap.cpu for lap in laps) / seen.count * 1000
            yield (
                f"durable fan-out warm, {parallel} parallel, worker CPU a run",
                "≤ 0.8 ms",
                f"{cpu:.2f} ms",
                cpu <= 0.8,
            )
    if seen.commands:
        more = (median(seen.commands["required"]) - median(seen.commands["off"])) * 1000
        yield (
            "a durable `true` on a warm connection, median above the direct one",
            "≤ 6 ms",
            f"{more:.1f} ms",
            more <= 6,
        )
    for temperature, word in (
        ("cold", "its first run"),
        ("warm", "its second run, over ControlPersist"),
    ):
        ansible, ours = seen.rate(temperature, "ansible", 32), seen.rate("warm", OURS, 32)
        yield _at_least(
            f"fan-out warm, 32 parallel, of ansible raw ({word})",
            25,
            ours / ansible if ansible else None,
        )
    yield from _judged_latency(seen)
    if seen.idle_pss:
        mib = sum(seen.idle_pss.values()) / (1 << 20)
        yield ("whole stack idle, PSS", "≤ 400 MB", f"{mib:.0f} MiB", mib * 1.048576 <= 400)
    for word, goal, times in (("new", 15, seen.ready_new), ("existing", 6, seen.ready_existing)):
        if times:
            yield (
                f"`up` ready, {word} data folder",
                f"≤ {goal} s",
                f"{median(times):.1f} s",
                median(times) <= goal,
            )


def _judged_latency(seen: Figures) -> Iterable[Judged]:
    if seen.first_bytes:
        answer, first = seen.first_bytes.answer, seen.first_bytes.output
        yield (
            "POST /execute answered, p50, service at rest",
            "≤ 10 ms",
            f"{answer.p50:.1f} ms",
            answer.p50 <= 10,
        )
        yield (
            "POST to the command's first byte on the stream, p50",
            "≤ 40 ms",
            f"{first.p50:.0f} ms",
            first.p50 <= 40,
        )
        yield ("the same, p99", "≤ 150 ms", f"{first.p99:.0f} ms", first.p99 <= 150)
    if seen.dispatch:
        alone, crowd = seen.dispatch.sequential, seen.dispatch.concurrent
        best = max(alone.rate, crowd.rate)
        yield (
            "POST /execute, rate of one API process, worker executing beside it",
            "≥ 300/s",
            f"{best:.0f}/s",
            best >= 300,
        )


def _at_least(what: str, goal: float, ratio: float | None) -> Judged:
    return (what, f"≥ {goal:g} x", f"{ratio:.2f} x", ratio >= goal) if ratio is not None else None


def _fan_out(seen: Figures, temperature: str) -> str:
    words = {"warm": "connections held from the round before", "cold": "every connection is new"}
    keys = sorted(
        (k for k in seen.laps if k[0] == temperature), key=lambda k: (k[2], -seen.rate(*k))
    )
    head = "| who | parallel | targets/s | least to most | of bare asyncssh | client CPU, ms a target | rounds |"
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|", *(_row(seen, *key) for key in keys)]
    return "\n".join([f"## Fan-out {temperature}: {words[temperature]}", "", *rows]) if keys else ""


def _row(seen: Figures, temperature: str, who: str, parallel: int) -> str:
    laps = seen.laps[temperature, who, parallel]
    ratio = seen.ratio(temperature, who, parallel)
    cpu = median(lap.cpu for lap in laps) / seen.count * 1000
    relation = f"{ratio:.2f}" if ratio is not None else ""
    rates = sorted(seen.count / lap.seconds for lap in laps)
    figures = f"{seen.rate(temperature, who, parallel):.0f} | {rates[0]:.0f} to {rates[-1]:.0f} | {relation} | {cpu:.2f}"
    return f"| {WORDS[who]} | {parallel} | {figures} | {len(laps)} |"


def _cpu(seen: Figures) -> str:
    keys = sorted(seen.rounds)
    if not keys:
        return ""
    head = [
        "| opsjobs, CPU ms a target | " + " | ".join(STACK) + " | all |",
        "|---|" + "---|" * (len(STACK) + 1),
    ]
    rows = [_cpu_row(seen, key) for key in keys]
    return "\n".join(["## Where opsjobs' CPU goes", "", *head, *rows])


def _cpu_row(seen: Figures, key: tuple[str, str, int]) -> str:
    rounds = seen.rounds[key]
    each = [
        sum(done.cpu.get(kind, 0.0) for done in rounds) / len(rounds) / seen.count * 1000
        for kind in STACK
    ]
    return (
        f"| {key[0]}, {key[1]}, {key[2]} parallel | "
        + " | ".join(f"{ms:.2f}" for ms in [*each, sum(each)])
        + " |"
    )


def _dispatch(seen: Figures) -> str:
    rows: list[Sequence[object]] = []
    if seen.dispatch:
        rows.append(("POST /execute without a pause, one caller", seen.dispatch.sequential))
        rows.append(
            (
                f"POST /execute without a pause, {seen.dispatch.callers} callers at once",
                seen.dispatch.concurrent,
            )
        )
    if seen.first_bytes:
        rows.append(("POST /execute answered, service at rest", seen.first_bytes.answer))
        rows.append(("POST to the first byte of the stream", seen.first_bytes.first))
        rows.append(("POST to the first byte that the command wrote", seen.first_bytes.output))
    if not rows:
        return ""
    head = ["| what | p50, ms | p99, ms | a second |", "|---|---|---|---|"]
    lines = [f"| {what} | {s.p50:.1f} | {s.p99:.1f} | {s.rate:.0f} |" for what, s in rows]  # type: ignore[attr-defined]
    return "\n".join(["## One target, warm", "", *head, *lines])


def _stack(seen: Figures) -> str:
    if not seen.idle_pss:
        return ""
    kinds = sorted(seen.idle_pss, key=lambda kind: -seen.idle_pss[kind])
    head = ["| " + " | ".join(kinds) + " | all | CPU of all |", "|" + "---|" * (len(kinds) + 2)]
    cells = [f"{seen.idle_pss[kind] / (1 << 20):.0f} MiB" for kind in kinds]
    row = (
        "| "
        + " | ".join(
            [
                *cells,
                f"{sum(seen.idle_pss.values()) / (1 << 20):.0f} MiB",
                f"{seen.idle_cpu * 100:.1f} %",
            ]
        )
        + " |"
    )
    return "\n".join(["## The whole stack, idle (PSS, one worker, no lab)", "", *head, row])
