"""Again: a new execution for runs that did not end well, from where they went wrong; through the same door as every launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from opsjobs.engine.launching.launch import Launched, Launcher
from opsjobs.integrations.targets import Targets
from opsjobs.model.access import IdentityKind, Reach
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.errors import Conflict, FieldError, Invalid, NotFound
from opsjobs.model.execution import Execution, TriggeredBy
from opsjobs.model.job import LaunchOrder
from opsjobs.model.policy import Policy
from opsjobs.model.retry_request import Parent, PastRun, RetryDraft, ReviveDraft, Which
from opsjobs.model.target import SelectionDraft, Target, Transport
from opsjobs.store import dead_letters, idempotency
from opsjobs.store.dead_letters import DeadLetters
from opsjobs.store.idempotency import Answer, IdempotentRequest
from opsjobs.store.ledger import Ledger, NewExecution
from opsjobs.store.retry_source import Parents, check_not_retried
from opsjobs.store.transaction import Connection, Database

# Executions that one revive makes at most: they are one transaction, and none of ours is long.
REVIVED_MAX = 100


@dataclass(frozen=True, slots=True)
class Revived:
    """The executions that were made. `more`: the filter fits letters that are left for another revive."""

    executions: Sequence[Execution]
    more: bool

    def data(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "executions": [execution.data() for execution in self.executions],
            "more": self.more,
        }


class RetryService:
    """What was frozen at the parent's launch stays: actions, parameters, policy, version. The targets are as they are now."""

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
        requested_by: str,
        requested_by_kind: IdentityKind,
        bounds: Bounds = NO_BOUNDS,
        idem: IdempotentRequest | None = None,
    ) -> Launched:
        """A new execution of these runs of one that has ended. Those that are dead letters are answered by it.

        Raises NotFound, Conflict (it has not ended, its job is gone, it was retried before), Invalid (nothing to retry, no such
        target), Forbidden where its job or one of the targets, as they are now, is out of bounds.
        """
        by: dict[str, Any] = {"requested_by": requested_by, "requested_by_kind": requested_by_kind}
        parent, runs, new = await self._drafted(ref, draft, bounds, **by)

        async def revive(connection: Connection, execution: Execution) -> None:
            if not draft.again:
                await check_not_retried(
                    connection, parent.id, [run.target.id for run in runs], execution.id
                )
            ids = [run.id for run in runs]
            answered = await dead_letters.answer(
                connection, ids, "revived", by=requested_by, reason=draft.reason
            )
            if answered:
                await dead_letters.record_answers(connection, "revived", answered, draft.reason)
            await dead_letters.record_revived(connection, sorted(answered), execution.id)

        with _its_job_is_there(parent):
            return await self._launcher.start(new, idem, also=revive)

    async def preview(
        self,
        ref: str,
        draft: RetryDraft,
        *,
        requested_by: str,
        requested_by_kind: IdentityKind,
        bounds: Bounds = NO_BOUNDS,
    ) -> dict[str, Any]:
        """Return what a retry would be for, and by which retries it was done before. Raises as `retry`, but for those."""
        parent, runs, new = await self._drafted(
            ref, draft, bounds, requested_by=requested_by, requested_by_kind=requested_by_kind
        )
        before = await self._parents.retries(parent.id, [run.target.id for run in runs])
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
            "retries": [{"id": row["id"], "status": row["status"]} for row in before],
            "needs_approval": new.approval is not None,
        }

    async def _drafted(
        self, ref: str, draft: RetryDraft, bounds: Bounds, **by: Any
    ) -> tuple[Parent, Sequence[PastRun], NewExecution]:
        """The execution that is retried, the runs that are meant, and what would be written."""
        parent = await self._parents.get(ref)
        if not parent.ended:
            detail = f"Execution {parent.id} has not ended: wait for its end, or cancel it, and retry then."
            raise Conflict("execution_not_ended", detail)
        runs = _meant(parent, await self._parents.runs(parent.id), draft)
        known = await self._targets.get_many([run.target.id for run in runs])
        await self._check_bounds(bounds, [parent], runs, known)
        return (
            parent,
            runs,
            await self._heir(
                parent, runs, known, reason=draft.reason, override=draft.override, **by
            ),
        )

    async def revive(
        self,
        draft: ReviveDraft,
        *,
        requested_by: str,
        requested_by_kind: IdentityKind,
        reach: Reach | None = None,
        bounds: Bounds = NO_BOUNDS,
        idem: IdempotentRequest | None = None,
        at_most: int = REVIVED_MAX,
    ) -> Revived | Answer:
        """A new execution for each that has dead letters within reach meant by the draft; each letter is revived once.

        `at_most`: executions that are made, up to 100.

        Raises NotFound or Conflict where it is for ids of which none is left (others were quicker), or a job is gone; Forbidden
        where a job or a target, as they are now, is out of bounds.
        """
        found = await self._letters.find(draft, reach)
        by_execution = {
            key: list(runs) for key, runs in groupby(found, key=lambda run: run.execution_id)
        }
        meant: dict[int, list[PastRun]] = dict(
            list(by_execution.items())[: min(at_most, REVIVED_MAX)]
        )
        parents = await self._parents.get_many(meant)
        known = await self._targets.get_many(
            [run.target.id for runs in meant.values() for run in runs]
        )
        await self._check_bounds(
            bounds, parents, [run for runs in meant.values() for run in runs], known
        )
        why: dict[str, Any] = {"requested_by": requested_by, "requested_by_kind": requested_by_kind}
        why |= {"reason": draft.reason, "override": draft.override}
        # Judged before the transaction, whose launches then are known.
        heirs = {
            parent.id: await self._heir(parent, meant[parent.id], known, **why)
            for parent in parents
        }

        async def write(connection: Connection) -> Revived:
            ids = [run.id for runs in meant.values() for run in runs]
            won = await dead_letters.answer(
                connection, ids, "revived", by=requested_by, reason=draft.reason
            )
            if not won and draft.ids is not None:
                raise await dead_letters.refusal(connection, draft.ids, reach)
            if won:
                await dead_letters.record_answers(connection, "revived", won, draft.reason)
            made: list[Execution] = []
            for parent in parents:
                if runs := [run for run in meant[parent.id] if run.id in won]:
                    all_won = len(runs) == len(meant[parent.id])
                    new = (
                        heirs[parent.id]
                        if all_won
                        else await self._heir(parent, runs, known, **why)
                    )
                    made.append(await self._revived(connection, parent, new))
            return Revived(made, len(by_execution) > len(meant))

        done = await idempotency.once(
            self._database, idem, write, lambda revived: Answer(202, None, revived.data())
        )
        self._launcher.notify(list(known.values()))
        return done

    async def _check_bounds(
        self,
        bounds: Bounds,
        parents: Sequence[Parent],
        runs: Sequence[PastRun],
        known: Mapping[str, Target],
    ) -> None:
        """Raises Forbidden. A target that was removed since has no labels: only who may go everywhere does it again."""
        if bounds.act.everywhere:
            return
        jobs = {parent.job_id for parent in parents if parent.job_id is not None}
        for job_id, labels in (await self._parents.labels_of_jobs(jobs)).items():
            bounds.check_labels(labels, f"Job {job_id}")
        bounds.check_targets([known.get(run.target.id) or _gone(run) for run in runs])

    async def _revived(
        self, connection: Connection, parent: Parent, new: NewExecution
    ) -> Execution:
        with _its_job_is_there(parent):
            async with connection.pipeline():
                execution = await self._ledger.launch(connection, new)
        await dead_letters.record_revived(
            connection, sorted(new.retried_runs.values()), execution.id
        )
        return execution

    async def _heir(
        self,
        parent: Parent,
        runs: Sequence[PastRun],
        known: Mapping[str, Target],
        *,
        requested_by: str,
        requested_by_kind: IdentityKind,
        reason: str | None,
        override: str | None,
    ) -> NewExecution:
        targets = [known.get(run.target.id) or _gone(run) for run in runs]
        values = self._launcher.opened(parent.uuid, parent.parameters)
        order = replace(_order(parent, reason), parameters=values, override=override)
        new = self._launcher.draft(
            order,
            parent.actions,
            targets,
            triggered_by=TriggeredBy.RETRY,
            requested_by=requested_by,
            requested_by_kind=requested_by_kind,
        )
        heirs = {run.target.id: run.id for run in runs}
        new = replace(
            new,
            actions=list(parent.actions),
            policy=dict(parent.policy),
            parent=parent.id,
            retried_runs=heirs,
        )
        return await self._launcher.asking(new, order)


def _meant(parent: Parent, runs: Sequence[PastRun], draft: RetryDraft) -> Sequence[PastRun]:
    """The runs that a retry is to take the place of. Raises Invalid."""
    if draft.targets is not None:
        return _named(parent, runs, draft.targets)
    assert draft.which is not None, "one of the two is given"
    if meant := [run for run in runs if run.fits(draft.which)]:
        return meant
    words = f"No run of execution {parent.id} ended {draft.which.value}: it is {parent.status}, see its /targets."
    if draft.which is Which.NOT_STARTED:
        words = f"Every run of execution {parent.id} was started: see its /targets."
    raise Invalid(
        "nothing_to_retry", words, errors=[FieldError("/which", words, "nothing_to_retry")]
    )


def _named(parent: Parent, runs: Sequence[PastRun], targets: Sequence[str]) -> Sequence[PastRun]:
    by_ref = {run.target.name: run for run in runs} | {run.target.id: run for run in runs}
    faults: list[FieldError] = []
    for position, ref in enumerate(targets):
        if (run := by_ref.get(ref)) is None:
            words, code = f"Execution {parent.id} has no target {ref[:60]!r}.", "unknown_target"
        elif not run.fits(Which.UNSUCCESSFUL):
            words, code = (
                f"{run.target.name} has succeeded in execution {parent.id}.",
                "nothing_to_retry",
            )
        else:
            continue
        faults.append(FieldError(f"/targets/{position}", words, code))
    if faults:
        raise Invalid(faults[0].code, f"{faults[0].detail} See its /targets.", errors=faults)
    wanted = {by_ref[ref].id for ref in targets}
    return [run for run in runs if run.id in wanted]


def _order(parent: Parent, reason: str | None) -> LaunchOrder:
    """What is planned by: the parent's policy, over runs that come in its order."""
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
    )


def _gone(run: PastRun) -> Target:
    """A target that was removed since: its run says so, as of one that is removed just after a launch."""
    return Target(run.target.id, run.target.name, run.target.host, 22, Transport.SSH, zone=run.zone)


@contextmanager
def _its_job_is_there(parent: Parent) -> Iterator[None]:
    try:
        yield
    except NotFound:
        detail = f"Job {parent.job_name!r} of execution {parent.id} was deleted: what is gone is not done again."
        raise Conflict("job_deleted", detail) from None
