"""Validation: whether a job that is well written could be launched now, and what would stand in its way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.references import names_uploaded_file
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds
from opsjobs.model.action import Action, FileTransferAction, JobAction, RunningAction
from opsjobs.model.errors import FieldError, Forbidden, Invalid
from opsjobs.model.exclusive_names import check_names
from opsjobs.model.job import JobDraft, LaunchOrder
from opsjobs.model.job_warnings import doubts
from opsjobs.model.safety_verdict import SafetyJudgement as Safety
from opsjobs.model.safety_verdict import SafetyVerdict
from opsjobs.store.jobs import Jobs
from opsjobs.store.paging import PageRequest

T = TypeVar("T")


@dataclass
class SafetyReport:
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


@dataclass(frozen=True, slots=True)
class Sight:
    """What the caller may know of beside targets and jobs: of credentials at all, and of these files (None: of all)."""

    credentials: bool = True
    file: Callable[[str], Awaitable[bool]] | None = None


ALL = Sight()


async def judged(
    launcher: Launcher, jobs: Jobs, draft: JobDraft, bounds: Bounds = NO_BOUNDS, sight: Sight = ALL
) -> SafetyReport:
    """What stands in the way of this job: targets, credentials, files and jobs that are not there, or out of bounds.

    A stored job of this name is taken for the one that is meant. What the caller may not know of is not looked up: the answer is
    the same whether it is there or not.
    """
    found = SafetyReport()
    actions = await _in_sight(draft.actions, sight, found)
    order = LaunchOrder(actions, draft.targets, draft.policy, draft.name, bounds=bounds)
    targets = await _asked(launcher.selected(order), found, "/targets")
    if targets is not None and not targets:
        words = "no target matches the selection: an execution of it would be refused"
        found.warnings.append(FieldError("/targets", words, "no_targets"))
    if not bounds.act.everywhere:
        await _check_bounds(launcher, draft, order, found)
    if bounds.act.everywhere or not found.errors:  # beyond bounds it would tell what is there
        await _asked(
            launcher.frozen(replace(order, job_id=await _id_of(jobs, draft.name)), targets or []),
            found,
            "/actions",
        )
        await _check_secrets(launcher, draft, sight, found)
    for position, action in enumerate(draft.actions):
        if isinstance(action, JobAction) and not await _knows(jobs, action.job, bounds):
            pointer = f"/actions/{position}/job"
            found.errors.append(
                FieldError(pointer, f"there is no job {action.job!r}", "unknown_job")
            )
    gate = draft.policy.gate
    if (
        gate is not None
        and gate.pause_on_fail
        and gate.check is None
        and draft.policy.max_fail is None
    ):
        words = (
            "without a check and without max_fail no failure stops an execution, so none pauses it"
        )
        found.warnings.append(FieldError("/policy/gate/pause_on_fail", words, "never_paused"))
    labels = None if targets is None else {label for target in targets for label in target.labels}
    found.warnings += doubts(draft, labels or None)
    if draft.state == "draft":
        found.warnings.append(FieldError("/state", "a draft is not executed", "job_is_draft"))
    return found


async def _check_bounds(
    launcher: Launcher, draft: JobDraft, order: LaunchOrder, found: SafetyReport
) -> None:
    try:
        check_names(draft.policy.exclusive, order.bounds)
    except Forbidden as refused:
        found.errors += refused.errors
    for position, action in enumerate(draft.actions):
        if action.targets is not None:
            await _asked(
                launcher.selected(replace(order, targets=action.targets)),
                found,
                f"/actions/{position}/targets",
            )


async def _in_sight(actions: Sequence[Action], sight: Sight, found: SafetyReport) -> list[Action]:
    """The actions without the credentials and files that the caller may not know of; `found` says which."""
    kept: list[Action] = []
    for position, action in enumerate(actions):
        one: Action = action
        if (
            isinstance(one, RunningAction)
            and one.become is not None
            and one.become.credential
            and not sight.credentials
        ):
            pointer = f"/actions/{position}/become/credential"
            found.warnings.append(_unseen(pointer, one.become.credential))
            one = one.model_copy(update={"become": None})
        if isinstance(one, FileTransferAction) and await _hides(sight, one):
            detail = f"There is no file {one.source[:60]!r} that you may use: upload it first (POST /files), and take its id."
            found.errors.append(FieldError(f"/actions/{position}/source", detail, "unknown_file"))
            one = one.model_copy(
                update={"source": "${unseen}"}
            )  # no file is looked up for a template
        kept.append(one)
    return kept


async def _hides(sight: Sight, action: FileTransferAction) -> bool:
    if sight.file is None or not names_uploaded_file(action.type, action.direction, action.source):
        return False
    return not await sight.file(action.source)


async def _check_secrets(
    launcher: Launcher, draft: JobDraft, sight: Sight, found: SafetyReport
) -> None:
    if sight.credentials:
        await _asked(launcher.secrets.check_declared(draft.parameters), found, "/parameters")
        return
    for position, parameter in enumerate(draft.parameters):
        if parameter.from_credential is not None:
            found.warnings.append(
                _unseen(f"/parameters/{position}/from_credential", parameter.from_credential)
            )


def _unseen(pointer: str, credential: str) -> FieldError:
    words = f"the credential {credential!r} was not looked up: that takes credentials:use"
    return FieldError(pointer, words, "not_looked_up")


async def warnings_of(
    launcher: Launcher, draft: JobDraft, bounds: Bounds = NO_BOUNDS
) -> list[dict[str, str]]:
    """Return what is probably a mistake in this job, for an answer that stores it or says what would be stored."""
    order = LaunchOrder(draft.actions, draft.targets, draft.policy, draft.name, bounds=bounds)
    targets = await _asked(launcher.selected(order), SafetyReport(), "/targets")
    labels = {label for target in targets or () for label in target.labels}
    return [_shown(doubt) for doubt in doubts(draft, labels or None)]


async def _id_of(jobs: Jobs, name: str) -> int | None:
    found = (await jobs.list(PageRequest(limit=1, filters={"name": [name]}))).items
    return found[0].job.id if found else None


async def _knows(jobs: Jobs, ref: str, bounds: Bounds) -> bool:
    if bounds.act.everywhere:
        return await jobs.knows(ref)
    labels = await jobs.labels_of(ref)
    return labels is not None and bounds.act.holds(labels)


def vetted(found: SafetyReport, said: Safety) -> SafetyReport:
    """With what the safety check says: what blocks is an error, all else a warning."""
    found.said = said
    for finding in said.findings:
        blocks = finding.severity is SafetyVerdict.BLOCK
        words = f"{finding.reason} ({finding.severity.value}, {finding.rule}: {finding.excerpt})"
        error = FieldError(finding.pointer, words, "safety_blocked" if blocks else "safety")
        (found.errors if blocks else found.warnings).append(error)
    return found


async def _asked(question: Awaitable[T], found: SafetyReport, pointer: str) -> T | None:
    try:
        return await question
    except (Invalid, Forbidden) as refused:
        found.errors += refused.errors or (FieldError(pointer, refused.detail, refused.code),)
        return None
