"""Executions on thousands of targets, played through the ledger: their runs end in many ways.

The targets are those of an inventory; a caller launches on them over HTTP, so that everything
before the runs is real.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kit.ledger_fixtures import Owner
from opsjobs.model.execution import CancelProof, ErrorCode, RunError, RunStatus
from opsjobs.store.ledger.claim import Claimed
from opsjobs.store.ledger.flush import LogLine, ResultState, RunMove, result_line, status_line
from opsjobs.store.transaction import Database

ADD = """
insert into targets (uuid, name, host, port, transport, platform, labels, groups, host_key_policy, slots, zone)
select gen_random_uuid(), 'web-' || lpad(n::text, 5, '0'), '10.' || n / 65536 || '.' || (n / 256) %% 256 || '.' || n %% 256, 22, 'ssh', 'linux',
  jsonb_build_object('env', case when n %% 5 = 0 then 'staging' else 'prod' end, 'rack', 'r' || 1 + (n - 1) / 250, 'role', 'web'),
  array['web'], 'pinned', 10, %(zone)s from generate_series(%(first)s::int, %(count)s::int) n"""

# Spread the times of runs that were played within a second, as if they had run on machines.
SPREAD = (
    """update job_executions set created_at = created_at - interval '10 minutes', started_at = started_at - interval '10 minutes'
where id = %(id)s""",
    """update target_runs r set claimed_at = e.created_at + s.began, finished_at = case when r.finished_at is not null
  then e.created_at + s.began + s.took end
from job_executions e, (select id, make_interval(secs => 2 + wave * 60 + (position * 37 %% 400) / 10.0) as began,
  make_interval(secs => 1 + (position * 61 %% 180) / 10.0 + case when position %% 97 = 0 then position %% 70 else 0 end
    + case status when 'unreachable' then 10 when 'timeout' then 60 else 0 end) as took
  from target_runs where execution_id = %(id)s) s
where s.id = r.id and e.id = %(id)s and r.claimed_at is not null""",
    """update job_execution_results x set
  started_at = r.claimed_at + case x.action when 'patch' then interval '900 ms' else interval '200 ms' end,
  finished_at = case when x.finished_at is not null then case x.action when 'patch' then r.finished_at - interval '5 ms'
    else r.claimed_at + interval '800 ms' end end
from target_runs r where r.id = x.target_run_id and r.execution_id = %(id)s""",
    """update execution_log l set at = case when l.body ->> 'status' = 'running' then r.claimed_at when l.action = 'refresh'
  then r.claimed_at + interval '700 ms' else coalesce(r.finished_at, r.claimed_at + interval '2 s') end
from target_runs r where r.id = l.target_run_id and r.execution_id = %(id)s and l.execution_id = %(id)s""",
    """update job_executions e set finished_at = (select max(finished_at) from target_runs r where r.execution_id = e.id)
where id = %(id)s and finished_at is not null""",
)

JOB: dict[str, Any] = {
    "name": "patch-web",
    "actions": [
        {"key": "refresh", "command": "apt-get update"},
        {"key": "patch", "command": "apt-get -y upgrade"},
    ],
    "targets": {"groups": ["web"]},
    "policy": {"waves": [1, "10%", "100%"], "max_parallel": 10_000},
    "tags": ["team=web"],
}
"""The body of a job that runs on all targets in three waves."""


LEASE_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one run."""

    status: RunStatus = RunStatus.SUCCEEDED
    exit_code: int | None = 0
    stdout: bytes = b"0 upgraded, 0 newly installed.\n"
    stderr: bytes = b""
    error: RunError | None = None
    proof: CancelProof | None = None


def _failed(code: int, stderr: str, stdout: bytes = b"Reading package lists...\n") -> Outcome:
    error = RunError(ErrorCode.NONZERO_EXIT, f"exit {code}")
    return Outcome(RunStatus.FAILED, code, stdout, stderr.encode(), error)


def _error(code: ErrorCode, message: str) -> Outcome:
    return Outcome(code.run_status, None, b"", b"", RunError(code, message))


SUCCEEDED = Outcome()
LOCKED = _failed(100, "E: Could not get lock /var/lib/dpkg/lock-frontend\n")
OLD_KERNEL = _failed(1, "old kernel: needs a reboot first\n")
UPGRADED = Outcome(stdout=b"12 upgraded, 0 newly installed.\n")
UNREACHABLE = _error(ErrorCode.CONNECT_TIMEOUT, "no answer within 10 s")
LOST = _error(ErrorCode.LOST, "contact was lost, and the machine did not come back in time")
TIMED_OUT = _error(ErrorCode.COMMAND_TIMEOUT, "the command did not end within 60 s")


def outcome_of(position: int) -> Outcome:
    """Return the outcome of the run at this position: 90 of 100 runs succeed."""
    match position % 100:
        case 11 | 12 | 13 | 14:
            return LOCKED
        case 21:
            return OLD_KERNEL
        case 31 | 32 | 33:
            return UNREACHABLE
        case 41:
            return LOST
        case 51:
            return TIMED_OUT
        case 61 | 62 | 63 | 64 | 65:
            return UPGRADED
        case _:
            return SUCCEEDED


async def add_targets(
    database: Database, count: int, *, first: int = 1, zone: str = "default"
) -> None:
    """Add targets web-00001, web-00002 … to the inventory, from `first` on.

    Their racks r1, r2 … have 250 targets each.
    """
    async with database.transaction() as connection:
        await connection.execute(ADD, {"first": first, "count": count, "zone": zone})


@dataclass
class ManyRuns:
    """A worker that claims ready runs and ends them as `outcome` returns."""

    database: Database
    outcome: Callable[[int], Outcome] = outcome_of
    written: Callable[[int], Awaitable[None]] | None = None
    """Called with the execution after each flush, as a worker wakes the readers of its log."""
    flush_runs: int = 500
    zone: str = "default"
    """A zone without real workers, if there are any."""
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self.database, "many-runs", self.zone)

    async def claim(self, limit: int) -> list[Claimed]:
        """Claim ready runs; each is recorded as running."""
        runs = list((await self.owner.claim(limit)).runs)
        for some in _slices(runs, self.flush_runs):
            lines = [status_line(r.id, r.target_id, RunStatus.RUNNING, None) for r in some]
            await self._settle(some, [], lines, [_move(r) for r in some])
        return runs

    async def end(self, runs: Sequence[Claimed], outcome: Outcome | None = None) -> None:
        """End these runs."""
        for some in _slices(runs, self.flush_runs):
            results: list[ResultState] = []
            lines: list[LogLine] = []
            moves: list[RunMove] = []
            for run in some:
                end = outcome or self.outcome(run.position)
                moves.append(_move(run, end))
                told = list(_results(run, end))
                results += told
                lines += [line for result in told for line in _lines(run, result, end)]
                lines.append(status_line(run.id, run.target_id, end.status, end.error))
            await self._settle(some, results, lines, moves)

    async def play(self, *, upto: int | None = None, batch: int = 2_000) -> list[Claimed]:
        """Claim and end all runs, wave after wave; return those that stay running.

        These are the runs from position `upto` on.
        """
        await self.owner.register(LEASE_SECONDS)
        running: list[Claimed] = []
        while runs := await self.claim(batch):
            held = [run for run in runs if upto is not None and run.position >= upto]
            running += held
            await self.end([run for run in runs if run not in held] if held else runs)
        return running

    async def spread(self, execution: int) -> None:
        """Give an execution that was played in seconds the times of one on real machines."""
        async with self.database.transaction() as connection:
            # Without statistics of the new rows, a nested loop reads the whole log for each run.
            await connection.execute("set local enable_nestloop = off")
            for statement in SPREAD:
                await connection.execute(statement, {"id": execution})

    async def _settle(
        self,
        runs: Sequence[Claimed],
        results: Sequence[ResultState],
        lines: Sequence[LogLine],
        moves: Sequence[RunMove],
    ) -> None:
        settled = await self.owner.settle(self.owner.say(moves, results, lines))
        assert not settled.stale
        if self.written is not None:
            for execution in {run.execution_id for run in runs}:
                await self.written(execution)


def _slices(runs: Sequence[Claimed], size: int) -> Iterator[Sequence[Claimed]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]


def _move(run: Claimed, end: Outcome | None = None) -> RunMove:
    if end is None:
        return RunMove(run.id, run.execution_id, run.target_id, run.fence)
    return RunMove(
        run.id, run.execution_id, run.target_id, run.fence, end.status, end.exit_code, end.error, end.proof,
        watched=run.watched,
    )  # fmt: skip


def _results(run: Claimed, end: Outcome) -> Iterator[ResultState]:
    """Return the results of a run: one that did not reach its machine only has the first."""
    now = datetime.now(UTC)
    reached = end.status is not RunStatus.UNREACHABLE
    if reached:
        hit = (len(_HIT), 0)
        yield ResultState(
            run.id, "refresh", run.attempt, True, RunStatus.SUCCEEDED, (0, 0), hit, hit, now, now, 0
        )
    sizes = (len(end.stdout), len(end.stderr))
    yield ResultState(
        run.id, "patch" if reached else "refresh", run.attempt, True, end.status, (0, 0), sizes, sizes, now, now,
        end.exit_code, end.error, end.proof,
    )  # fmt: skip


_HIT = b"Hit:1 http://deb.example stable InRelease\n"


def _lines(run: Claimed, result: ResultState, end: Outcome) -> Iterator[LogLine]:
    ended_here = result.status is not RunStatus.SUCCEEDED or result.action == "patch"
    written = (end.stdout, end.stderr) if ended_here else (_HIT, b"")
    for stream, data in zip(("stdout", "stderr"), written, strict=True):
        if data:
            yield LogLine(run.id, "output", result.action, run.attempt, stream, 0, data)
    yield result_line(result, run.target_id)
