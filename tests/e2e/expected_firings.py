"""Schedules whose due times are known beforehand, counted minute by minute, and their outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any

from e2e.cluster import Cluster
from e2e.processes import Json, wait_until

SECONDS = 300.0
MINUTE = timedelta(minutes=1)
HOUR = 60
COUNTED_MAX = 1000
"""Missed due times that are counted one by one; of more, only the fact is recorded."""


def every(minutes: int, after: datetime, last: datetime) -> list[datetime]:
    """Return the multiples of so many minutes (a divisor of a day), in UTC."""
    at = after.replace(second=0, microsecond=0) + MINUTE
    found = []
    while at <= last:
        if (at.hour * 60 + at.minute) % minutes == 0:
            found.append(at)
        at += MINUTE
    return found


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule, and its due times. `all_run`: none may be left out, whatever happens."""

    name: str
    body: Json
    moments: Sequence[datetime]
    all_run: bool = True


@dataclass(slots=True)
class ExpectedFirings:
    """The schedules of one job, whose command records its starts under `mark`."""

    cluster: Cluster
    mark: str
    targets: Sequence[str]
    job: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        command = self.cluster.witness.of_execution(self.mark)
        job = {
            "name": self.mark,
            "actions": [{"type": "command", "command": command, "durable": "off"}],
            "targets": {"ids": list(self.targets)},
        }
        self.job = int(self.cluster.post("/jobs", job, 201)["id"])

    def add(self, entry: Entry) -> int:
        """Make it a schedule of the job; return its id."""
        made = self.cluster.post(
            f"/jobs/{self.job}/schedules", {"name": entry.name, **entry.body}, 201
        )
        self.entries[int(made["id"])] = entry
        return int(made["id"])

    def firings(self, schedule: int) -> list[Json]:
        """Return the outcomes of its due times, the last one first."""
        found: list[Json] = []
        query: dict[str, Any] = {"limit": 200}
        while True:
            page = self.cluster.get(f"/schedules/{schedule}/firings", **query)
            found += page["items"]
            if page["next"] is None:
                return found
            query["cursor"] = page["next"]

    def settled(self) -> None:
        """Wait until no due time is undecided and no execution runs."""
        waits = """
select s.id, s.name, s.next_due_at, (select count(*) from schedule_executions f where f.schedule_id = s.id and f.status = 'pending')
from job_schedules s where s.job_id = %s and (s.next_due_at <= opsjobs_now()
  or exists (select 1 from schedule_executions f where f.schedule_id = s.id and f.status = 'pending'))"""
        wait_until(
            lambda: not self.cluster.rows(waits, self.job), "every due moment is decided", SECONDS
        )
        open_ones = "select 1 from job_executions where job_id = %s and finished_at is null limit 1"
        wait_until(
            lambda: not self.cluster.rows(open_ones, self.job), "every execution ends", SECONDS
        )

    def check(self) -> Counter[str]:
        """Check that every due time is recorded once, as it happened.

        Returns the numbers by outcome.
        """
        seen: Counter[str] = Counter()
        ran: list[int] = []
        for schedule, entry in self.entries.items():
            firings = self.firings(schedule)
            self._none_is_missing(entry, firings)
            seen.update(firing["status"] for firing in firings)
            ran += [firing["execution_id"] for firing in firings if firing["status"] == "triggered"]
        assert len(ran) == len({*ran}), "an execution stands for one due moment"
        launched = self.cluster.rows(
            "select id, status from job_executions where job_id = %s", self.job
        )
        assert sorted(row["id"] for row in launched) == sorted(ran), (
            "what was launched is what is on record"
        )
        assert {row["status"] for row in launched} <= {"completed"}
        self._was_seen(ran)
        return seen

    def late(self) -> str:
        """Return how late they were launched, by the database's clock."""
        late = [
            firing["late_ms"] / 1000
            for schedule in self.entries
            for firing in self.firings(schedule)
            if firing["execution_id"]
        ]
        cuts = quantiles(late, n=100, method="inclusive")
        return (
            f"late by {cuts[49]:.1f} s at p50, {cuts[98]:.1f} s at p99, {max(late):.1f} s at most"
        )

    def _none_is_missing(self, entry: Entry, firings: Sequence[Json]) -> None:
        moments = [datetime.fromisoformat(firing["due_at"]).astimezone(UTC) for firing in firings]
        assert len(moments) == len({*moments}), f"{entry.name}: each moment once"
        assert sorted(moments) == list(entry.moments), (
            f"{entry.name}: all its moments and no others"
        )
        for firing in firings:
            told = (entry.name, firing)
            if firing["status"] == "triggered":
                assert firing["execution_id"], told
                assert firing["late_ms"] >= 0, told
            else:
                assert not entry.all_run, told
                assert firing["status"] in ("missed", "skipped"), told
                assert firing["reason"], told
                assert firing["execution_id"] is None, told

    def _was_seen(self, executions: Sequence[int]) -> None:
        """Check that each command ran once on each of its machines."""
        starts = {
            key: len(words)
            for key, words in self.cluster.witness.starts().items()
            if key.startswith(f"{self.mark}.")
        }
        assert starts == {f"{self.mark}.{execution}": len(self.targets) for execution in executions}


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no scheduler decides anything, from one half minute to another."""

    begin: datetime
    end: datetime

    def cron(self, minutes: int, *, offset: int = 0) -> tuple[str, list[datetime]]:
        """Return an expression of every so many minutes of the hour, and its due times.

        The minutes are counted back from the end.
        """
        first = (self.end.minute - offset) % minutes
        moments = [at for at in every(1, self.begin, self.end) if at.minute % minutes == first]
        return f"{first}{f'-59/{minutes}' if minutes < HOUR else ''} * * * *", moments

    @property
    def span(self) -> Json:
        """Return the fields of a schedule without due times before or after it."""
        return {
            "start_at": self.begin.isoformat(),
            "end_at": self.end.isoformat(),
            "timezone": "UTC",
            "overlap": "allow",
        }


@dataclass(frozen=True, slots=True)
class Missed:
    """A schedule that was silent, and its due times that have to run afterwards.

    These are the last `run` ones.
    """

    name: str
    body: Json
    moments: Sequence[datetime]
    run: int

    def check(self, rows: Sequence[dict[str, Any]]) -> None:
        """Return due_at, moments, status, reason, execution_id of all its firings."""
        ran = sorted(row["due_at"] for row in rows if row["status"] == "triggered")
        assert ran == list(self.moments[len(self.moments) - self.run :]), self.name
        others = [row for row in rows if row["status"] != "triggered"]
        assert {row["status"] for row in others} <= {"missed"}, self.name
        assert all(row["reason"] and row["execution_id"] is None for row in others), self.name
        told, left = sum(row["moments"] for row in others), len(self.moments) - self.run
        assert told == left or COUNTED_MAX - self.run <= told < left, self.name
