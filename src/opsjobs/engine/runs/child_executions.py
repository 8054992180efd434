"""Actions that run another job: launched once for each attempt, waited for in the ledger, judged by how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.launch_authz import Ask, Rights
from opsjobs.engine.launching.target_pinning import pins_of_step
from opsjobs.model.errors import Conflict, NotFound
from opsjobs.model.execution import Execution, TriggeredBy
from opsjobs.model.job import LaunchOrder
from opsjobs.model.target import SelectionDraft
from opsjobs.store.executions import Executions
from opsjobs.store.jobs import Jobs, StoredJob
from opsjobs.store.ledger import Claimed, Spec
from opsjobs.store.paging import PageRequest

DEPTH_MAX = 8
"""How deep jobs may run jobs."""


class Children:
    """Launches executions that are part of another one."""

    def __init__(self, launcher: Launcher, jobs: Jobs, executions: Executions, standing: Ask) -> None:
        """`standing`: asked at every launch what whoever asked for the outer execution may now."""
        self._launcher = launcher
        self._jobs = jobs
        self._executions = executions
        self._standing = standing

    async def child(self, spec: Spec, run: Claimed, action: Mapping[str, Any], attempt: int) -> Execution:
        """The execution of this attempt: launched now, or as it stands since it was.

        Raises NotFound, Invalid, Conflict, Forbidden where it cannot be launched; Conflict("target_changed") where a machine is not
        any more what was approved with the outer execution, or was not among that.
        """
        uuid = uuid5(run.uuid, f"{action['key']}.{attempt}")
        if (known := await self._known(uuid)) is not None:
            return known
        above = await self._above(spec.execution_id)
        stored = await self._job(str(action["job"]))
        await self._check_unchanged(above, stored)
        job, targets = stored.job, action.get("targets")
        asked_by, kind = spec.requested_by, spec.requested_by_kind
        bounds = await Rights(self._standing).launching(asked_by, kind, stored.labels, job.definition.name)
        order = LaunchOrder(
            job.definition.actions,
            SelectionDraft.model_validate(targets) if targets is not None else SelectionDraft(ids=[run.target_id]),
            job.definition.policy,
            job.definition.name,
            job.id,
            job.version,
            reason=f"action {action['key']} of execution {spec.execution_id}",
            parameters=action.get("parameters") or {},
            declared=job.definition.parameters,
            bounds=bounds,
            tags=job.definition.tags,
            pins=_pins(spec, run, action),
        )
        try:
            launched = await self._launcher.launch(
                order,
                triggered_by=TriggeredBy.WORKFLOW,
                requested_by=asked_by,
                requested_by_kind=kind,
                uuid=uuid,
                parent=spec.execution_id,
            )
        except Exception:  # whoever had the run before us was quicker by a moment: then it is there
            if (known := await self._known(uuid)) is not None:
                return known
            raise
        assert launched.execution is not None, "nothing is replayed without a key"
        return launched.execution

    async def _known(self, uuid: UUID) -> Execution | None:
        try:
            return await self._executions.get(str(uuid))
        except NotFound:
            return None

    async def _job(self, ref: str) -> StoredJob:
        """By id, uuid or name. Raises NotFound."""
        try:
            return await self._jobs.get(ref)
        except NotFound:
            found = (await self._jobs.list(PageRequest(limit=1, filters={"name": [ref]}))).items
            if not found:
                raise
            return found[0]

    async def _above(self, execution_id: int) -> list[int]:
        """The execution and those that it is part of, the outermost last. Raises Conflict where it is too deep."""
        found: list[int] = []
        above: int | None = execution_id
        while above is not None:
            if len(found) == DEPTH_MAX:
                raise Conflict("too_deep", f"Jobs run jobs more than {DEPTH_MAX} deep here: does one of them run itself?")
            found.append(above)
            above = (await self._executions.get(above)).parent
        return found

    async def _check_unchanged(self, above: Sequence[int], stored: StoredJob) -> None:
        """Who approved of a workflow has seen the job that it runs as it was then. Raises Conflict for one written since."""
        asked_at = await self._executions.first_approval_requested_at(above)
        if asked_at is not None and stored.updated_at > asked_at:
            name = stored.job.definition.name
            words = f"The job {name} was changed after execution {above[-1]} was asked to be approved: launch that anew."
            raise Conflict("changed_since_approved", words)


def _pins(spec: Spec, run: Claimed, action: Mapping[str, Any]) -> Mapping[str, bytes] | None:
    """What was asked about of the machines of this step, by id: of its own targets, or of this run's. None: nobody was asked."""
    digest = spec.pins.digest(run.position)
    if digest is None:
        return None
    return {run.target_id: digest} if action.get("targets") is None else pins_of_step(action)
