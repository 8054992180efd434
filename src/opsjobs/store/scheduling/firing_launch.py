"""Launch pending firings: make them executions in one transaction.

Only as far as their schedules still allow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import DictRow

from opsjobs.model.firing import FiringRule, FiringStatus, paused_words
from opsjobs.store.ledger import NewExecution
from opsjobs.store.ledger.launch import launch
from opsjobs.store.ledger.launch_many import is_plain, launch_many
from opsjobs.store.scheduling import firing_transitions as moves
from opsjobs.store.scheduling.due_firings import ReadyFiring
from opsjobs.store.scheduling.firing_transitions import Deferral, FiringEnd, LaunchedFiring
from opsjobs.store.transaction import Connection

RETRY_SECONDS = 0.0
WAITING_REASON = "execution {} of the schedule has not ended"


@dataclass(frozen=True, slots=True)
class FiringLaunch:
    """A firing, and the execution to make of it."""

    ready: ReadyFiring
    new: NewExecution


@dataclass(frozen=True, slots=True)
class CancelPrevious:
    """A firing whose schedule requires that earlier executions are cancelled first."""

    ready: ReadyFiring
    executions: Sequence[int]


# Schedules before jobs, jobs before executions, each by id: the order of every transaction that
# locks several of them.
_LOCK = """
select id, job_id, version, enabled, paused_reason, firings, definition ->> 'overlap' as overlap,
       deleted_at is not null as deleted,
       (definition ->> 'max_firings')::bigint as max_firings
from job_schedules where id = any(%(schedules)s) order by id for no key update"""
_LOCK_FIRINGS = """
select f.id from schedule_executions f join unnest(%(firings)s::bigint[], %(attempts)s::int[])
  as m(id, attempts) using (id, attempts)
where f.status = 'pending' order by f.id for update of f"""
_MARK_OVER = """
update schedule_executions f set over = true
where f.schedule_id = any(%(schedules)s) and f.status = 'triggered' and not f.over
  and not exists (select from job_executions e where e.id = f.execution_id
                  and e.finished_at is null)"""
_OPEN = """
select f.schedule_id, array_agg(f.execution_id order by f.execution_id) as executions
from schedule_executions f
where f.schedule_id = any(%(schedules)s) and f.status = 'triggered' and not f.over
  and f.execution_id is not null group by 1"""
_LAUNCHED = "select id, uuid, created_at from job_executions where uuid = any(%(uuids)s)"
_LOCK_JOBS = (
    "select id, name, state from jobs where id = any(%(jobs)s) order by id for no key update"
)

_JOB_RULES = {
    "archived": (FiringRule.JOB_DELETED, "its job was deleted"),
    "draft": (FiringRule.JOB_DRAFT, "the job {name} is a draft"),
    "paused": (FiringRule.JOB_PAUSED, "the job {name} is paused"),
}


class LaunchBatch:
    """The decisions on some firings, made under the locks of their schedules.

    Read it once the transaction is committed.
    """

    def __init__(self, orders: Sequence[FiringLaunch]) -> None:
        self.ran: list[LaunchedFiring] = []
        self.ended: list[FiringEnd] = []
        self.waiting: list[Deferral] = []
        self.before: list[CancelPrevious] = []
        self._orders = orders
        self._schedules: dict[int, DictRow] = {}
        self._jobs: dict[int, DictRow] = {}
        self._own_firings: set[int] = set()
        self._open: dict[int, list[int]] = {}
        self._launched: dict[UUID, tuple[int, datetime]] = {}
        self._firings: dict[int, int] = {}
        self._firing: set[int] = set()
        self._chosen: list[FiringLaunch] = []

    async def write(self, connection: Connection) -> None:
        """Lock, decide, launch, and write the outcome."""
        await self._lock(connection)
        for order in self._orders:
            if order.ready.id in self._own_firings:
                self._decide(order)
        await self._launch(connection)
        async with connection.pipeline():
            await moves.trigger(connection, self.ran)
            await moves.defer(connection, self.waiting)
            await moves.settle(connection, self.ended)

    async def _lock(self, connection: Connection) -> None:
        readies = [order.ready for order in self._orders]
        named = {
            "schedules": sorted({ready.schedule.id for ready in readies}),
            "jobs": sorted({ready.schedule.job_id for ready in readies}),
            "firings": [ready.id for ready in readies],
            "attempts": [ready.attempts for ready in readies],
            "uuids": [ready.uuid for ready in readies],
        }
        async with connection.pipeline():
            schedules = await connection.execute(_LOCK, named)
            ours = await connection.execute(_LOCK_FIRINGS, named)
            jobs = await connection.execute(_LOCK_JOBS, named)
            await connection.execute(_MARK_OVER, named)
            still_open = await connection.execute(_OPEN, named)
            launched = await connection.execute(_LAUNCHED, named)
        self._schedules = {row["id"]: row for row in await schedules.fetchall()}
        self._own_firings = {row["id"] for row in await ours.fetchall()}
        self._jobs = {row["id"]: row for row in await jobs.fetchall()}
        self._open = {row["schedule_id"]: row["executions"] for row in await still_open.fetchall()}
        self._launched = {
            row["uuid"]: (row["id"], row["created_at"]) for row in await launched.fetchall()
        }
        self._firings = {row["id"]: row["firings"] for row in self._schedules.values()}

    def _decide(self, order: FiringLaunch) -> None:
        ready = order.ready
        schedule = self._schedules[ready.schedule.id]
        if (launched := self._launched.get(ready.uuid)) is not None:
            self.ran.append(LaunchedFiring(ready, launched[0], ready.uuid, launched[1]))
        elif (why := self._find_refusal(schedule)) is not None:
            self.ended.append(FiringEnd(ready, FiringStatus.SKIPPED, *why))
        elif schedule["version"] != ready.schedule.version:
            self.waiting.append(Deferral(ready, RETRY_SECONDS, None))
        elif (others := self._open.get(schedule["id"])) and schedule["overlap"] != "allow":
            self._overlap(ready, schedule["overlap"], others)
        elif schedule["id"] in self._firing and schedule["overlap"] != "allow":
            self.waiting.append(
                Deferral(ready, RETRY_SECONDS, None)
            )  # behind a firing of this batch
        else:
            self._firing.add(schedule["id"])
            self._firings[schedule["id"]] += 1
            self._chosen.append(order)

    def _find_refusal(self, schedule: DictRow) -> tuple[FiringRule, str] | None:
        job = self._jobs[schedule["job_id"]]
        if schedule["deleted"] and job["state"] != "archived":
            return FiringRule.DELETED, "the schedule was deleted"
        if job["state"] in _JOB_RULES:
            rule, words = _JOB_RULES[job["state"]]
            return rule, words.format(name=job["name"])
        if not schedule["enabled"]:
            return FiringRule.PAUSED, paused_words(schedule["paused_reason"])
        if (
            schedule["max_firings"] is not None
            and self._firings[schedule["id"]] >= schedule["max_firings"]
        ):
            return (
                FiringRule.MAX_FIRINGS,
                f"max_firings is {schedule['max_firings']}, and that many were launched",
            )
        return None

    def _overlap(self, ready: ReadyFiring, overlap: str, others: Sequence[int]) -> None:
        words = WAITING_REASON.format(others[-1])
        if overlap == "skip":
            self.ended.append(
                FiringEnd(
                    ready, FiringStatus.SKIPPED, FiringRule.OVERLAP, f"{words}, and overlap is skip"
                )
            )
        elif overlap == "queue":
            self.waiting.append(Deferral(ready, RETRY_SECONDS, words, others[-1]))
        else:
            self.before.append(CancelPrevious(ready, others))

    async def _launch(self, connection: Connection) -> None:
        """Write the chosen executions: the plain ones together, each of the others by itself."""
        together = [order for order in self._chosen if is_plain(order.new)]
        if together:
            made = await launch_many(connection, [order.new for order in together])
            self.ran += [
                LaunchedFiring(order.ready, one.id, one.uuid, one.created_at)
                for order, one in zip(together, made, strict=True)
            ]
        for order in self._chosen:
            if not is_plain(order.new):
                async with connection.pipeline():
                    execution = await launch(connection, order.new)
                self.ran.append(
                    LaunchedFiring(
                        order.ready, execution.id, order.ready.uuid, execution.created_at
                    )
                )
