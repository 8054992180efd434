"""The one door: whatever asks for an execution passes here, and when it returns the execution is committed."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from opsjobs import failpoints
from opsjobs.clock import Clock, uuid7
from opsjobs.engine.launching.approval_service import asking, terms_of
from opsjobs.engine.launching.launch_authz import PrincipalLookup
from opsjobs.engine.launching.references import (
    JobSecrets,
    check_bindings,
    pin_become_credentials,
    pin_files,
)
from opsjobs.engine.launching.safety_service import SafetyResult, SafetyService, refuse_blocked
from opsjobs.engine.launching.target_pinning import asks_people, pinned, with_steps_pinned
from opsjobs.integrations.parameter_choices import Choices
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import IdentityKind
from opsjobs.model.errors import Conflict, Invalid
from opsjobs.model.execution import Execution, TriggeredBy
from opsjobs.model.job import LaunchOrder
from opsjobs.model.local_transport import check_launched
from opsjobs.model.parameter import bound
from opsjobs.model.plan import Plan, plan
from opsjobs.model.retry import frozen
from opsjobs.model.strategy import Strategy, with_check
from opsjobs.model.target import Target
from opsjobs.store import audit, idempotency
from opsjobs.store.envelope import KeyMissing, Tampered
from opsjobs.store.files import Files
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.ledger import Ledger, NewExecution
from opsjobs.store.transaction import Connection, Database
from opsjobs.store.vault import Vault

Also = Callable[[Connection, Execution], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LaunchLimits:
    """`default_parallel`: runs at a time where the policy names none; `max_targets`: targets an execution.

    `max_attempts`: of an action, whatever its policy says; `retry_factor`: of exponential pauses, where its policy says none.
    `local_transport`: whether targets may be the worker's own machine. `exclusive_seconds`: how long names are held at most; 0: no limit.
    """

    default_parallel: int = 50
    max_targets: int = 10_000
    max_attempts: int = 11
    retry_factor: float = 2.0
    local_transport: bool = False
    exclusive_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Launched:
    """The execution as launched; or, for a request that was answered before, that answer."""

    execution: Execution | None
    replayed: Answer | None = None


class Launcher:
    """Resolves the targets, plans, writes, rings: in this order, and rings only for what is committed."""

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
        judging: SafetyService | None = None,
        standing: PrincipalLookup | None = None,
    ) -> None:
        """`standing`: asked what the author of a job that takes secrets from credentials may do now."""
        self.judging = judging
        self._choices = choices or Choices(clock)
        self._database = database
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self.secrets = JobSecrets(database, vault, standing)
        self._files = files
        self._clock = clock
        self._limits = limits
        self._notify = notify

    async def launch(
        self,
        order: LaunchOrder,
        *,
        triggered_by: TriggeredBy,
        requested_by: str,
        requested_by_kind: IdentityKind,
        idem: IdempotentRequest | None = None,
        uuid: UUID | None = None,
        parent: int | None = None,
    ) -> Launched:
        """Start an execution; `uuid` and `parent`: of one that is part of another one.

        Raises Invalid (no or too many targets, narrowed outside the job's, a credential that cannot be used, a file that is not
        there, wrong parameters), Forbidden (targets out of the order's bounds), NotFound, Conflict.
        """
        async with failpoints.at("launch"):
            new = await self.prepared(
                order,
                triggered_by=triggered_by,
                requested_by=requested_by,
                requested_by_kind=requested_by_kind,
                uuid=uuid,
            )
            new = replace(new, parent=parent)
        return await self.start(new, idem)

    async def prepared(
        self,
        order: LaunchOrder,
        *,
        triggered_by: TriggeredBy,
        requested_by: str,
        requested_by_kind: IdentityKind,
        uuid: UUID | None = None,
    ) -> NewExecution:
        """What a launch of this order would write, with all that is asked of others beforehand. Raises as `launch` does."""
        order = await self.with_values(order)
        targets = await self.selected(order)
        actions = await self.frozen(order, targets)
        by: dict[str, Any] = {"requested_by": requested_by, "requested_by_kind": requested_by_kind}
        new = self.draft(order, actions, targets, triggered_by=triggered_by, uuid=uuid, **by)
        return await self.asking(new, order)

    async def asking(self, new: NewExecution, order: LaunchOrder) -> NewExecution:
        """The launch as judged, with what has to be approved before it begins. `order`: with its values.

        Raises Invalid("safety_blocked", "too_many_targets"), Conflict("target_changed") where a machine is none of those, as they were
        then, that the outer execution was about; and what `JobSecrets.check` raises.
        """
        await self.secrets.check(order, new.targets)
        judged = await self.judged(new.actions, order, new.targets)
        if judged is not None:
            new = replace(new, judgement=judged.judgement)
            if order.override is None:
                refuse_blocked(judged.judgement)
        terms = terms_of(order.policy.approval, judged)
        people = asks_people(new.actions, terms, judged)
        if people or order.pins is not None:
            at_most = self._limits.max_targets
            new = replace(
                new,
                actions=await with_steps_pinned(
                    new.actions, self._targets, self._vault, at_most=at_most
                ),
            )
        if people or judged is not None or order.pins is not None:
            new = replace(
                new,
                pins=await pinned(
                    new.targets, self._targets, self._vault, people=people, before=order.pins
                ),
            )
        return asking(
            replace(new, requester=audit.requester(), override=order.override),
            order.parameters,
            terms,
        )

    async def judged(
        self, actions: Sequence[Mapping[str, Any]], order: LaunchOrder, targets: Sequence[Target]
    ) -> SafetyResult | None:
        """What the safety check says of these frozen actions there; None where it is not asked. `order`: with its values."""
        if self.judging is None:
            return None
        return await self.judging.launch(
            actions, order.parameters, targets, job_name=order.job_name, tags=order.tags
        )

    def draft(
        self,
        order: LaunchOrder,
        actions: Sequence[Mapping[str, Any]],
        targets: Sequence[Target],
        *,
        triggered_by: TriggeredBy,
        requested_by: str,
        requested_by_kind: IdentityKind,
        uuid: UUID | None = None,
    ) -> NewExecution:
        """What a launch would write: the order's execution of these frozen actions on these targets. Raises Invalid."""
        planned = self.planned(order, targets)
        uuid = uuid or uuid7(self._clock.now())
        return self._new(
            order, actions, planned, triggered_by, (requested_by, requested_by_kind), uuid=uuid
        )

    async def frozen(self, order: LaunchOrder, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """The actions as an execution on these targets keeps them: what they name is fixed from now on.

        Raises Invalid, also where a credential may not be used for that.
        """
        actions = with_check(order.policy, await pin_become_credentials(self._vault, order.actions))
        actions = [{**action, "retry": self._retry(action.get("retry"))} for action in actions]
        actions = await pin_files(self._files, actions)
        await self._narrow(order, actions)
        await check_bindings(
            self._vault, self._targets, targets, actions, job_id=order.job_id, job=order.job_name
        )
        return actions

    def planned(self, order: LaunchOrder, targets: Sequence[Target]) -> Plan:
        """Which runs it will have, in which order and waves. Raises Invalid."""
        check_launched(targets, allowed=self._limits.local_transport)
        return plan(
            order,
            targets,
            default_parallel=self._limits.default_parallel,
            max_targets=self._limits.max_targets,
            seed=secrets.randbits(32),
        )

    async def start(
        self, new: NewExecution, idem: IdempotentRequest | None = None, *, also: Also | None = None
    ) -> Launched:
        """Write it and notify. `also` is done in the same transaction, once the execution has its id."""

        async def write(connection: Connection) -> Execution:
            execution = await self._ledger.launch(connection, new)
            if also is not None:
                await also(connection, execution)
            return execution

        async with failpoints.at("ledger.launch"):
            done = await idempotency.once(self._database, idem, write, _told, pipelined=True)
        async with failpoints.at("notify"):
            self.notify(new.targets)
        return Launched(None, done) if isinstance(done, Answer) else Launched(done)

    def notify(self, targets: Sequence[Target]) -> None:
        """Wake the workers of these targets' zones."""
        for zone in {target.zone for target in targets}:
            self._notify(zone)

    async def _narrow(self, order: LaunchOrder, actions: Sequence[dict[str, Any]]) -> None:
        """Fix which of the targets an action that names some is for; of one that runs a job they say where that runs."""
        for action, kept in zip(order.actions, actions, strict=False):
            if action.targets is not None and action.type != "job":
                kept["target_ids"] = [
                    target.id for target in await self._targets.resolve(action.targets)
                ]

    async def with_values(self, order: LaunchOrder) -> LaunchOrder:
        """The order with a value for every declared parameter. Raises Invalid with a pointer to each wrong one."""
        if order.declared is None:
            return order
        said = [
            p
            for p in order.declared
            if p.default is not None or order.parameters.get(p.name) is not None
        ]
        values = bound(order.declared, order.parameters, await self._choices.fetch_all(said))
        return replace(order, parameters=await self.secrets.pin(values), declared=None)

    def opened(self, execution: UUID, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an execution, for one that comes of it. Raises Conflict where a secret does not open any more."""
        try:
            return self._vault.open_parameters(execution, stored)
        except (KeyMissing, Tampered) as refused:
            raise Conflict(
                "secret_undecryptable", f"{refused}. Give the parameters again: execute the job."
            ) from None

    def _policy(self, order: LaunchOrder) -> dict[str, Any]:
        policy = order.policy.model_dump(mode="json")
        return {**policy, "retry": self._retry(policy["retry"])}

    def _timeout(self, order: LaunchOrder) -> float | None:
        wanted, longest = order.policy.timeout, self._limits.exclusive_seconds
        if not longest or not order.policy.exclusive:
            return wanted
        return longest if wanted is None else min(wanted, longest)

    def _retry(self, retry: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return (
            None
            if retry is None
            else frozen(retry, attempts=self._limits.max_attempts, factor=self._limits.retry_factor)
        )

    async def selected(self, order: LaunchOrder) -> list[Target]:
        """The targets that are meant, as they are now. Raises Invalid, and Forbidden for what is out of the order's bounds."""
        sight = order.bounds.sight
        # What a stored job names is there to be read; what is asked for now and not seen is told as what is not there.
        of_job = await self._targets.resolve(order.targets, sight if order.job_id is None else None)
        if order.narrowed_to is None:
            order.bounds.check_targets(of_job)
            return of_job
        allowed = {target.id for target in of_job}
        narrowed = await self._targets.resolve(order.narrowed_to, sight)
        order.bounds.check_targets(narrowed)
        if outside := [target.name for target in narrowed if target.id not in allowed]:
            raise Invalid(
                "target_outside_job",
                f"{outside[0]} is not a target of this job: `targets` of an execute can only narrow the job's own.",
            )
        return narrowed

    def _new(
        self,
        order: LaunchOrder,
        actions: Sequence[Mapping[str, Any]],
        planned: Plan,
        triggered_by: TriggeredBy,
        requested_by: tuple[str, IdentityKind],
        *,
        uuid: UUID,
    ) -> NewExecution:
        return NewExecution(
            uuid=uuid,
            job_id=order.job_id,
            job_version=order.job_version,
            job_name=order.job_name,
            actions=actions,
            parameters=self._vault.seal_parameters(uuid, order.parameters),
            policy=self._policy(order),
            priority=order.policy.priority,
            window=planned.window,
            timeout_seconds=self._timeout(order),
            targets=planned.targets,
            triggered_by=triggered_by,
            requested_by=requested_by[0],
            requested_by_kind=requested_by[1],
            reason=order.reason,
            strategy=Strategy.from_policy(order.policy, planned.waves),
            names=order.policy.exclusive,
            hold_seconds=order.policy.hold_offline,
        )


def _told(execution: Execution) -> Answer:
    return Answer(202, f"/executions/{execution.id}", execution.data())
