"""Actions that run another job: launched once per attempt, awaited in the ledger.

The action ends with the result of the execution that it launched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.launch_authz import CurrentRights, PrincipalLookup
from opsjobs.engine.launching.target_pinning import parse_step_pins
from opsjobs.model.action import FrozenJob
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import TriggeredBy, child_uuid
from opsjobs.model.job import LaunchOrder
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.store.executions import Executions
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.ledger.claim import Claimed, Spec
from opsjobs.store.paging import PageRequest

DEPTH_MAX = 8
"""The maximum depth of jobs that run jobs."""


class ChildExecutions:
    """Launches executions that are children of another execution."""

    def __init__(
        self,
        launcher: Launcher,
        jobs: Jobs,
        executions: Executions,
        current_principal: PrincipalLookup,
    ) -> None:
        """Prepare; `current_principal` looks up the requester's rights at each launch."""
        self._launcher = launcher
        self._jobs = jobs
        self._executions = executions
        self._current_principal = current_principal

    async def launch_or_get(
        self, spec: Spec, run: Claimed, action: FrozenJob, attempt: int
    ) -> Execution:
        """Launch the execution of this attempt, or return it if it was launched before.

        Raises NotFound, Invalid, Conflict or Forbidden if it cannot be launched;
        Conflict("target_changed") if a machine is not as approved with the outer execution, or was
        not part of that approval.
        """
        uuid = child_uuid(run.uuid, action.key, attempt)
        if (existing := await self._find(uuid)) is not None:
            return existing
        ancestors = await self._ancestors(spec.execution_id)
        stored = await self._find_job(action.job)
        await self._check_unchanged(ancestors, stored)
        job = stored.job
        bounds = await CurrentRights(self._current_principal).launching(
            spec.requested_by, stored.labels, job.definition.name
        )
        order = LaunchOrder(
            job.definition.actions,
            action.targets or SelectionDraft(ids=[run.target_id]),
            job.definition.policy,
            job.definition.name,
            job.id,
            job.version,
            reason=f"action {action.key} of execution {spec.execution_id}",
            parameters=action.parameters,
            declared=job.definition.parameters,
            bounds=bounds,
            tags=job.definition.tags,
            pins=_pins(spec, run, action),
        )
        try:
            launched = await self._launcher.launch(
                order,
                triggered_by=TriggeredBy.WORKFLOW,
                requested_by=spec.requested_by,
                uuid=uuid,
                parent=spec.execution_id,
            )
        except Exception:  # a previous owner of the run launched it at the same time
            if (existing := await self._find(uuid)) is not None:
                return existing
            raise
        assert launched.execution is not None, "nothing is replayed without a key"
        return launched.execution

    async def _find(self, uuid: UUID) -> Execution | None:
        try:
            return await self._executions.get(str(uuid))
        except NotFound:
            return None

    async def _find_job(self, ref: str) -> StoredJob:
        """Return the job by id, uuid or name. Raises NotFound."""
        try:
            return await self._jobs.get(ref)
        except NotFound:
            found = (await self._jobs.list(PageRequest(limit=1, filters={"name": [ref]}))).items
            if not found:
                raise
            return found[0]

    async def _ancestors(self, execution_id: int) -> list[int]:
        """Return the execution and its ancestors, the outermost last.

        Raises Conflict if they are nested too deeply.
        """
        found: list[int] = []
        ancestors: int | None = execution_id
        while ancestors is not None:
            if len(found) == DEPTH_MAX:
                raise Conflict(
                    "too_deep",
                    f"Jobs run jobs more than {DEPTH_MAX} deep: check whether one of them runs "
                    "itself.",
                )
            found.append(ancestors)
            ancestors = (await self._executions.get(ancestors)).parent
        return found

    async def _check_unchanged(self, ancestors: Sequence[int], stored: StoredJob) -> None:
        """Raise Conflict if the job was changed after the workflow's approval was requested.

        The approvers saw the job as it was at that time.
        """
        asked_at = await self._executions.first_approval_requested_at(ancestors)
        if asked_at is not None and stored.updated_at > asked_at:
            name = stored.job.definition.name
            message = (
                f"The job {name} was changed after execution {ancestors[-1]} was approved: "
                "launch it again."
            )
            raise Conflict("changed_since_approved", message)


def _pins(spec: Spec, run: Claimed, action: FrozenJob) -> Mapping[str, bytes] | None:
    """Return the approved pins of this step's machines, by target id.

    The machines are the step's own targets, or this run's. None: nothing had to be approved.
    """
    digest = spec.pins.digest(run.position)
    if digest is None:
        return None
    return {run.target_id: digest} if action.targets is None else parse_step_pins(action)
