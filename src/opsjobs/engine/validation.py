"""Validation: whether a job that is well written could be launched now, and what would stand in its way."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from opsjobs.engine.launch import Launcher
from opsjobs.model.action import JobAction
from opsjobs.model.bounds import NO_BOUNDS, Bounds
from opsjobs.model.failures import FieldError, Forbidden, Invalid
from opsjobs.model.job import JobDraft, LaunchOrder
from opsjobs.model.verdict import Judgement as Safety
from opsjobs.model.verdict import Verdict
from opsjobs.store.jobs import Jobs
from opsjobs.store.paging import PageRequest

T = TypeVar("T")


@dataclass
class Judgement:
    """`errors` keep it from being launched; `warnings` do not, or not yet."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)
    said: Safety | None = None

    def data(self) -> dict[str, Any]:
        """The body of an answer."""
        return {
            "valid": not self.errors,
            "errors": [_shown(error) for error in self.errors],
            "warnings": [_shown(warning) for warning in self.warnings],
            "verdict": self.said.verdict.value if self.said is not None else None,
        }


def _shown(error: FieldError) -> dict[str, str]:
    return {"pointer": error.pointer, "detail": error.detail, "code": error.code}


async def judged(launcher: Launcher, jobs: Jobs, draft: JobDraft, bounds: Bounds = NO_BOUNDS) -> Judgement:
    """What stands in the way of this job: targets, credentials, files and jobs that are not there, or out of bounds.

    A stored job of this name is taken for the one that is meant.
    """
    found = Judgement()
    order = LaunchOrder(draft.actions, draft.targets, draft.policy, draft.name, bounds=bounds)
    targets = await _asked(launcher.selected(order), found, "/targets")
    if targets is not None and not targets:
        words = "no target matches the selection: an execution of it would be refused"
        found.warnings.append(FieldError("/targets", words, "no_targets"))
    if not bounds.act.everywhere:
        for position, action in enumerate(draft.actions):
            if action.targets is not None:
                await _asked(launcher.selected(replace(order, targets=action.targets)), found, f"/actions/{position}/targets")
    if bounds.act.everywhere or not found.errors:  # beyond bounds it would tell what is there
        await _asked(launcher.frozen(replace(order, job_id=await _id_of(jobs, draft.name)), targets or []), found, "/actions")
        await _asked(launcher.secrets.check_declared(draft.parameters), found, "/parameters")
    for position, action in enumerate(draft.actions):
        if isinstance(action, JobAction) and not await _knows(jobs, action.job, bounds):
            pointer = f"/actions/{position}/job"
            found.errors.append(FieldError(pointer, f"there is no job {action.job!r}", "unknown_job"))
    gate = draft.policy.gate
    if gate is not None and gate.pause_on_fail and gate.check is None and draft.policy.max_fail is None:
        words = "without a check and without max_fail no failure stops an execution, so none pauses it"
        found.warnings.append(FieldError("/policy/gate/pause_on_fail", words, "never_paused"))
    if draft.state == "draft":
        found.warnings.append(FieldError("/state", "a draft is not executed", "job_is_draft"))
    return found


async def _id_of(jobs: Jobs, name: str) -> int | None:
    found = (await jobs.list(PageRequest(limit=1, filters={"name": [name]}))).items
    return found[0].job.id if found else None


async def _knows(jobs: Jobs, ref: str, bounds: Bounds) -> bool:
    if bounds.act.everywhere:
        return await jobs.knows(ref)
    labels = await jobs.labels_of(ref)
    return labels is not None and bounds.act.holds(labels)


def vetted(found: Judgement, said: Safety) -> Judgement:
    """With what the safety check says: what blocks is an error, all else a warning."""
    found.said = said
    for finding in said.findings:
        blocks = finding.severity is Verdict.BLOCK
        words = f"{finding.reason} ({finding.severity.value}, {finding.rule}: {finding.excerpt})"
        error = FieldError(finding.pointer, words, "safety_blocked" if blocks else "safety")
        (found.errors if blocks else found.warnings).append(error)
    return found


async def _asked(question: Awaitable[T], found: Judgement, pointer: str) -> T | None:
    try:
        return await question
    except (Invalid, Forbidden) as refused:
        found.errors += refused.errors or (FieldError(pointer, refused.detail, refused.code),)
        return None
