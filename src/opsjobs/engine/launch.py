"""The one door: whatever asks for an execution passes here, and when it returns the execution is committed."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opsjobs import failpoints
from opsjobs.clock import Clock, uuid7
from opsjobs.engine import become
from opsjobs.model.execution import Execution, TriggeredBy
from opsjobs.model.failures import Invalid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.plan import Plan, plan
from opsjobs.model.target import Target
from opsjobs.peers.targets import Targets
from opsjobs.store import idempotency
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.ledger import Ledger, NewExecution
from opsjobs.store.transaction import Database
from opsjobs.store.vault import Vault


@dataclass(frozen=True, slots=True)
class LaunchLimits:
    """`default_parallel`: runs at a time where the policy names none; `max_targets`: targets an execution."""

    default_parallel: int = 50
    max_targets: int = 10_000


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
        clock: Clock,
        limits: LaunchLimits,
        ring: Callable[[str], None],
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._targets = targets
        self._vault = vault
        self._clock = clock
        self._limits = limits
        self._ring = ring

    async def launch(
        self,
        order: LaunchOrder,
        *,
        triggered_by: TriggeredBy,
        requested_by: str,
        idem: IdempotentRequest | None = None,
    ) -> Launched:
        """Start an execution.

        Raises Invalid (no or too many targets, narrowed outside the job's, a credential that cannot be used), NotFound, Conflict.
        """
        async with failpoints.at("launch"):
            planned = plan(
                order,
                await self._selected(order),
                default_parallel=self._limits.default_parallel,
                max_targets=self._limits.max_targets,
                seed=secrets.randbits(32),
            )
            actions = await become.fixed(self._vault, order.actions)
        new = self._new(order, actions, planned, triggered_by, requested_by)
        async with failpoints.at("ledger.launch"):
            launched = await self._database.repeat(lambda: self._write(new, idem))
        async with failpoints.at("ring"):
            for zone in {target.zone for target in planned.targets}:
                self._ring(zone)
        return launched

    async def _selected(self, order: LaunchOrder) -> list[Target]:
        of_job = await self._targets.resolve(order.targets)
        if order.narrowed_to is None:
            return of_job
        allowed = {target.id for target in of_job}
        narrowed = await self._targets.resolve(order.narrowed_to)
        if outside := [target.name for target in narrowed if target.id not in allowed]:
            raise Invalid(
                "target_outside_job",
                f"{outside[0]} is not a target of this job: `targets` of an execute can only narrow the job's own.",
            )
        return narrowed

    def _new(
        self, order: LaunchOrder, actions: list[dict[str, Any]], planned: Plan, triggered_by: TriggeredBy, requested_by: str
    ) -> NewExecution:
        return NewExecution(
            uuid=uuid7(self._clock.now()),
            job_id=order.job_id,
            job_version=order.job_version,
            job_name=order.job_name,
            actions=actions,
            policy=order.policy.model_dump(mode="json"),
            priority=order.policy.priority,
            window=planned.window,
            timeout_seconds=order.policy.timeout,
            targets=planned.targets,
            triggered_by=triggered_by,
            requested_by=requested_by,
            reason=order.reason,
        )

    async def _write(self, new: NewExecution, idem: IdempotentRequest | None) -> Launched:
        async with self._database.transaction() as connection:
            if idem is not None and (answer := await idempotency.begin(connection, idem)) is not None:
                return Launched(None, answer)
            execution = await self._ledger.launch(connection, new)
            if idem is not None:
                await idempotency.record(connection, idem, 202, f"/executions/{execution.id}", execution.data())
            return Launched(execution)
