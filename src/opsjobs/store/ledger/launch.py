"""Launch: write an execution, its spec, its runs, their first admission and its events.

All in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from opsjobs.model.access import Requester
from opsjobs.model.access_bounds import in_common, redact_waiting
from opsjobs.model.action_base import CHECK_KEY
from opsjobs.model.errors import Conflict, NotFound, Refusal
from opsjobs.model.execution import ExecutionStatus, TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.policy import Strategy
from opsjobs.model.run_views import Execution
from opsjobs.model.safety_verdict import SafetyJudgement
from opsjobs.model.target import Target
from opsjobs.model.target_fingerprint import NO_PINS, Pins
from opsjobs.store import audit
from opsjobs.store.envelope import job_secrets, mask_parameters
from opsjobs.store.ledger.admission import ADMIT, STEP, WAITING_ON
from opsjobs.store.ledger.advance import GRANT_NAMES, REQUEST_NAMES
from opsjobs.store.ledger.approval_rows import (
    PendingApproval,
    check_lock_cycle,
    request_launch_approval,
)
from opsjobs.store.statements import load_statement
from opsjobs.store.transaction import Connection

# Maximum number of targets that the audit log names per launch.
AUDITED_TARGETS_MAX = 20


@dataclass(frozen=True, slots=True)
class NewExecution:
    """All fields of an execution that are fixed at its launch."""

    uuid: UUID
    job_id: int | None
    job_version: int | None
    job_name: str
    actions: Sequence[Mapping[str, Any]]
    policy: dict[str, Any]
    priority: int
    window: int
    """The number of its runs that may be ready or running at a time."""
    timeout_seconds: float | None
    """Limits the whole execution; None: no limit."""
    targets: Sequence[Target]
    triggered_by: TriggeredBy
    requested_by: Identity
    reason: str | None = None
    parent: int | None = None
    """The execution that it retries, or whose action launched it."""
    retried_runs: Mapping[str, int] = field(default_factory=dict)
    """For a retry: the parent's run that each run replaces, by target id.

    Its succeeded actions are inherited, and not performed again.
    """
    strategy: Strategy | None = None
    """Its waves and gates; None: all at once."""
    names: Sequence[str] = ()
    """Exclusive names: locks held by only one execution at a time."""
    hold_seconds: float = 0.0
    """The time that its runs wait for unreachable targets."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As the row stores them, secrets sealed."""
    judgement: SafetyJudgement | None = None
    """The verdict of the safety check on the texts that will run; None: it was not checked."""
    approval: PendingApproval | None = None
    """The approval that it requires before it starts."""
    override: str | None = None
    """The reason why the safety check and approvals are overridden."""
    requester: Requester | None = None
    """The identity of `requested_by`, with the person behind it."""
    pins: Pins = NO_PINS
    """The fingerprints of its targets, which are checked when its runs start."""
    traceparent: str | None = None
    """The trace context of the launch, which its runs continue."""
    summary: str | None = None
    """The line that describes an ad-hoc execution; None for a job, which has a name."""

    @property
    def status(self) -> ExecutionStatus:
        """The status at launch."""
        return ExecutionStatus.QUEUED if self.approval is None else ExecutionStatus.PENDING_APPROVAL

    @property
    def gated(self) -> bool:
        """Return True if its runs depend on each other: waves, a limit of failures, a barrier."""
        barrier = any(action.get("scope") == "barrier" for action in self.actions)
        return barrier or not (self.strategy is None or self.strategy.plain)

    @property
    def labels(self) -> dict[str, str]:
        """The labels that all of its targets have in common."""
        return in_common(target.labels for target in self.targets)

    @property
    def watched(self) -> bool:
        """Return True if state changes of its runs can affect other runs or a parent."""
        return (
            self.gated
            or bool(self.names)
            or (self.parent is not None and self.triggered_by is TriggeredBy.WORKFLOW)
        )


_EXECUTION = load_statement(__file__, "launch")

_JOB = "select name, state from jobs where id = %s and state <> 'archived'"

# With the lengths of the arrays known, PostgreSQL holds every new plan for cheaper than the kept
# one; making it takes longer than running it (0.7 and 0.6 ms).
_KEEP_PLAN = "set local plan_cache_mode = force_generic_plan"
# What a retry inherits is found by a plan that depends on the number of its targets.
_PLAN_ANEW = "set local plan_cache_mode = auto"

_GATES = """
insert into execution_gates (execution_id, waves, limits, per_wave, confirm, checked, pause_on_fail)
values (%(id)s, %(waves)s::int[], %(limits)s::int[], %(per_wave)s, %(confirm)s, %(checked)s,
        %(pause_on_fail)s)"""

# Existing rows are touched only if their number of slots changed (a conflicting insert would lock
# all); it never goes below `used`.
SLOTS = """
with wanted as materialized (
  select t.id, t.slots from unnest(%(targets)s::text[], %(slots)s::int[]) as t(id, slots)
  order by t.id
), resized as (
  update target_slots s set slots = greatest(t.slots, s.used) from wanted t
  where s.target_id = t.id and s.slots <> greatest(t.slots, s.used)
)
insert into target_slots (target_id, slots)
select t.id, t.slots from wanted t where not exists (select 1 from target_slots s
  where s.target_id = t.id)
order by t.id on conflict do nothing"""

# Inherit succeeded results, under the attempt by which their output is found; but no result of a
# run that was rolled back, because that undid it. The fence of 1 tells the worker that claims the
# run to load its progress.
_INHERIT = """
with retried as (
  select r.id, h.parent from unnest(%(targets)s::text[], %(parents)s::bigint[]) as h(target, parent)
  join target_runs r on r.execution_id = %(id)s and r.target_id = h.target
), rolled_back as (
  select distinct h.id from retried h join job_execution_results x on x.target_run_id = h.parent
    and x.action = any(%(rollbacks)s)
), inherited as (
  insert into job_execution_results (execution_id, target_run_id, action, attempt, status,
                                     exit_code, outputs, worker,
                                     started_at, finished_at, command, inherited_from)
  select %(id)s, h.id, x.action, x.attempt, x.status, x.exit_code, x.outputs, x.worker,
         x.started_at, x.finished_at, x.command,
         coalesce(x.inherited_from, x.execution_id)
  from retried h join job_execution_results x on x.target_run_id = h.parent
    and x.status = 'succeeded' and x.action = any(%(keys)s)
  where h.id not in (select id from rolled_back) order by h.id, x.id
)
update target_runs r set fence = 1 from retried h where r.id = h.id"""

_WAITING_REASON = f"""
select {WAITING_ON} as waiting_on from job_executions e
  join execution_specs s on s.execution_id = e.id where e.id = %s"""


async def launch(connection: Connection, new: NewExecution) -> Execution:
    """Write the execution in the caller's transaction, and return it.

    Raises NotFound for the job, Conflict for the job or its exclusive names. In a pipeline it takes
    a single round trip; its last statements are sent with the caller's next ones.
    """
    await connection.execute(_KEEP_PLAN)
    written = await connection.execute(_EXECUTION, _row(new))
    row = await written.fetchone()
    if row is None:
        raise await _refusal(connection, new)
    execution_id: int = row["id"]
    await connection.execute(
        SLOTS, {"targets": [t.id for t in new.targets], "slots": [t.slots for t in new.targets]}
    )
    if new.retried_runs:
        await connection.execute(_PLAN_ANEW)
        await connection.execute(_INHERIT, _inherited_rows(new, execution_id))
    if new.gated:
        await connection.execute(_GATES, _gate_row(new, execution_id))
    if new.names and new.approval is None:
        await connection.execute(
            REQUEST_NAMES, {"id": execution_id, "parent": new.parent, "names": list(new.names)}
        )
        await connection.execute(GRANT_NAMES)
        await connection.execute(ADMIT, {"executions": [execution_id]})
    await _record(connection, new, execution_id)
    await record_secrets(connection, [(new, execution_id)])
    if new.override is not None:
        verdict = new.judgement.data() if new.judgement is not None else {}
        await audit.record(
            connection,
            "safety.overridden",
            "execution",
            execution_id,
            new.job_name,
            after=verdict,
            reason=new.override,
        )
    if new.approval is not None:
        await request_launch_approval(connection, execution_id, new.approval, _withheld(new))
    elif new.names and new.triggered_by is TriggeredBy.WORKFLOW:
        await check_lock_cycle(connection, execution_id)
    may_wait = new.names or new.approval
    return _launched(new, row, await _waiting_on(connection, execution_id) if may_wait else None)


async def _refusal(connection: Connection, new: NewExecution) -> Refusal:
    job = await (await connection.execute(_JOB, [new.job_id])).fetchone()
    if job is None:
        return NotFound.for_ref("job", new.job_id)
    return refuse_state(job["name"], job["state"])


def refuse_state(name: str, state: str) -> Conflict:
    """Return how an execution of a job that is not active is refused."""
    if state == "draft":
        return Conflict(
            "job_is_draft",
            f"Job {name} is a draft: set its state to active before it can be executed.",
        )
    return Conflict("job_is_paused", f"Job {name} is paused: resume it before it can be executed.")


async def _record(connection: Connection, new: NewExecution, execution_id: int) -> None:
    """Write the audit entry of the launch.

    Launches by schedules and actions are not audited here: the schedule, the parent and the
    execution itself record them.
    """
    if new.triggered_by in (TriggeredBy.SCHEDULE, TriggeredBy.WORKFLOW):
        return
    after = {
        "job": new.job_id,
        "version": new.job_version,
        "triggered_by": new.triggered_by.value,
        "parent": new.parent,
        "parameters": mask_parameters(new.parameters),
        "targets": len(new.targets),
        "first": [target.name for target in new.targets[:AUDITED_TARGETS_MAX]],
    }
    action = "execution.retried" if new.triggered_by is TriggeredBy.RETRY else "execution.launched"
    await audit.record(
        connection, action, "execution", execution_id, new.job_name, after=after, reason=new.reason
    )


async def record_secrets(
    connection: Connection, launched: Sequence[tuple[NewExecution, int]]
) -> None:
    """Record in the audit log which credentials these executions get their secrets from."""
    used = [
        (
            secret.credential_id or "",
            secret.credential,
            {"execution": execution_id, "job": new.job_name, "parameter": name},
        )
        for new, execution_id in launched
        for name, secret in job_secrets(new.parameters).items()
    ]
    if used:
        await audit.record_many(connection, "credential.used", "credential", used)


async def _waiting_on(connection: Connection, execution_id: int) -> Mapping[str, Any] | None:
    """Return why it does not proceed, of other executions only that there is one.

    The caller may be one who sees only its own.
    """
    row = await (await connection.execute(_WAITING_REASON, [execution_id])).fetchone()
    if row is None:
        return None
    return redact_waiting(row["waiting_on"], everything=False, alike=False)


def _launched(
    new: NewExecution, row: dict[str, Any], waiting_on: Mapping[str, Any] | None
) -> Execution:
    waves = len(_sizes(new))
    return Execution(
        id=row["id"],
        uuid=str(new.uuid),
        job_id=new.job_id,
        job_version=new.job_version,
        number=row["number"],
        job_name=new.job_name,
        summary=new.summary,
        status=new.status,
        triggered_by=new.triggered_by,
        requested_by=new.requested_by,
        parameters=mask_parameters(new.parameters),
        counts={"waiting": len(new.targets)},
        total_targets=len(new.targets),
        last_seq=1,
        log_day=row["log_day"],
        created_at=row["created_at"],
        started_at=None,
        finished_at=None,
        reason=new.reason,
        parent=new.parent,
        waves={"open": 1, "total": waves} if waves > 1 else None,
        waiting_on=waiting_on,
        labels=new.labels,
        judgement=new.judgement.data() if new.judgement is not None else None,
    )


def _row(new: NewExecution) -> dict[str, Any]:
    return {**_execution_row(new), **_spec_row(new), **_run_rows(new)}


def _execution_row(new: NewExecution) -> dict[str, Any]:
    # Otherwise its window, deadline and names are withheld until it is approved.
    now = new.approval is None
    # An execution that requests names is admitted once it has them.
    ready = min(new.window, _sizes(new)[0]) if now and not new.names else 0
    return {
        "uuid": new.uuid,
        "job_id": new.job_id,
        "job_version": new.job_version,
        "status": new.status.value,
        "window": new.window if now else 0,
        "priority": new.priority,
        "total": len(new.targets),
        "ready": ready,
        "step": STEP // new.priority,
        "timeout_seconds": new.timeout_seconds if now else None,
        "open_until": _sizes(new)[0] if new.gated else None,
        "watched": new.watched and now,
        "named": bool(new.names),
        "hold_seconds": (new.hold_seconds or None) if now else None,
    }


def _withheld(new: NewExecution) -> dict[str, Any]:
    return {
        "window": new.window,
        "timeout": new.timeout_seconds,
        "hold": new.hold_seconds or None,
        "watched": new.watched,
        "names": list(new.names),
        "parent": new.parent,
    }


def _sizes(new: NewExecution) -> list[int]:
    return list(new.strategy.sizes) if new.strategy is not None else [len(new.targets)]


def _gate_row(new: NewExecution, execution_id: int) -> dict[str, Any]:
    strategy = new.strategy or Strategy(_sizes(new))
    return {
        "id": execution_id,
        "waves": _sizes(new),
        "limits": list(strategy.limits) if strategy.limits is not None else None,
        "per_wave": strategy.per_wave,
        "confirm": strategy.confirm,
        "checked": strategy.checked,
        "pause_on_fail": strategy.pause_on_fail,
    }


def _spec_row(new: NewExecution) -> dict[str, Any]:
    return {
        "job_name": new.job_name,
        "actions": Jsonb(list(new.actions)),
        "parameters": Jsonb(dict(new.parameters)),
        "policy": Jsonb(new.policy),
        "triggered_by": new.triggered_by.value,
        "requested_by": new.requested_by.name,
        "reason": new.reason,
        "parent": new.parent,
        "requested_by_kind": new.requested_by.kind,
        "labels": Jsonb(new.labels),
        "requester": Jsonb(new.requester.data()) if new.requester is not None else None,
        "judgement": Jsonb(new.judgement.data()) if new.judgement is not None else None,
        "target_versions": new.pins.versions,
        "target_pins": new.pins.digests,
        "traceparent": new.traceparent,
        "summary": new.summary,
    }


def _run_rows(new: NewExecution) -> dict[str, Any]:
    return {
        # In a database restored from a backup, the same target gets the same run uuid, so its
        # folder is found again.
        "uuids": [uuid5(new.uuid, target.id) for target in new.targets],
        "targets": [target.id for target in new.targets],
        "names": [target.name for target in new.targets],
        "hosts": [target.host for target in new.targets],
        "zones": [target.zone for target in new.targets],
        "sizes": _sizes(new),
    }


def _inherited_rows(new: NewExecution, execution_id: int) -> dict[str, Any]:
    rollbacks = {action["rollback"] for action in new.actions if action.get("rollback")}
    # The check of a gate is about these runs, not those of the parent.
    not_inherited = {*rollbacks, CHECK_KEY}
    return {
        "id": execution_id,
        "targets": list(new.retried_runs),
        "parents": list(new.retried_runs.values()),
        "keys": [action["key"] for action in new.actions if action["key"] not in not_inherited],
        "rollbacks": sorted(rollbacks),
    }
