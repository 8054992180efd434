"""Launch executions: the single entry point of every request for an execution.

When a launch returns, the execution is committed.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from opsjobs import failpoints
from opsjobs.clock import Clock, uuid7
from opsjobs.engine.launching.approval_service import add_approval, combine_terms
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.engine.launching.references import (
    JobSecrets,
    check_bindings,
    pin_become_credentials,
    pin_files,
)
from opsjobs.engine.launching.safety_service import SafetyResult, SafetyService, refuse_blocked
from opsjobs.engine.launching.target_pinning import is_decided_by_people, pin_steps, pin_targets
from opsjobs.integrations.caller_urls import Choices
from opsjobs.integrations.targets import Targets
from opsjobs.model.errors import Conflict, Invalid
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import LaunchOrder
from opsjobs.model.parameter import bound
from opsjobs.model.policy import Plan, Strategy, plan, with_check
from opsjobs.model.retry import frozen
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Target, check_local_targets
from opsjobs.store import audit, idempotency
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.files import Files
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault.credentials import Vault
from opsjobs.telemetry import trace_context, tracing
from opsjobs.telemetry.logs import log

Also = Callable[[Connection, Execution], Awaitable[None]]
"""Additional work in the transaction of a launch."""


@dataclass(frozen=True, slots=True)
class LaunchLimits:
    """Limits of launches, and defaults for fields that a policy does not set."""

    default_parallel: int = 50
    """Runs at a time, if the policy sets no number."""
    max_targets: int = 10_000
    """Targets of an execution."""
    max_attempts: int = 11
    """Attempts of an action, whatever its policy allows."""
    retry_factor: float = 2.0
    """Factor of exponential pauses, if the policy sets none."""
    local_transport: bool = False
    """True if a target may be the worker's own machine."""
    exclusive_seconds: float = 0.0
    """Time for which exclusive names may be held; 0: no limit."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The execution that was launched, or the stored response of a repeated request."""

    execution: Execution | None
    replayed: Answer | None = None


class Launcher:
    """Launch orders: prepare the rows to write, commit them, and then wake workers.

    Workers are woken only for committed rows. A caller with a special need takes the steps one by
    one: `bind_parameters`, `select_targets`, `freeze_actions`, `draft`, `vet`, `start`.
    """

    def __init__(
        self,
        *,
        database: Database,
        ledger: Ledger,
        targets: Targets,
        vault: Vault,
        files: Files,
        clock: Clock,
        limits: LaunchLimits,
        notify: Callable[[str], None],
        choices: Choices | None = None,
        safety: SafetyService | None = None,
        current_principal: PrincipalLookup | None = None,
    ) -> None:
        """`current_principal`: looks up the current rights of authors of jobs that take secrets."""
        self.safety = safety
        self.job_secrets = JobSecrets(database, vault, current_principal)
        self._choices = choices or Choices(clock)
        self._database = database
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self._files = files
        self._clock = clock
        self._limits = limits
        self._notify = notify

    async def launch(
        self,
        order: LaunchOrder,
        *,
        triggered_by: TriggeredBy,
        requested_by: Identity,
        idem: IdempotentRequest | None = None,
        uuid: UUID | None = None,
        parent: int | None = None,
    ) -> Launched:
        """Start an execution; `uuid` and `parent` are given if it is a step of another one.

        Raises Invalid (no or too many targets, targets outside the job's, a credential that may not
        be used, a file that does not exist, wrong parameters), Forbidden (targets out of the
        order's bounds), NotFound, Conflict.
        """
        async with failpoints.at("launch"):
            new = await self.prepare(
                order,
                triggered_by=triggered_by,
                requested_by=requested_by,
                uuid=uuid,
            )
            new = replace(new, parent=parent)
        return await self.start(new, idem)

    async def prepare(
        self,
        order: LaunchOrder,
        *,
        triggered_by: TriggeredBy,
        requested_by: Identity,
        uuid: UUID | None = None,
    ) -> NewExecution:
        """Return the execution that a launch of this order would write, after all checks.

        Raises as `launch`.
        """
        with tracing.span("prepare"):
            order = await self.bind_parameters(order)
            targets = await self.select_targets(order)
            actions = await self.freeze_actions(order, targets)
        new = self.draft(
            order,
            actions,
            targets,
            triggered_by=triggered_by,
            requested_by=requested_by,
            uuid=uuid,
        )
        return await self.vet(new, order)

    async def bind_parameters(self, order: LaunchOrder) -> LaunchOrder:
        """Return the order with a value for every declared parameter.

        Raises Invalid with a pointer to each wrong one.
        """
        if order.declared is None:
            return order
        used = [
            parameter
            for parameter in order.declared
            if parameter.default is not None or order.parameters.get(parameter.name) is not None
        ]
        values = bound(order.declared, order.parameters, await self._choices.fetch_all(used))
        return replace(order, parameters=await self.job_secrets.pin(values), declared=None)

    async def select_targets(self, order: LaunchOrder) -> list[Target]:
        """Return the targets of the order, as they are now.

        Raises Invalid, and Forbidden for targets out of the order's bounds.
        """
        sight = order.bounds.sight
        # The targets that a stored job names are not secret. In a selection of this request,
        # targets that the caller may not see are reported as if they did not exist.
        of_job = await self._targets.resolve(order.targets, sight if order.job_id is None else None)
        if order.narrowed_to is None:
            order.bounds.check_targets(of_job)
            return of_job
        allowed = {target.id for target in of_job}
        narrowed = await self._targets.resolve(order.narrowed_to, sight)
        if order.narrowed_to.empty and order.narrowed_to.exclude:  # all of the job's but these
            excluded = SelectionDraft(ids=order.narrowed_to.exclude)
            spared = {target.id for target in await self._targets.resolve(excluded, sight)}
            narrowed = [target for target in of_job if target.id not in spared]
        order.bounds.check_targets(narrowed)
        outside = [target.name for target in narrowed if target.id not in allowed]
        if outside:
            raise Invalid(
                "target_outside_job",
                f"{outside[0]} is not a target of this job: "
                "`targets` of an execute can only narrow the job's own.",
            )
        return narrowed

    async def find_visible(self, order: LaunchOrder, target_ids: Sequence[str]) -> Collection[str]:
        """Return those of these targets that the caller of the order may see, as they are now.

        A target that was removed has no labels: only a caller without a scope may see it.
        """
        sight = order.bounds.sight
        if sight.everywhere or not target_ids:
            return frozenset(target_ids)
        found = await self._targets.get_many(target_ids)
        return {key for key, target in found.items() if sight.holds(target.labels)}

    async def freeze_actions(
        self, order: LaunchOrder, targets: Sequence[Target]
    ) -> list[dict[str, Any]]:
        """Return the actions as an execution on these targets stores them.

        The names in them are resolved now, and later changes do not affect them. Raises Invalid,
        including if a credential may not be used on these targets or for this job.
        """
        actions = with_check(order.policy, await pin_become_credentials(self._vault, order.actions))
        actions = [
            {**action, "retry": self._freeze_retry(action.get("retry"))} for action in actions
        ]
        actions = await pin_files(self._files, actions)
        await self._pin_action_targets(order, actions)
        await check_bindings(
            self._vault, self._targets, targets, actions, job_id=order.job_id, job=order.job_name
        )
        return actions

    async def _pin_action_targets(
        self, order: LaunchOrder, actions: Sequence[dict[str, Any]]
    ) -> None:
        """Pin the targets of actions that run only on some targets of the execution.

        The targets of a job action mean something else: where that job runs.
        """
        for action, frozen_action in zip(order.actions, actions, strict=False):
            if action.targets is not None and action.type != "job":
                targets = await self._targets.resolve(action.targets)
                frozen_action["target_ids"] = [target.id for target in targets]

    def plan_runs(self, order: LaunchOrder, targets: Sequence[Target]) -> Plan:
        """Return the runs of an execution, their order and their waves. Raises Invalid."""
        check_local_targets(targets, allowed=self._limits.local_transport)
        return plan(
            order.policy,
            targets,
            default_parallel=self._limits.default_parallel,
            max_targets=self._limits.max_targets,
            seed=secrets.randbits(32),
        )

    def draft(
        self,
        order: LaunchOrder,
        actions: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        *,
        triggered_by: TriggeredBy,
        requested_by: Identity,
        uuid: UUID | None = None,
    ) -> NewExecution:
        """Return the execution of these frozen actions on these targets. Raises Invalid."""
        planned = self.plan_runs(order, targets)
        uuid = uuid or uuid7(self._clock.now())
        policy = order.policy.model_dump(mode="json")
        return NewExecution(
            uuid=uuid,
            job_id=order.job_id,
            job_version=order.job_version,
            job_name=order.job_name,
            actions=actions,
            parameters=self._vault.seal_parameters(uuid, order.parameters),
            policy={**policy, "retry": self._freeze_retry(policy["retry"])},
            priority=order.policy.priority,
            window=planned.window,
            timeout_seconds=self._timeout_seconds(order),
            targets=planned.targets,
            triggered_by=triggered_by,
            requested_by=requested_by,
            reason=order.reason,
            strategy=Strategy.from_policy(order.policy, planned.waves),
            names=order.policy.exclusive,
            hold_seconds=order.policy.hold_offline,
            traceparent=trace_context.traceparent(),
            summary=order.summary,
        )

    async def vet(self, new: NewExecution, order: LaunchOrder) -> NewExecution:
        """Check an execution before it starts, and add the approval that it needs.

        `order` has its values. Raises Invalid("safety_blocked", "too_many_targets"),
        Conflict("target_changed") if a machine is not as it was when the parent execution was
        approved, or was not part of that; and the exceptions of `JobSecrets.check`.
        """
        await self.job_secrets.check(order, new.targets)
        safety = await self.check_safety(new.actions, order, new.targets)
        if safety is not None:
            new = replace(new, judgement=safety.judgement)
            if order.override is None:
                refuse_blocked(safety.judgement)
        terms = combine_terms(order.policy.approval, safety)
        by_people = is_decided_by_people(new.actions, terms, safety)
        if by_people or order.pins is not None:
            limit = self._limits.max_targets
            actions = await pin_steps(new.actions, self._targets, self._vault, max_targets=limit)
            new = replace(new, actions=actions)
        if by_people or safety is not None or order.pins is not None:
            pins = await pin_targets(
                new.targets, self._targets, self._vault, digests=by_people, approved=order.pins
            )
            new = replace(new, pins=pins)
        new = replace(new, requester=audit.requester(), override=order.override)
        return add_approval(new, order.parameters, terms)

    async def check_safety(
        self, actions: Sequence[Mapping[str, Any]], order: LaunchOrder, targets: Sequence[Target]
    ) -> SafetyResult | None:
        """Return the result of the safety check of these frozen actions on these targets.

        None if the check is off. `order` has its values.
        """
        if self.safety is None:
            return None
        with tracing.span("safety_check"):
            return await self.safety.check_launch(
                actions, order.parameters, targets, job_name=order.job_name, tags=order.tags
            )

    async def start(
        self, new: NewExecution, idem: IdempotentRequest | None = None, *, also: Also | None = None
    ) -> Launched:
        """Write the execution, and wake workers.

        `also` is called in the same transaction, once the execution has its id.
        """

        async def write(connection: Connection) -> Execution:
            execution = await self._ledger.launch(connection, new)
            if also is not None:
                await also(connection, execution)
            return execution

        with tracing.span("launch", targets=len(new.targets)):
            async with failpoints.at("ledger.launch"):
                done = await idempotency.once(self._database, idem, write, _answer, pipelined=True)
        if isinstance(done, Execution):
            log.info(
                "execution_launched",
                execution=done.id,
                job=done.job_id,
                targets=done.total_targets,
                status=done.status.value,
                triggered_by=done.triggered_by.value,
            )
        async with failpoints.at("notify"):
            self.notify(new.targets)
        return Launched(None, done) if isinstance(done, Answer) else Launched(done)

    def notify(self, targets: Sequence[Target]) -> None:
        """Wake the workers of these targets' zones."""
        for zone in {target.zone for target in targets}:
            self._notify(zone)

    def open_parameters(self, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of an execution, for one that is made from it.

        Raises Conflict if a secret cannot be decrypted.
        """
        try:
            return self._vault.open_parameters(execution, stored)
        except (KeyMissing, Tampered) as refused:
            raise Conflict(
                "secret_undecryptable", f"{refused}. Give the parameters again: execute the job."
            ) from None

    def _freeze_retry(self, retry: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if retry is None:
            return None
        return frozen(retry, attempts=self._limits.max_attempts, factor=self._limits.retry_factor)

    def _timeout_seconds(self, order: LaunchOrder) -> float | None:
        wanted, longest = order.policy.timeout, self._limits.exclusive_seconds
        if not longest or not order.policy.exclusive:
            return wanted
        return longest if wanted is None else min(wanted, longest)


def _answer(execution: Execution) -> Answer:
    return Answer(202, f"/executions/{execution.id}", execution.data())
