"""Retry runs of an ended execution, and revive dead letters, as a new execution.

It continues where the runs failed, and is launched like every other execution (launch.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

from opsjobs.engine.launching.launch import Launched, Launcher
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import Reach
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, Refusal
from opsjobs.model.execution import TriggeredBy
from opsjobs.model.identity import Identity
from opsjobs.model.job import LaunchOrder
from opsjobs.model.policy import Policy
from opsjobs.model.retry_request import Parent, PastRun, RetryDraft, ReviveDraft, Which
from opsjobs.model.run_views import Execution
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Target, Transport
from opsjobs.store import dead_letters, idempotency
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.launch_history import Parents, check_not_retried
from opsjobs.store.ledger import Ledger
from opsjobs.store.ledger.launch import NewExecution
from opsjobs.store.transaction import Connection, Database

REVIVED_MAX = 100
"""Executions per revive: they are written in one transaction, which must be short."""


@dataclass(frozen=True, slots=True)
class Revived:
    """The executions that a revive made."""

    executions: Sequence[Execution]
    more: bool
    """True if matching letters remain for another revive."""

    def data(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {
            "executions": [execution.data() for execution in self.executions],
            "more": self.more,
        }


class _AnsweredMeanwhile(Exception):
    """Another caller has answered some of the letters that were chosen."""


def refuse_unended(execution_id: int, *, ended: bool) -> Refusal | None:
    """Return how a retry is refused before the end of its execution; None after it."""
    if ended:
        return None
    return Conflict(
        "execution_not_ended",
        f"Execution {execution_id} has not ended: wait for its end or cancel it, then retry.",
    )


class RetryService:
    """Launch retries and revivals.

    They keep the actions, parameters, policy and version that were frozen at the parent's launch.
    The targets are as they are now.
    """

    def __init__(
        self, launcher: Launcher, *, database: Database, ledger: Ledger, targets: Targets
    ) -> None:
        self._launcher = launcher
        self._database = database
        self._ledger = ledger
        self._targets = targets
        self._parents = Parents(database)
        self._letters = DeadLetters(database)

    async def retry(
        self,
        ref: str,
        draft: RetryDraft,
        *,
        requested_by: Identity,
        bounds: Bounds = NO_BOUNDS,
        reach: Reach | None = None,
        idem: IdempotentRequest | None = None,
    ) -> Launched:
        """Launch a new execution of these runs; it answers those that are dead letters.

        `reach`: the executions that the caller may see; of other retries only the id is named.

        Raises NotFound, Conflict (the execution has not ended, its job was deleted, the runs were
        retried before), Invalid (nothing to retry, no such target), and Forbidden if its job or one
        of the targets, as they are now, is outside the caller's scope.
        """
        parent, runs, new = await self._draft(ref, draft, bounds, requested_by=requested_by)

        async def answer_letters(connection: Connection, execution: Execution) -> None:
            if not draft.again:
                targets = [run.target.id for run in runs]
                await check_not_retried(connection, parent.id, targets, execution.id, reach)
            answered = await _answer_letters(connection, runs, requested_by.name, draft.reason)
            await dead_letters.record_revived(connection, sorted(answered), execution.id)

        with _refuse_deleted_job(parent):
            return await self._launcher.start(new, idem, also=answer_letters)

    async def preview(
        self,
        ref: str,
        draft: RetryDraft,
        *,
        requested_by: Identity,
        bounds: Bounds = NO_BOUNDS,
        reach: Reach | None = None,
    ) -> dict[str, Any]:
        """Return a preview of the retry, and the earlier retries of these runs.

        Raises as `retry`, but not for runs that were retried before.
        """
        parent, runs, new = await self._draft(ref, draft, bounds, requested_by=requested_by)
        retries = await self._parents.retries(parent.id, [run.target.id for run in runs], reach)
        return {
            "execution": parent.id,
            "targets": [
                {
                    **run.target.data(),
                    "status": run.status.value,
                    "error": run.error_code and run.error_code.value,
                }
                for run in runs
            ],
            "total_targets": len(runs),
            "retries": [{"id": row["id"], "status": row["status"]} for row in retries],
            "needs_approval": new.approval is not None,
        }

    async def _draft(
        self, ref: str, draft: RetryDraft, bounds: Bounds, **by: Any
    ) -> tuple[Parent, Sequence[PastRun], NewExecution]:
        """Return the execution to retry, the chosen runs, and the execution to write."""
        parent = await self._parents.get(ref)
        if (refusal := refuse_unended(parent.id, ended=parent.ended)) is not None:
            raise refusal
        runs = _choose_runs(parent, await self._parents.runs(parent.id), draft)
        inventory = await self._targets.get_many([run.target.id for run in runs], strict=True)
        await self._check_bounds(bounds, [parent], runs, inventory)
        by |= {"reason": draft.reason, "override": draft.override}
        return parent, runs, await self._draft_retry(parent, runs, inventory, **by)

    async def revive(
        self,
        draft: ReviveDraft,
        *,
        requested_by: Identity,
        reach: Reach | None = None,
        sight: Reach | None = None,
        bounds: Bounds = NO_BOUNDS,
        ad_hoc_bounds: Bounds = NO_BOUNDS,
        idem: IdempotentRequest | None = None,
        at_most: int = REVIVED_MAX,
    ) -> Revived | Answer:
        """Launch a new execution for each one with matching dead letters; answer each letter once.

        Only letters within `reach` and `sight` match. `bounds` are for executions of jobs,
        `ad_hoc_bounds` for those without a job. `at_most`: the number of new executions, up to 100.

        Raises NotFound or Conflict if the draft has ids of which none remains (others answered
        them), or a job was deleted; Forbidden if a job or a target, as they are now, is outside the
        caller's scope, or if the caller may launch one of the executions nowhere.
        """
        while True:
            try:
                return await self._revive(
                    draft,
                    requested_by=requested_by,
                    reach=reach,
                    sight=sight,
                    bounds=bounds,
                    ad_hoc_bounds=ad_hoc_bounds,
                    idem=idem,
                    at_most=at_most,
                )
            except _AnsweredMeanwhile:
                continue  # with fewer letters each time

    async def _revive(
        self,
        draft: ReviveDraft,
        *,
        requested_by: Identity,
        reach: Reach | None,
        sight: Reach | None,
        bounds: Bounds,
        ad_hoc_bounds: Bounds,
        idem: IdempotentRequest | None,
        at_most: int,
    ) -> Revived | Answer:
        """Revive the letters that match now.

        Raises _AnsweredMeanwhile, and then nothing was done.
        """
        found = await self._letters.find(draft, reach, sight)
        by_execution = {
            execution: list(runs)
            for execution, runs in groupby(found, key=lambda run: run.execution_id)
        }
        chosen = dict(islice(by_execution.items(), min(at_most, REVIVED_MAX)))
        chosen_runs = [run for runs in chosen.values() for run in runs]
        parents = await self._parents.get_many(chosen)
        inventory = await self._targets.get_many(
            [run.target.id for run in chosen_runs], strict=True
        )
        of_jobs = [parent for parent in parents if parent.job_id is not None]
        ad_hoc = [parent for parent in parents if parent.job_id is None]
        await self._check_revived(bounds, of_jobs, chosen, inventory)
        await self._check_revived(ad_hoc_bounds, ad_hoc, chosen, inventory)
        by: dict[str, Any] = {
            "requested_by": requested_by,
            "reason": draft.reason,
            "override": draft.override,
        }
        # Vetted before the transaction: it is short, and takes no second connection.
        drafted = [
            (parent, await self._draft_retry(parent, chosen[parent.id], inventory, **by))
            for parent in parents
        ]

        async def write(connection: Connection) -> Revived:
            answered = await _answer_letters(
                connection, chosen_runs, requested_by.name, draft.reason
            )
            if not answered and draft.ids is not None:
                raise await dead_letters.refusal(connection, draft.ids, reach, sight)
            if 0 < len(answered) < len(chosen_runs):
                raise _AnsweredMeanwhile
            executions = [
                await self._launch_revived(connection, parent, new)
                for parent, new in (drafted if answered else ())
            ]
            return Revived(executions, more=len(by_execution) > len(chosen))

        done = await idempotency.once(
            self._database, idem, write, lambda revived: Answer(202, None, revived.data())
        )
        self._launcher.notify(list(inventory.values()))
        return done

    async def _check_revived(
        self,
        bounds: Bounds,
        parents: Sequence[Parent],
        chosen: Mapping[int, Sequence[PastRun]],
        inventory: Mapping[str, Target],
    ) -> None:
        """Raise Forbidden if the caller may not launch these again, of jobs or without one."""
        if parents and bounds.act.nowhere:
            kind, other = "jobs", "an execution without a job"
            if parents[0].job_id is None:
                kind, other = "executions without a job", "a job"
            detail = (
                f"Dead letters of {kind}, such as those of execution {parents[0].id}, take "
                f"{bounds.permission}, which you do not hold. Filter by {other}, or ask an "
                "administrator."
            )
            raise Forbidden("forbidden", detail)
        runs = [run for parent in parents for run in chosen[parent.id]]
        await self._check_bounds(bounds, parents, runs, inventory)

    async def _check_bounds(
        self,
        bounds: Bounds,
        parents: Sequence[Parent],
        runs: Sequence[PastRun],
        inventory: Mapping[str, Target],
    ) -> None:
        """Raise Forbidden if a job or a target is outside the caller's scope.

        A target that was removed has no labels: only a caller without a scope may retry it.
        """
        if bounds.act.everywhere:
            return
        jobs = {parent.job_id for parent in parents if parent.job_id is not None}
        for job_id, labels in (await self._parents.labels_of_jobs(jobs)).items():
            bounds.check_labels(labels, f"Job {job_id}")
        bounds.check_targets([inventory.get(run.target.id) or _removed_target(run) for run in runs])

    async def _launch_revived(
        self, connection: Connection, parent: Parent, new: NewExecution
    ) -> Execution:
        with _refuse_deleted_job(parent):
            async with connection.pipeline():
                execution = await self._ledger.launch(connection, new)
        await dead_letters.record_revived(
            connection, sorted(new.retried_runs.values()), execution.id
        )
        return execution

    async def _draft_retry(
        self,
        parent: Parent,
        runs: Sequence[PastRun],
        inventory: Mapping[str, Target],
        *,
        requested_by: Identity,
        reason: str | None,
        override: str | None,
    ) -> NewExecution:
        targets = [inventory.get(run.target.id) or _removed_target(run) for run in runs]
        values = self._launcher.open_parameters(parent.uuid, parent.parameters)
        order = replace(_order(parent, reason), parameters=values, override=override)
        new = self._launcher.draft(
            order,
            parent.actions,
            targets,
            triggered_by=TriggeredBy.RETRY,
            requested_by=requested_by,
        )
        new = replace(
            new,
            actions=list(parent.actions),
            policy=dict(parent.policy),
            parent=parent.id,
            retried_runs={run.target.id: run.id for run in runs},
        )
        return await self._launcher.vet(new, order)


async def _answer_letters(
    connection: Connection, runs: Sequence[PastRun], by: str, reason: str | None
) -> Collection[int]:
    """Mark those of these runs that are dead letters as revived; return their ids."""
    ids = [run.id for run in runs]
    answered = await dead_letters.answer(connection, ids, "revived", by=by, reason=reason)
    if answered:
        await dead_letters.record_answers(connection, "revived", answered, reason)
    return answered


def _choose_runs(parent: Parent, runs: Sequence[PastRun], draft: RetryDraft) -> Sequence[PastRun]:
    """Return the runs that the draft chooses. Raises Invalid."""
    if draft.targets is not None:
        return _choose_by_target(parent, runs, draft.targets)
    assert draft.which is not None, "one of the two is given"
    chosen = [run for run in runs if run.fits(draft.which)]
    if chosen:
        return chosen
    detail = (
        f"No run of execution {parent.id} ended {draft.which.value}: "
        f"it is {parent.status}, see its /targets."
    )
    if draft.which is Which.NOT_STARTED:
        detail = f"Every run of execution {parent.id} was started: see its /targets."
    error = FieldError("/which", detail, "nothing_to_retry")
    raise Invalid("nothing_to_retry", detail, errors=[error])


def _choose_by_target(
    parent: Parent, runs: Sequence[PastRun], targets: Sequence[str]
) -> Sequence[PastRun]:
    by_ref = {run.target.name: run for run in runs} | {run.target.id: run for run in runs}
    faults: list[FieldError] = []
    for position, ref in enumerate(targets):
        run, pointer = by_ref.get(ref), f"/targets/{position}"
        if run is None:
            detail = f"Execution {parent.id} has no target {ref[:60]!r}."
            faults.append(FieldError(pointer, detail, "unknown_target"))
        elif not run.fits(Which.UNSUCCESSFUL):
            detail = f"{run.target.name} has succeeded in execution {parent.id}."
            faults.append(FieldError(pointer, detail, "nothing_to_retry"))
    if faults:
        raise Invalid(faults[0].code, f"{faults[0].detail} See its /targets.", errors=faults)
    wanted = {by_ref[ref].id for ref in targets}
    return [run for run in runs if run.id in wanted]


def _order(parent: Parent, reason: str | None) -> LaunchOrder:
    """Return the order to plan by: the parent's policy; its runs stay in their order."""
    policy = Policy.model_validate({**parent.policy, "order": "inventory"})
    return LaunchOrder(
        (),
        SelectionDraft(),
        policy,
        parent.job_name,
        parent.job_id,
        parent.job_version,
        reason=reason,
        tags=parent.tags,
        summary=parent.summary,
    )


def _removed_target(run: PastRun) -> Target:
    """Return a target that was removed from the inventory, as its run recorded it.

    The new run ends like a run whose target is removed just after the launch.
    """
    return Target(run.target.id, run.target.name, run.target.host, 22, Transport.SSH, zone=run.zone)


@contextmanager
def _refuse_deleted_job(parent: Parent) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise Conflict(
            "job_deleted",
            f"Job {parent.job_name!r} of execution {parent.id} was deleted: it cannot be retried.",
        ) from None
