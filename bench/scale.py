"""`.venv/bin/python bench/scale.py`: measure lists, ledger operations and repair in a large database.

Also checks their query plans; exit code 1 if a goal is missed.

The database is made by SQL (tests/kit/large_database.py) on a PostgreSQL of its own: a million executions with two runs each, of which the last
quarter has its log, and a million that wait. The queries are those of the project's own code, the plans those that PostgreSQL reports.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psycopg

from kit import api_lists, large_database
from kit.backing_servers import AUDIT_KEY
from kit.ledger_fixtures import Owner, launch, machines
from kit.migrations import Versions
from kit.query_plans import Explaining
from opsjobs.model.access import Reach, Scope
from opsjobs.model.execution import WaitingFor
from opsjobs.standalone.postgres import Postgres
from opsjobs.store.execution_log import ExecutionLog
from opsjobs.store.executions import ExecutionFind, Executions
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.reconcile import Reconciler
from opsjobs.store.migrations import runner
from opsjobs.store.paging import PageRequest
from opsjobs.store.result_groups import ResultGroups
from opsjobs.store.retention import Retention, RetentionLimits
from opsjobs.store.statistics import Statistics
from opsjobs.store.transaction import Database, DatabaseOptions

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "512MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "max_connections": "100",
}
LIST_MS, ROUND_MS, COMMIT_MS, GROUPS_MS, CLAIM_MS, UPGRADE_MS = 50, 100, 2_000, 200, 200, 1_000
# Of these all are read: the last run of each of 20,000 targets, 6 µs each, and all 50,000
# executions of one launcher, none of which has the status.
WHOLE = {"health": 200, "what one has launched, by status": 100}
RETAINED_A_SECOND = 100
# For a table with fewer rows a scan is the cheapest plan, not a fault.
LARGE_TABLE_ROWS = 50_000
TRIES = 3
# The next release: its migration locks the tables of the ledger, and indexes the largest ones.
COLUMNS = """
alter table job_executions add column colour text;
alter table target_runs add column colour text;
alter table events add column colour text;
"""
INDEXES = """
create index target_runs_by_name on target_runs (target_name);
create index job_execution_results_by_worker on job_execution_results (worker);
"""


@dataclass
class Seen:
    """The measurements, one row each, and whether all goals were met."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def note(
        self,
        what: str,
        value: float,
        goal: float,
        unit: str = "ms",
        *,
        least: bool = False,
        more: str = "",
    ) -> None:
        """Add one figure with its goal; `least`: the goal is a minimum."""
        met = (value >= goal if least else value <= goal) and not more
        self.rows.append(
            (what, f"{value:.0f} {unit}{more}", f"{'≥' if least else '≤'} {goal:g} {unit}", met)
        )
        print(f"{'   ' if met else '!! '}{what}: {value:.1f} {unit}{more}", flush=True)

    @property
    def met(self) -> bool:
        """Whether all goals were met."""
        return all(row[3] for row in self.rows)

    def table(self) -> str:
        """Return the figures as Markdown; for lists, only the slowest page of each."""
        slowest: dict[str, tuple[str, str, str, bool]] = {}
        for row in self.rows:
            name = row[0].partition(":")[0] if ": " in row[0] else row[0]
            if name not in slowest or float(row[1].split()[0]) > float(slowest[name][1].split()[0]):
                slowest[name] = row
        lines = [
            f"| {what} | {goal} | {value} | {'yes' if met else '**no**'} |"
            for what, value, goal, met in slowest.values()
        ]
        return "\n".join(
            [
                "| what (of a list: its slowest page) | goal | seen | met |",
                "|---|---|---|---|",
                *lines,
            ]
        )


@dataclass
class Bench:
    """A database; each query runs for its time and for its plan."""

    database: Database
    explaining: Explaining
    seen: Seen
    small: frozenset[str]

    async def timed(
        self,
        what: str,
        ask: Callable[[Database], Awaitable[Any]],
        goal: float,
        *,
        tries: int = TRIES,
    ) -> None:
        """Return the best of several tries, and the tables that were scanned completely."""
        best = min([await _milliseconds(ask(self.database)) for _ in range(tries)])
        self.explaining.take()
        await ask(self.explaining)
        whole = {
            scan.table for plan in self.explaining.take() for scan in plan.whole()
        } - self.small
        self.seen.note(
            what, best, goal, more=f", reads all of {', '.join(sorted(whole))}" if whole else ""
        )

    async def lists(self) -> None:
        """Measure every list, filter, sort, page and scope."""
        row = await self.database.fetch_one(
            """select max(id) as large, to_char(now() - interval '300 days', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as moment
            from job_executions where total = 10000 and finished_at is not null"""
        )
        assert row is not None
        for asked in api_lists.lists(row["large"], row["moment"]):
            for question in api_lists.questions(asked):
                goal = next((ms for part, ms in WHOLE.items() if part in question.name), LIST_MS)
                await self.timed(question.name, question.ask, goal)
        await self._texts()
        execution = await Executions(self.database).get(row["large"])
        await self.timed(
            "groups of 10,000",
            lambda db: ResultGroups(db).page(execution, PageRequest()),
            GROUPS_MS,
        )
        newest = await self.database.fetch_one(
            "select max(execution_id) as id from execution_log where event = 'end'"
        )
        assert newest is not None
        await self.timed("a page of a log", lambda db: ExecutionLog(db).read(newest["id"]), LIST_MS)

    async def _texts(self) -> None:
        """Measure searches of executions by text that match most, one or none; with and without a scope."""
        for whose, reach in (("all", None), ("a scope", Reach((Scope.parse("env=staging"),)))):
            for text in ("job-7", "systemctl", "unit-1", "nothing"):
                find = ExecutionFind(text)
                await self.timed(
                    f"executions: q={text} of {whose}",
                    lambda db, r=reach, f=find: Executions(db).list(PageRequest(), r, f),  # type: ignore[misc]
                    LIST_MS,
                )

    async def verbs(self) -> None:
        """Measure launch, claim, settle and a barrier."""
        ledger = Ledger(self.database)
        for targets, window in ((1, 50), (10_000, 50), (10_000, 10_000)):
            began = time.monotonic()
            execution = await launch(self.database, machines(targets, first=100_001), window=window)
            self.seen.note(f"launch of {targets}, max_parallel {window}", _since(began), COMMIT_MS)
            await ledger.cancel(execution.id, by="ada", reason=None)
        owner = await Owner(self.database, name="scale").register(3_600)
        claims, settles = [], []
        for _ in range(5):
            began = time.monotonic()
            runs = (await owner.claim(200)).runs
            claims.append(_since(began))
            began = time.monotonic()
            await owner.finish(runs)
            settles.append(_since(began))
        self.seen.note("claim of 200", median(claims), CLAIM_MS)
        self.seen.note("settle of 200", median(settles), CLAIM_MS)
        await self._barrier()

    async def _barrier(self) -> None:
        # In a zone of its own, so that other ready runs do not come first.
        owner = await Owner(self.database, name="scale-barrier", zone="barrier").register(3_600)
        targets = machines(10_000, first=200_001, zone="barrier")
        execution = await launch(self.database, targets, actions=2, barrier=True, window=10_000)
        came = 0
        while came < 10_000:
            runs = (await owner.claim(500)).runs
            began = time.monotonic()
            await owner.defer(runs, WaitingFor.BARRIER, awaits="step-2")
            came += len(runs)
        self.seen.note(
            "the commit that opens a barrier of 10,000, and all admissions after it",
            _since(began),
            COMMIT_MS,
        )
        await Ledger(self.database).cancel(execution.id, by="ada", reason=None)

    async def rounds(self) -> None:
        """Measure repair with all open executions; each try is the next part."""
        both = (self.database, self.explaining)
        reconcilers = {database: Reconciler(database) for database in both}
        await reconcilers[self.database].run_once()
        await self.timed("a round of repair", lambda db: reconcilers[db].run_once(), ROUND_MS)

    async def statistics(self) -> None:
        """Measure statistics of the last hour, day and week, once whole hours are counted."""
        counted = Statistics(self.database)
        async with self.database.connection() as connection:
            await connection.execute(
                "update statistics_progress set counted_until = counted_until - interval '8 days'"
            )
        while await counted.count_hour():
            pass
        for whose, reach in (("all", None), ("a scope", Reach((Scope.parse("env=staging"),)))):
            what = f"statistics: of {whose}"
            await self.timed(what, lambda db, r=reach: Statistics(db).read(r), LIST_MS)  # type: ignore[misc]

    async def retention(self) -> None:
        """Measure the deletion of executions of the oldest days."""
        keep = RetentionLimits(1e9, 1e9, 350 * 86_400.0, 10_000_000, 1e9, 1e9)
        retention, gone, began = Retention(self.database), 0, time.monotonic()
        while time.monotonic() - began < 20 and (part := await retention.delete_executions(keep)):
            gone += part
        self.seen.note(
            "executions let go of",
            gone / (time.monotonic() - began),
            RETAINED_A_SECOND,
            "a second",
            least=True,
        )


async def _milliseconds(asked: Awaitable[Any]) -> float:
    began = time.monotonic()
    await asked
    return _since(began)


def _since(began: float) -> float:
    return (time.monotonic() - began) * 1_000


async def _measure(url: str, executions: int, seen: Seen, *, filled: bool) -> None:
    options = DatabaseOptions(url, connections=4, hot_verbs=True)
    read = DatabaseOptions(url, connections=2)
    counts = "select relname from pg_class where relkind in ('r', 'p') and reltuples < %s"
    database, reading = Database(options), Database(read)
    explaining = Explaining(read, settings={"auto_explain.log_nested_statements": "off"})
    for one in (database, reading, explaining):
        await one.open()
    try:
        small = frozenset(
            row["relname"] for row in await database.fetch(counts, [LARGE_TABLE_ROWS])
        )
        await Bench(reading, explaining, seen, small).lists()
        bench = Bench(database, explaining, seen, small)
        if not filled:
            await bench.verbs()
            large_database.make(url, large_database.OPEN, executions, _say)
        await bench.verbs()
        await bench.rounds()
        await bench.statistics()
        await bench.retention()
    finally:
        for one in (database, reading, explaining):
            await one.close()


@contextmanager
def _next_release() -> Iterator[None]:
    """Give the runner one more migration."""
    ours = runner.VERSIONS
    with tempfile.TemporaryDirectory(prefix="opsjobs-scale-") as temporary:
        next_release = Versions.copy(Path(temporary) / "versions")
        next_release.add(COLUMNS, INDEXES)
        runner.VERSIONS = next_release.folder
        try:
            yield
        finally:
            runner.VERSIONS = ours


def _upgrade(url: str, seen: Seen) -> None:
    """Measure how long a write of the ledger waits during an upgrade of the database."""
    waits, over = [0.0], threading.Event()

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.wait(0.02):
                began = time.monotonic()
                with connection.transaction():
                    connection.execute(
                        "select id from job_executions order by id desc limit 1 for update"
                    )
                    connection.execute(
                        "update target_runs set attempt = attempt where id = (select max(id) from target_runs)"
                    )
                    connection.execute(
                        "insert into events (shard, type, subject) values (0, 'x', gen_random_uuid())"
                    )
                waits.append(_since(began))

    writer = threading.Thread(target=write)
    writer.start()
    began = time.monotonic()
    try:
        with _next_release():
            runner.upgrade(url)
    finally:
        over.set()
        writer.join()
    seen.note("the longest that a write waits for an upgrade", max(waits), UPGRADE_MS)
    _say(f"the upgrade took {time.monotonic() - began:.0f} s")


@contextmanager
def _server(folder: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(
        prefix="opsjobs-scale-", ignore_cleanup_errors=True
    ) as temporary:
        place = folder or Path(temporary)
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
        server = Postgres(place, settings=SETTINGS)
        try:
            yield server.start()
        finally:
            server.stop(30)


def _say(line: str) -> None:
    print(f"scale: {line}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plans and times in a large database")
    parser.add_argument(
        "--executions",
        type=int,
        default=1_000_000,
        help="how many have ended, and how many wait (default: 1000000)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="make the database here and keep it; one that is there is used again",
    )
    parser.add_argument(
        "--no-upgrade",
        action="store_true",
        help="leave out the upgrade of a database to a release with more columns and indexes",
    )
    parser.add_argument("--output", type=Path, help="where the table goes")
    return parser.parse_args()


def main() -> int:
    """Create the database, measure, and print missed goals."""
    options, seen = _options(), Seen()
    filled = options.folder is not None and (options.folder / "pg").is_dir()
    if not options.no_upgrade:
        with _server(None) as url:
            runner.upgrade(url, [AUDIT_KEY])
            large_database.make(url, large_database.HISTORY, options.executions // 5, _say)
            _upgrade(url, seen)
    with _server(options.folder) as url:
        runner.upgrade(url, [AUDIT_KEY])
        if not filled:
            large_database.make(
                url, (*large_database.HISTORY, *large_database.LARGE), options.executions, _say
            )
        asyncio.run(_measure(url, options.executions, seen, filled=filled))
    print(seen.table())
    if options.output:
        options.output.write_text(seen.table() + "\n")
    return 0 if seen.met else 1


if __name__ == "__main__":
    sys.exit(main())
