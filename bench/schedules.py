"""`.venv/bin/python bench/schedules.py`: measure how late 200 firings in the same second are, and the cost of an idle tick.

Everything runs on this machine: `opsjobs up` with one worker, PostgreSQL with its defaults, real OpenSSH servers on loopback. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import ours
import psycopg
from machines import Machines, machines
from processes import busy_cores
from psycopg.rows import dict_row

JOBS = 20
"""The due schedules are shared among so many jobs, each with a machine of its own."""
PERIOD_SECONDS = 15
NOT_DUE = (1_000, 20_000)
HEAD = (
    "| schedules not due | due to launched, ms: p50 | p99 | most | due to started: p50 | p99 | most "
    "| CPU ms a firing: scheduler | postgres | worker |"
)
IDLE_SECONDS = 15.0
SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds after the due time."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of these values."""
        cuts = quantiles(seconds, n=100, method="inclusive")
        return cls(cuts[49] * 1000, cuts[98] * 1000, max(seconds) * 1000)

    def __str__(self) -> str:
        return f"{self.p50:.0f} | {self.p99:.0f} | {self.most:.0f}"


@dataclass(frozen=True, slots=True)
class Lag:
    """Delays of all firings of some rounds: until launched (committed), and until started on a machine (as seen by the worker)."""

    not_due: int
    count: int
    launched: Spread
    started: Spread
    cpu: dict[str, float]
    """Milliseconds a firing, by kind of process."""


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU per second in which nothing is due, in milliseconds."""

    not_due: int
    scheduler: float
    postgres: float


class Bench:
    """The service with its machines, and a connection to its database."""

    def __init__(self, running: ours.Service, url: str, found: Machines, due: int) -> None:
        self.running = running
        self.api = running.api()
        self.database = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.found = found
        self.due = due
        self.jobs: list[int] = []
        self.far = 0

    def make_jobs(self) -> None:
        """Create one job for each machine and run it once, so that connections are open."""
        for machine in self.found.all[:JOBS]:
            job = ours.job(
                self.api, f"on-{machine.name}", {"ids": [machine.name]}, 1, durable="off"
            )
            ours.run_to_end(self.api, f"/jobs/{job}/execute", {})
            self.jobs.append(job)

    def fill(self, not_due: int) -> None:
        """Create so many schedules that are due in weeks."""
        if not self.far:
            self.far = self._schedule(self.jobs[0], "far", "0 3 1 1 *")["id"]
        columns = self.rows(
            """select string_agg(quote_ident(column_name), ', ') as names from information_schema.columns
where table_schema = 'public' and table_name = 'job_schedules' and column_name not in ('id', 'uuid', 'name')"""
        )[0]["names"]
        have = self.rows(
            "select count(*) as n from job_schedules where deleted_at is null and next_due_at > now() + interval '1 hour'"
        )
        more = not_due - have[0]["n"]
        query = f"""insert into job_schedules (uuid, name, {columns}) select gen_random_uuid(), 'far-{not_due}-' || g, {columns}
from job_schedules, generate_series(1, {more}) g where id = {self.far}"""
        self.database.execute(query)
        self.database.execute("vacuum analyze job_schedules")

    def _schedule(self, job: int, name: str, cron: str, **more: Any) -> dict[str, Any]:
        body = {
            "name": name,
            "type": "cron",
            "cron": cron,
            "timezone": "UTC",
            "overlap": "allow",
            **more,
        }
        return dict(self.api.call("POST", f"/jobs/{job}/schedules", body))

    def rounds(self, not_due: int, count: int) -> Lag:
        """Measure rounds in which all schedules are due in the same second."""
        made = [
            self._schedule(
                self.jobs[n % len(self.jobs)], f"due-{not_due}-{n}", f"*/{PERIOD_SECONDS} * * * * *"
            )
            for n in range(self.due)
        ]
        ids = [schedule["id"] for schedule in made]
        began = self.rows("select now() as now")[0]["now"]
        before = self.running.cpu()
        wanted = self.due * count
        deadline = time.monotonic() + SECONDS_MAX + PERIOD_SECONDS * (count + 1)
        while len(found := self._lags(ids, began)) < wanted:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"bench: {len(found)} of {wanted} firings were executed: {self.running.data_dir}"
                )
            time.sleep(1)
        spent = self.running.cpu()
        cpu = {kind: (spent[kind] - before.get(kind, 0.0)) * 1000 / len(found) for kind in spent}
        for schedule in ids:
            self.api.call("DELETE", f"/schedules/{schedule}", **{"If-Match": "*"})
        launched, started = ([row[name] for row in found] for name in ("launched", "started"))
        return Lag(not_due, len(found), Spread.of(launched), Spread.of(started), cpu)

    def _lags(self, schedules: list[int], began: Any) -> list[dict[str, Any]]:
        # The first round is left out: some of its schedules may have been made within its second.
        return self.rows(
            """select extract(epoch from e.created_at - f.due_at)::float as launched,
       extract(epoch from r.started_at - f.due_at)::float as started
from schedule_executions f join job_executions e on e.id = f.execution_id
join job_execution_results r on r.execution_id = e.id
where f.schedule_id = any(%s) and f.due_at > %s::timestamptz + make_interval(secs => %s) and e.finished_at is not null""",
            schedules,
            began,
            PERIOD_SECONDS,
        )

    def idle(self, not_due: int) -> Idle:
        """Measure the CPU of the service while nothing is due."""
        before = self.running.cpu()
        time.sleep(IDLE_SECONDS)
        after = self.running.cpu()
        spent = {
            kind: (after[kind] - before[kind]) * 1000 / IDLE_SECONDS
            for kind in ("scheduler", "postgres")
        }
        return Idle(not_due, spent["scheduler"], spent["postgres"])

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return the number of rows in the database."""
        return self.database.execute(query.encode(), values).fetchall()


@contextmanager
def bench(due: int) -> Iterator[Bench]:
    """Start a new service on a new database."""
    with tempfile.TemporaryDirectory(prefix="opsjobs-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with machines(JOBS, folder) as found, ours.service(folder / "data") as running:
            ours.register(running, found)
            on = Bench(running, _database_of(running), found, due)
            on.make_jobs()
            yield on
            on.database.close()


def _database_of(running: ours.Service) -> str:
    """Return the URL of the PostgreSQL of `up`, from the environment of its scheduler."""
    (scheduler,) = running.children()["scheduler"]
    variables = Path(f"/proc/{scheduler}/environ").read_bytes().split(b"\0")
    return next(
        value.decode()
        for name, _, value in (v.partition(b"=") for v in variables)
        if name.endswith(b"DATABASE_URL")
    )


def main() -> None:
    options = _options()
    with bench(options.due) as on:
        strangers = busy_cores(1.0)
        lags, idles = [], []
        for not_due in NOT_DUE:
            on.fill(not_due)
            idles.append(on.idle(not_due))
            lags.append(on.rounds(not_due, options.rounds))
            say(f"{not_due} not due: {lags[-1]}")
    print(table(options.due, lags, idles, strangers))


def table(due: int, lags: Sequence[Lag], idles: Sequence[Idle], strangers: float) -> str:
    """The figures as Markdown."""
    lines = [
        f"{due} due in the same second, {lags[0].count // due} times; others kept {strangers:.1f} cores busy before.",
        "",
        HEAD,
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {lag.not_due:,} | {lag.launched} | {lag.started} | "
            + " | ".join(f"{lag.cpu[kind]:.1f}" for kind in ("scheduler", "postgres", "worker"))
            + " |"
            for lag in lags
        ),
        "",
        "| schedules not due | CPU of an idle second, ms: scheduler | postgres |",
        "|---:|---:|---:|",
        *(f"| {idle.not_due:,} | {idle.scheduler:.1f} | {idle.postgres:.1f} |" for idle in idles),
    ]
    return "\n".join(lines)


def say(line: str) -> None:
    """Print progress, apart from the figures."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--due", type=int, default=200, help="schedules due in the same second (200)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often (5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
