"""Fixtures of the ledger: owners that claim and settle, executions on made-up machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from opsjobs.clock import uuid7
from opsjobs.model.access import Principal
from opsjobs.model.execution import (
    CancelProof,
    ErrorCode,
    RunError,
    RunStatus,
    TriggeredBy,
    WaitingFor,
)
from opsjobs.model.identity import Identity
from opsjobs.model.program import SpoolIdentity
from opsjobs.model.run_views import Execution
from opsjobs.model.target import Target, Transport
from opsjobs.store.executions import Executions
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.ledger.claim import Claim, Claimed
from opsjobs.store.ledger.flush import Flush, LogLine, ResultState, RunMove
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.ledger.settle import Settled
from opsjobs.store.transaction import Database
from opsjobs.store.workers import Incarnation, Workers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STORE = SpoolIdentity("store-1", "boot-1")


def machines(count: int, *, slots: int = 10, first: int = 1, zone: str = "default") -> list[Target]:
    """Return targets web-1, web-2, …"""
    return [
        Target(
            str(n),
            f"web-{n}",
            f"10.0.{n // 250}.{n % 250}",
            22,
            Transport.SSH,
            zone=zone,
            slots=slots,
        )
        for n in range(first, first + count)
    ]


async def launch(
    database: Database,
    targets: Sequence[Target],
    *,
    window: int = 50,
    priority: int = 5,
    timeout_seconds: float | None = None,
    actions: int = 1,
    barrier: bool = False,
    triggered_by: TriggeredBy = TriggeredBy.API,
    **more: Any,
) -> Execution:
    """Launch an execution of `actions` commands on these targets.

    `barrier`: all but the first start together.
    """
    steps: list[dict[str, Any]] = [
        {"key": f"step-{n}", "type": "command", "command": "true"} for n in range(1, actions + 1)
    ]
    for step in steps[1:] if barrier else ():
        step["scope"] = "barrier"
    new = NewExecution(
        uuid7(datetime.now(UTC)),
        None,
        None,
        "ad-hoc",
        steps,
        {},
        priority,
        window,
        timeout_seconds,
        targets,
        triggered_by,
        Identity("api_key", "ada"),
        **more,
    )
    async with database.transaction() as connection:
        return await Ledger(database).launch(connection, new)


@dataclass
class Owner:
    """A worker without machines: its claimed runs end when the test ends them."""

    database: Database
    name: str = "worker-1"
    zone: str = "default"
    id: UUID = field(default_factory=uuid4)
    flushes: int = 0

    async def register(self, lease_seconds: float = 15) -> Owner:
        """Start its lease."""
        await Workers(self.database).register(
            Incarnation(self.id, self.name, self.zone, 1, 100), lease_seconds=lease_seconds
        )
        return self

    async def claim(self, limit: int = 100, *, floor: int = 0) -> Claim:
        """Claim ready runs."""
        return await Ledger(self.database).claim(
            owner=self.id, worker=self.name, zone=self.zone, limit=limit, floor=floor
        )

    async def take_over(self, limit: int = 100, *, waited: bool = False) -> list[Claimed]:
        """Take over the runs of dead workers."""
        return await Ledger(self.database).take_over(
            owner=self.id, worker=self.name, zone=self.zone, limit=limit, waited=waited
        )

    def flush(
        self,
        runs: Sequence[Claimed],
        status: RunStatus | None = RunStatus.SUCCEEDED,
        *,
        error: RunError | None = None,
        data: bytes = b"ok\n",
        proof: CancelProof | None = None,
    ) -> Flush:
        """Return a flush that writes `data` for each run's first action.

        It moves the run to `status`; None: the run continues.
        """
        ended = status is not None and status.final
        moves = [
            RunMove(
                r.id,
                r.execution_id,
                r.target_id,
                r.fence,
                status,
                0 if ended else None,
                error,
                proof,
                watched=r.watched,
            )
            for r in runs
        ]
        result_status = status if ended and status is not None else RunStatus.RUNNING
        results = [self._result(r, result_status, len(data), error, proof) for r in runs]
        return self.say(
            moves, results, [line for r in runs for line in self._lines(r, status, data)]
        )

    def say(
        self,
        moves: Sequence[RunMove],
        results: Sequence[ResultState] = (),
        lines: Sequence[LogLine] = (),
    ) -> Flush:
        """Return the next flush, with exactly these contents."""
        self.flushes += 1
        return Flush(self.id, self.name, self.flushes, moves, results, lines)

    def _result(
        self,
        run: Claimed,
        status: RunStatus,
        size: int,
        error: RunError | None,
        proof: CancelProof | None,
    ) -> ResultState:
        ended = NOW if status.final else None
        reached = (size, 0)
        return ResultState(
            run.id,
            "step-1",
            run.attempt,
            True,
            status,
            (0, 0),
            reached,
            reached,
            NOW,
            ended,
            0,
            error,
            proof,
        )

    def _lines(self, run: Claimed, status: RunStatus | None, data: bytes) -> list[LogLine]:
        output = LogLine(run.id, "output", "step-1", run.attempt, "stdout", 0, data)
        if status is None:
            return [output]
        return [
            output,
            LogLine(
                run.id,
                "status",
                body={"target_run": run.id, "target": run.target_id, "status": status.value},
            ),
        ]

    async def identify(self, runs: Sequence[Claimed], identity: SpoolIdentity | None) -> Settled:
        """Record in which spool these runs may be started from now on; None: directly."""
        direct = identity is None
        moves = [
            RunMove(r.id, r.execution_id, r.target_id, r.fence, identity=identity, direct=direct)
            for r in runs
        ]
        return await self.settle(self.say(moves))

    async def retry(self, runs: Sequence[Claimed]) -> Settled:
        """Record that these runs lost their result; they wait for the next attempt."""
        flush = self.flush(runs, RunStatus.WAITING)
        for result in flush.results:
            result.status, result.finished_at = RunStatus.LOST, NOW
        moves = [
            replace(move, attempt=run.attempt + 1)
            for move, run in zip(flush.runs, runs, strict=True)
        ]
        return await self.settle(replace(flush, runs=moves))

    async def give_back(self, runs: Sequence[Claimed]) -> Settled:
        """Record that nothing of these runs was started; they wait again."""
        flush = self.flush(runs, RunStatus.WAITING)
        return await self.settle(
            replace(
                flush, results=(), lines=[line for line in flush.lines if line.event == "status"]
            )
        )

    async def defer(
        self,
        runs: Sequence[Claimed],
        waiting_for: WaitingFor,
        *,
        seconds: float | None = None,
        awaits: str | None = None,
        attempt: int | None = None,
        open_action: str | None = None,
    ) -> Settled:
        """Let these runs wait. `open_action`: the result of an action that has begun stays open."""
        flush = self.flush(runs, RunStatus.WAITING)
        moves = [
            replace(
                m, waiting_for=waiting_for, wake_seconds=seconds, awaits=awaits, attempt=attempt
            )
            for m in flush.runs
        ]
        results = [
            ResultState(
                r.id, open_action, r.attempt, True, RunStatus.RUNNING, (0, 0), (0, 0), (0, 0), NOW
            )
            for r in runs
            if open_action is not None
        ]
        lines = [line for line in flush.lines if line.event == "status"]
        return await self.settle(replace(flush, runs=moves, results=results, lines=lines))

    async def lose(self, runs: Sequence[Claimed], proof: CancelProof | None = None) -> Settled:
        """End these runs as lost."""
        error = RunError(ErrorCode.LOST, "contact was lost")
        return await self.settle(self.flush(runs, RunStatus.LOST, error=error, proof=proof))

    async def die(self) -> None:
        """Be reaped as dead."""
        assert await Workers(self.database).reap(self.name) == 1

    async def stop(self) -> None:
        """Stop in order; its runs continue."""
        await Workers(self.database).stop(self.id)

    async def settle(self, flush: Flush) -> Settled:
        """Commit the flush."""
        return await Ledger(self.database).settle(flush)

    async def finish(
        self, runs: Sequence[Claimed], status: RunStatus = RunStatus.SUCCEEDED
    ) -> Settled:
        """End these runs."""
        return await self.settle(self.flush(runs, status))


async def read(database: Database, execution: Execution) -> Execution:
    """Return the current state of the execution."""
    return await Executions(database).get(execution.id)


async def faults(database: Database) -> list[str]:
    """Return contradictions in the whole database: counters, windows, slots, logs.

    Empty if all is well.
    """
    found: list[str] = []
    for row in await database.fetch(_COUNTERS):
        found.append(f"execution {row['id']}: counters {row['counted']} but runs {row['actual']}")
    for row in await database.fetch(_SLOTS):
        found.append(
            f"target {row['target_id']}: {row['used']} slots used, {row['held']} runs running"
        )
    for row in await database.fetch(_GAPS):
        found.append(
            f"execution {row['id']}: last_seq {row['last_seq']}, {row['n']} entries up to {row['top']}"
        )
    for row in await database.fetch(_UNSETTLED):
        found.append(f"execution {row['id']}: nothing waits or runs, but it is {row['status']}")
    for row in await database.fetch(_OUTPUT_GAPS):
        found.append(
            f"run {row['target_run_id']}: output at {row['start_offset']} where {row['expected']} was expected"
        )
    for row in await database.fetch(_OUT_OF_PLACE):
        found.append(
            f"run {row['id']} is {row['status']}: store {row['store_id']}, sweep {row['sweep_due']}, late {row['late_result']}"
        )
    for row in await database.fetch(_ASLEEP):
        found.append(
            f"execution {row['id']}: wave {row['open_wave']} is over, or all stand at barriers, and nothing follows"
        )
    for row in await database.fetch(_OUT_OF_TURN):
        found.append(
            f"run {row['id']} of wave {row['wave']} is {row['status']}, and wave {row['open_wave']} is open"
        )
    for row in await database.fetch(_TWO_HOLDERS):
        found.append(f"{row['name']} is held by executions {row['holders']}")
    for row in await database.fetch(_TWO_OPEN):
        found.append(
            f"run {row['target_run_id']}: attempt {row['attempt']} of {row['action']} is open, and there is a later one"
        )
    return found


_STATES = (
    "succeeded",
    "failed",
    "unreachable",
    "timeout",
    "cancelled",
    "skipped",
    "blocked",
    "lost",
    "dead",
)
_COUNTED = (
    "jsonb_build_array(e.waiting, e.ready, e.running, "
    + ", ".join(f"e.{status}" for status in _STATES)
    + ")"
)
_ACTUAL = ", ".join(
    f"count(*) filter (where status = '{status}')" for status in ("running", *_STATES)
)
_COUNTERS = f"""
select e.id, a.actual, {_COUNTED} as counted
from job_executions e join lateral (
  select jsonb_build_array(count(*) filter (where status = 'waiting' and waiting_for is not null),
                           count(*) filter (where status = 'waiting' and waiting_for is null), {_ACTUAL}) as actual
  from target_runs r where r.execution_id = e.id) a on true
where a.actual <> {_COUNTED}"""
_SLOTS = """
select s.target_id, s.used, coalesce(h.n, 0) as held from target_slots s
left join (select target_id, count(*) as n from target_runs where status = 'running' group by 1) h using (target_id)
where s.used <> coalesce(h.n, 0)"""
_GAPS = """
select e.id, e.last_seq, l.n, l.top from job_executions e join lateral (
  select count(*) as n, max(seq) as top from execution_log where execution_id = e.id) l on true
where l.n <> e.last_seq or l.top <> e.last_seq"""
_UNSETTLED = "select id, status from job_executions where waiting + ready + running = 0 and finished_at is null"
_OUTPUT_GAPS = """
select * from (
  select target_run_id, start_offset, lag(start_offset + coalesce(octet_length(data), dropped), 1, 0::bigint)
           over (partition by target_run_id, action, attempt, stream order by seq) as expected
  from execution_log where event = 'output') o where start_offset <> expected"""

# A waiting run is in no spool, a running one is not swept, and a result that was known in time is
# not recorded as late.
_OUT_OF_PLACE = """
select id, status, store_id, sweep_due, late_result from target_runs
where (status = 'waiting' and num_nonnulls(store_id, boot_id) > 0)
   or (finished_at is null and num_nonnulls(sweep_due, late_result) > 0)
   or (sweep_due is not null and (boot_id is null or store_id = 'direct' or spool_due is null))"""
_ASLEEP = """
select e.id, e.open_wave from job_executions e
where e.finished_at is null and not e.paused and not e.cancelling and not e.halted and e.ready + e.running = 0
  and e.open_until is not null and (e.deadline_at > opsjobs_now()) is not false
  and (not exists (select 1 from target_runs r where r.execution_id = e.id and r.status = 'waiting'
                   and r.position <= e.open_until) or (
    exists (select 1 from target_runs r where r.execution_id = e.id and r.status = 'waiting' and r.waiting_for = 'barrier')
    and not exists (select 1 from target_runs r where r.execution_id = e.id and r.status = 'waiting'
                    and r.waiting_for <> 'barrier' and r.position <= e.open_until)))"""
_OUT_OF_TURN = """
select r.id, r.wave, r.status, e.open_wave from target_runs r join job_executions e on e.id = r.execution_id
where r.wave > e.open_wave and (r.claimed_at is not null or r.status = 'waiting' and r.waiting_for is null)"""
_TWO_HOLDERS = """
select l.name, array_agg(e.id) as holders from exclusive_locks l join job_executions e on e.id = l.execution_id
where e.finished_at is null and (l.granted or e.started_at is not null) group by l.name having count(*) > 1"""
_TWO_OPEN = """
select x.target_run_id, x.action, x.attempt from job_execution_results x where x.status = 'running' and exists (
  select 1 from job_execution_results y
  where y.target_run_id = x.target_run_id and y.action = x.action and y.attempt > x.attempt)"""


def says(name: str, approve: bool = True, reason: str | None = None, **more: Any) -> Ruling:
    """Return the answer of a manager of this name to an approval."""
    return Ruling(Principal.of_role(name, "manager", "user", person=name), approve, reason, **more)
