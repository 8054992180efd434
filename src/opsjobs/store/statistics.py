"""Figures of what ended lately, by period; counted by the hour, so that they cost little.

Also the ends of executions and their durations, for metrics.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import DictRow

from opsjobs.model.access import Reach
from opsjobs.model.execution import moment
from opsjobs.store.scope_sql import LAUNCHED_EXECUTION, OF_EXECUTION, and_within
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Database

BUSIEST = 10
SLACK = timedelta(minutes=5)
"""Time after an hour until it is counted: transactions of its end may commit late."""
CLASSES = 250
GROWTH = 1.1
"""Factor from one class of durations to the next: a quantile is at most 5 per cent off."""
RUN_STATUSES = (
    *("succeeded", "failed", "unreachable", "timeout", "cancelled", "skipped", "blocked"),
    *("lost", "dead"),
)
PERIODS = ("hour", "day", "week")
_JUDGED = ("completed", "partial", "failed", "timeout")
_JUDGED_RUNS = ("succeeded", "failed", "unreachable", "timeout", "blocked", "lost", "dead")

_CLASS = (
    "least(floor(ln(greatest(extract(epoch from {})::float8, 0.001) / 0.001) / "
    f"ln({GROWTH}::float8)), {CLASSES})::smallint"
)
_FRAGMENTS = {
    "judged": str(_JUDGED),
    "class_of_duration": _CLASS.format("e.finished_at - e.started_at"),
    "class_of_queue": _CLASS.format("e.started_at - e.created_at"),
}
_COUNT_HOUR = load_statement(__file__, "count_hour", **_FRAGMENTS)
_STATISTICS = "statistics"
_NEXT = """
select greatest(counted_until, date_trunc('hour', n.now - interval '8 days', 'UTC')) as hour, n.now
from statistics_progress, (select opsjobs_now() as now offset 0) n for update of statistics_progress
  skip locked"""
_PROGRESS = "select opsjobs_now() as now, counted_until from statistics_progress"


@dataclass(frozen=True, slots=True)
class Times:
    """Durations, as numbers of executions by class."""

    classes: Counter[int]

    def quantile(self, share: float) -> float | None:
        """Return the seconds that this share of the executions did not exceed; None without any.

        >>> Times(Counter({0: 1, 97: 3})).quantile(0.5)
        10.82
        """
        total = self.classes.total()
        seen = 0
        for number in sorted(self.classes):
            seen += self.classes[number]
            if seen >= share * total:
                seconds: float = 0.001 * GROWTH ** (number + 0.5)
                return round(seconds, 3 if seconds < 1 else 2)
        return None

    def data(self) -> dict[str, Any]:
        """Return the median and the 95th percentile."""
        return {"median": self.quantile(0.5), "p95": self.quantile(0.95)}


@dataclass(slots=True)
class Figures:
    """Figures of the executions that ended in a period, of all or of one job type."""

    executions: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    times: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def data(self) -> dict[str, Any]:
        """Return the figures as GET /stats shows them."""
        return {
            "executions": {"total": self.executions.total(), "by_status": dict(self.executions)},
            "runs": {"total": self.runs.total(), "by_status": dict(self.runs)},
            "success_share": _share(self.executions["completed"], self.executions, _JUDGED),
            "run_success_share": _share(self.runs["succeeded"], self.runs, _JUDGED_RUNS),
            "duration_seconds": Times(self.times["duration"]).data(),
            "queue_seconds": Times(self.times["queue"]).data(),
        }


class Statistics:
    """Counts executions by the hour, and reads their figures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_hour(self) -> int:
        """Count the next hour that is over; return 1, or 0 if there is none."""
        async with self._database.transaction() as connection:
            row = await (await connection.execute(_NEXT)).fetchone()
            if row is None or row["hour"] + timedelta(hours=1) + SLACK > row["now"]:
                return 0
            await connection.execute(_COUNT_HOUR, {"hour": row["hour"]})
        return 1

    async def read(self, reach: Reach | None = None) -> dict[str, Any]:
        """Return the body of GET /stats: of the executions within reach only.

        Counted hours know labels, but no launchers: for those who see their own executions, all of
        the week are counted now.
        """
        progress = await self._database.fetch_one(_PROGRESS)
        assert progress is not None
        now, counted = progress["now"], progress["counted_until"]
        since = _since(now)
        if reach is not None and reach.own is not None:
            counted = since["week"]
        live_scope, values = and_within(
            reach, OF_EXECUTION.format("e.id"), LAUNCHED_EXECUTION.format("e.id")
        )
        hours_scope, _ = and_within(reach, "h.labels", "false")
        query = load_statement(
            __file__, _STATISTICS, **_FRAGMENTS, live_scope=live_scope, hours_scope=hours_scope
        )
        live = max(min(counted, since["hour"]), since["week"])
        rows = await self._database.fetch(
            query,
            {**values, **since, "now": now, "counted": counted, "live": live, "busiest": BUSIEST},
        )
        return {
            "at": moment(now),
            "periods": [
                _period(name, since[name], [row for row in rows if row["period"] == name])
                for name in PERIODS
            ],
            "hours": _hours([row for row in rows if row["kind"] == "hour"]),
        }


def _since(now: datetime) -> dict[str, datetime]:
    """Return the beginning of each period; a day and a week begin with a whole hour."""
    whole = now.replace(minute=0, second=0, microsecond=0)
    return {
        "hour": now - timedelta(hours=1),
        "day": whole - timedelta(days=1),
        "week": whole - timedelta(days=7),
    }


def _period(name: str, since: datetime, rows: Sequence[DictRow]) -> dict[str, Any]:
    everything, by_type = Figures(), defaultdict[str, Figures](Figures)
    for row in rows:
        if row["kind"] == "job":
            continue
        for figures in (everything, by_type[row["name"]]):
            _add(figures, row)
    busiest = sorted(
        (row for row in rows if row["kind"] == "job"),
        key=lambda row: (-row["executions"], row["name"]),
    )
    return {
        "period": name,
        "since": moment(since),
        **everything.data(),
        "job_types": [{"job_type": kind, **by_type[kind].data()} for kind in sorted(by_type)],
        "busiest_jobs": [_busy(row) for row in busiest],
    }


def _hours(rows: Sequence[DictRow]) -> list[dict[str, Any]]:
    by_hour: dict[int, dict[str, int]] = defaultdict(dict)
    for row in rows:
        by_hour[row["id"]][row["key"]] = row["executions"]
    return [
        {"hour": moment(datetime.fromtimestamp(hour, UTC)), "by_status": by_hour[hour]}
        for hour in sorted(by_hour)
    ]


def _add(figures: Figures, row: DictRow) -> None:
    if row["kind"] == "time":
        figures.times[row["key"]][row["id"]] += row["executions"]
        return
    figures.executions[row["key"]] += row["executions"]
    for status, count in zip(RUN_STATUSES, row["parts"], strict=True):
        if count:
            figures.runs[status] += count


def _busy(row: DictRow) -> dict[str, Any]:
    completed, judged = row["parts"]
    return {
        "job_id": row["id"],
        "job_name": row["name"],
        "executions": row["executions"],
        "success_share": round(completed / judged, 4) if judged else None,
    }


def _share(good: int, counts: Mapping[str, int], judged: Iterable[str]) -> float | None:
    """Return the share of good ends among those that ended by themselves; None without any."""
    total = sum(counts.get(status, 0) for status in judged)
    return round(good / total, 4) if total else None


@dataclass(frozen=True, slots=True)
class ExecutionEnd:
    """The end of an execution, for metrics."""

    status: str
    job_type: str
    seconds: float
    """From its launch to its end."""


# The actions are read only of executions without a job: they may hold large scripts.
_ENDS = """
select e.status, extract(epoch from e.finished_at - e.created_at)::float8 as seconds,
  coalesce(v.job_type, (
    select case when jsonb_array_length(s.actions) = 1
        and s.actions -> 0 ->> 'type' in ('command', 'script', 'file_transfer')
      then s.actions -> 0 ->> 'type' else 'composite' end
    from execution_specs s where s.execution_id = e.id), 'composite') as job_type
from job_executions e
left join job_versions v on v.job_id = e.job_id and v.version = e.job_version
where e.id = any(%s::bigint[]) and e.finished_at is not null"""


async def load_ends(database: Database, ids: Sequence[int]) -> list[ExecutionEnd]:
    """Return the ends of those executions that have ended and still exist."""
    return [ExecutionEnd(**row) for row in await database.fetch(_ENDS, [list(ids)])]
