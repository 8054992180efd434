"""Rounds of faults with a seed: launch, break, let the fault end, wait, check, count."""

from __future__ import annotations

import itertools
import math
import random
import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from chaos import verdicts
from chaos.cluster import SLOTS, ChaosCluster, chaos_cluster
from chaos.fault_context import FaultContext
from chaos.observers import DatabasePoller, EventListener
from chaos.verdicts import RunChecker, Seen
from e2e.processes import wait_until

END_SECONDS = 150.0
SURVIVE_SECONDS = 30.0
HONEST = (verdicts.LOST, verdicts.UNREACHABLE, verdicts.DEAD, verdicts.NO_SPOOL)


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break things.

    `allowed`: verdicts other than `right` that an honest record may have here.
    """

    name: str
    says: str
    inject: Callable[[FaultContext], None]
    allowed: frozenset[str] = frozenset()
    end_seconds: float = END_SECONDS
    needs_root: bool = False
    whole_only: bool = False
    """True if it is too long for a short session."""
    estranges: bool = False
    """A machine was replaced, which all workers have to see before the next round.

    If one dies before that, the outcome cannot be known.
    """


@dataclass
class Tally:
    """The outcomes of all rounds of one fault."""

    rounds: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another round."""
        self.rounds += other.rounds
        self.verdicts += other.verdicts
        self.wrong += other.wrong
        self.recovery_seconds += other.recovery_seconds

    @property
    def runs(self) -> int:
        """Return the number of runs that were checked."""
        return self.verdicts.total()

    def percentile(self, share: float) -> float:
        """The seconds from the end of the fault to the end of a run; 0 if none was left."""
        found = sorted(self.recovery_seconds)
        return found[min(len(found) - 1, math.ceil(share * len(found)) - 1)] if found else 0.0


class ChaosRunner:
    """Runs rounds on a cluster; after an error the cluster is replaced by a new one."""

    def __init__(
        self,
        seed: int,
        *,
        quick: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        keep: Path | None = None,
    ) -> None:
        self.seed = seed
        self.tallies: dict[str, Tally] = {}
        self.complaints: Counter[str] = Counter()
        self._quick = quick
        self._tell = tell
        self._keep = keep
        self._rounds = itertools.count(1)
        self._stack = ExitStack()
        self._cluster: ChaosCluster | None = None

    def __enter__(self) -> ChaosRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, faults: Sequence[Fault], minutes: float) -> Iterator[tuple[Fault, Tally]]:
        """Run rounds of these faults in random order until the time is up.

        Each has one round before any has a second one.
        """
        ends, order = time.monotonic() + minutes * 60, random.Random(self.seed)
        for turn in itertools.count():
            for fault in order.sample(faults, len(faults)):
                if time.monotonic() > ends:
                    return
                yield fault, self.round(fault, turn)

    def round(self, fault: Fault, turn: int = 0) -> Tally:
        """Run one round of a fault; the same seed, fault and turn make the same choices."""
        chance = random.Random(f"{self.seed}/{fault.name}/{turn}")
        began = time.monotonic()
        tally = self._round(self._ready(), fault, chance)
        self.tallies.setdefault(fault.name, Tally()).add(tally)
        counts = ", ".join(f"{n} {verdict}" for verdict, n in tally.verdicts.items())
        self._tell(f"{fault.name}: {counts}; {time.monotonic() - began:.1f} s")
        for wrong in tally.wrong:
            self._tell(f"    WRONG {wrong}")
        if tally.wrong:
            self._new_cluster(fault)
        return tally

    def _ready(self) -> ChaosCluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(chaos_cluster())
        return self._cluster

    def _new_cluster(self, after: Fault) -> None:
        if self._keep is not None and self._cluster is not None:
            place = self._keep / f"{after.name.replace(' ', '-')}-{time.time():.0f}"
            place.mkdir(parents=True)
            for log in [
                *self._cluster.folder.glob("*.log"),
                self._cluster.postgres._log,
                self._cluster.witness.path,
            ]:
                shutil.copy(log, place)
            for machine in self._cluster.fleet:
                machine.copy_records(place / machine.folder.name)
        self._stack.close()
        self._cluster = None

    def _round(self, cluster: ChaosCluster, fault: Fault, chance: random.Random) -> Tally:
        poller = DatabasePoller(lambda: cluster.postgres.url, SLOTS)
        context = FaultContext(cluster, chance, f"r{next(self._rounds)}", poller)
        context.quick = self._quick
        cluster.forget_circuits()
        cluster.let_boots_pass()
        before = len(cluster.rows("select id from job_executions"))
        listener = EventListener(cluster.valkey)
        for watching in (poller, listener):
            watching.start()
        over, late = time.time(), []
        try:
            fault.inject(context)
            over = time.time()
            cluster.heal()
            late = self._until_ended(cluster, context, fault.end_seconds)
        except Exception:
            late = [f"the round itself broke: {traceback.format_exc()}"]
        with_watchers = context.leave(30.0)
        for watching in (poller, listener):
            watching.close()
        for complaint in cluster.complaints():
            self.complaints[f"{fault.name}: {_in_short(complaint)}"] += 1
        poller.look()
        found = RunChecker(
            cluster.rows, cluster.witness, allowed=fault.allowed, own=context.own
        ).check(context.launched)
        tally = _tally(found, over)
        tally.wrong += (
            late
            + with_watchers
            + _seen_by(poller)
            + _heard_by(listener, found)
            + _whole(cluster, before + len(context.launched))
        )
        if not tally.verdicts[verdicts.LOST]:
            tally.wrong += verdicts.crowds([seen for seen, _ in found], SLOTS)
        tally.wrong += _survivors(cluster, [seen for seen, _ in found])
        cluster.sweep_up([launched.mark for launched in context.launched])
        if fault.estranges and not tally.wrong:
            context.warm_up(cluster.addresses)
        return tally

    def _until_ended(
        self, cluster: ChaosCluster, context: FaultContext, seconds: float
    ) -> list[str]:
        if not context.ended(seconds):
            return []  # the checker finds each run that has not ended
        try:
            wait_until(
                lambda: not cluster.rows("select 1 from events where published_at is null limit 1"),
                "every event is told",
            )
        except AssertionError as late:
            return [f"{late} (I8)"]
        return []


def _tally(found: Iterable[tuple[Seen, str]], over: float) -> Tally:
    tally, now = Tally(rounds=1), time.time()
    for seen, verdict in found:
        known = verdict == verdicts.RIGHT or verdict in HONEST
        tally.verdicts[verdict if known else "wrong"] += 1
        if not known:
            tally.wrong.append(verdict)
        finished = seen.row["finished_at"]
        # An end in the future was dated by a stepped clock: it does not show how long the recovery
        # took.
        if finished is not None and over < finished.timestamp() <= now:
            tally.recovery_seconds.append(finished.timestamp() - over)
    return tally


def _in_short(complaint: str) -> str:
    """Return the subject and the end of a log line, without the parts that differ each time."""
    event = re.search(r'"event": "([^"]*)"', complaint)
    return f"{event[1] if event else ''} … {complaint[-200:]}"


def _seen_by(poller: DatabasePoller) -> list[str]:
    changed = [
        f"a final state has changed (I4) from {was} to {now}" for was, now in poller.changed[:3]
    ]
    return changed + [f"more runs than slots (I7): {row}" for row in poller.crowded[:3]]


def _heard_by(listener: EventListener, found: Iterable[tuple[Seen, str]]) -> list[str]:
    untold = {
        str(seen.row["uuid"]) for seen, _ in found if seen.row["finished_at"]
    } - listener.ended
    return (
        [f"the ends of {len(untold)} runs were told to nobody (I8), such as {sorted(untold)[:3]}"]
        if untold and listener.sure
        else []
    )


def _survivors(cluster: ChaosCluster, found: Sequence[Seen]) -> list[str]:
    """Return processes of ended runs, except lost ones: they must end, too."""
    over = {
        str(seen.row["uuid"])
        for seen in found
        if seen.row["finished_at"] and seen.row["status"] not in HONEST
    }

    def left() -> dict[int, str]:
        all_of_them = cluster.windows.processes() | {
            pid: key
            for machine in cluster.fleet
            for pid, key in machine.durable_processes().items()
        }
        return {pid: key for pid, key in all_of_them.items() if key.partition(".")[0] in over}

    try:
        wait_until(lambda: not left(), "nothing of them runs", SURVIVE_SECONDS)
    except AssertionError:
        return [
            f"process {pid} of run {key}, which has ended, goes on" for pid, key in left().items()
        ]
    return []


def _whole(cluster: ChaosCluster, executions: int) -> list[str]:
    """Return errors of the whole database, including duplicate or missing executions."""
    found = []
    if (there := len(cluster.rows("select id from job_executions"))) != executions:
        found.append(f"{there} executions are on record, and {executions} were launched")
    try:
        cluster.invariants.check()
    except (AssertionError, psycopg.Error) as broken:
        found += str(broken).splitlines()
    return found


def table(tallies: dict[str, Tally]) -> str:
    """Return all faults in a table of Markdown."""
    lines = [
        "| fault | rounds | runs | wrong | lost, and said so | not reached, and said so | recovery p50 | p99 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = Tally()
    for name, tally in [*sorted(tallies.items()), ("all", total)]:
        if tally is not total:
            total.add(tally)
        other = (
            tally.verdicts[verdicts.UNREACHABLE]
            + tally.verdicts[verdicts.DEAD]
            + tally.verdicts[verdicts.NO_SPOOL]
        )
        lines.append(
            f"| {name} | {tally.rounds} | {tally.runs} | {len(tally.wrong)} | {tally.verdicts[verdicts.LOST]} | {other} "
            f"| {tally.percentile(0.5):.1f} s | {tally.percentile(0.99):.1f} s |"
        )
    return "\n".join(lines)
