"""Check jobs before they are stored: the author's scope, and reasons to refuse a launch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.references import names_uploaded_file
from opsjobs.model.access import labels_of
from opsjobs.model.access_bounds import NO_BOUNDS, Bounds, check_names
from opsjobs.model.action import Action, FileTransferAction, JobAction
from opsjobs.model.action_base import RunningAction
from opsjobs.model.errors import FieldError, Forbidden, Invalid, NotFound
from opsjobs.model.job import JobDraft, LaunchOrder, RunDraft
from opsjobs.model.job_warnings import doubts
from opsjobs.model.policy import Policy
from opsjobs.model.safety_verdict import SafetyJudgement, SafetyVerdict
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Target
from opsjobs.store.files import Files, StoredFile
from opsjobs.store.jobs import Jobs
from opsjobs.store.paging import PageRequest

T = TypeVar("T")
Owns = Callable[[StoredFile], bool]
"""Return True if the file is the author's own."""


class JobAuthorization:
    """Check that everything a job names is within its author's scope.

    Others will launch it without reading it, so each job that is written and each ad-hoc run is
    checked. An author without a scope passes.
    """

    def __init__(self, launcher: Launcher, jobs: Jobs, files: Files) -> None:
        self._launcher = launcher
        self._jobs = jobs
        self._files = files

    async def check(
        self,
        draft: JobDraft | RunDraft,
        bounds: Bounds,
        owns: Owns,
        *,
        job_bounds: Bounds | None = None,
        sees_files: bool = True,
    ) -> None:
        """Raise Forbidden for names out of scope, Invalid for missing or hidden ones.

        `job_bounds`: those for the jobs that its actions run (default: `bounds`). Files of others
        are refused if the author has a scope, or may not see them (`sees_files` False). The name
        of the job is checked by the store.
        """
        await self._check_jobs(draft, job_bounds or bounds)
        if bounds.act.everywhere:
            if not sees_files:
                await self._check_files(draft, owns)
            return
        if isinstance(draft, JobDraft):
            bounds.check_labels(labels_of(draft.tags), f"A job with the tags of {draft.name!r}")
        check_names(draft.policy.exclusive, bounds)
        await self._check_selection(draft, draft.targets, bounds)
        for position, action in enumerate(_actions(draft)):
            if action.targets is not None:
                await self._check_selection(draft, action.targets, bounds)
            if isinstance(action, FileTransferAction) and action.direction == "upload":
                await self._check_file(action, position, owns)

    async def _check_files(self, draft: JobDraft | RunDraft, owns: Owns) -> None:
        """Raise Invalid for a file of another identity.

        A file that a parameter names is checked when it is transferred.
        """
        for position, action in enumerate(_actions(draft)):
            if isinstance(action, FileTransferAction) and _names_file(action):
                await self._check_file(action, position, owns)

    async def _check_selection(
        self, draft: JobDraft | RunDraft, selection: SelectionDraft, bounds: Bounds
    ) -> None:
        name = draft.name if isinstance(draft, JobDraft) else "ad-hoc"
        order = LaunchOrder(draft.actions, selection, draft.policy, name, bounds=bounds)
        await self._launcher.select_targets(order)

    async def _check_jobs(self, draft: JobDraft | RunDraft, bounds: Bounds) -> None:
        if bounds.act.everywhere:
            return
        for position, action in enumerate(draft.actions):
            if not isinstance(action, JobAction):
                continue
            labels = await self._jobs.labels_of(action.job)
            if labels is not None and bounds.act.holds(labels):
                continue
            detail = f"There is no job {action.job!r} within your scope: name one that is."
            error = FieldError(f"/actions/{position}/job", detail, "unknown_job")
            raise Invalid("unknown_job", detail, errors=[error])

    async def _check_file(self, action: FileTransferAction, position: int, owns: Owns) -> None:
        pointer = f"/actions/{position}/source"
        if "${" in action.source:
            detail = (
                "A parameter would name the file only at launch: "
                "within a scope, name a file that you have uploaded yourself."
            )
            error = FieldError(pointer, detail, "out_of_reach")
            raise Forbidden("out_of_reach", detail, errors=[error])
        try:
            own = owns(await self._files.get(action.source))
        except NotFound:
            own = False
        if not own:
            error = _unknown_file(action, position, "of yours")
            raise Invalid("unknown_file", error.detail, errors=[error])


@dataclass
class ValidationReport:
    """The findings about a job, from its validation and its safety check."""

    errors: list[FieldError] = field(default_factory=list)
    """Reasons why a launch would be refused."""
    warnings: list[FieldError] = field(default_factory=list)
    """Probable mistakes, and reasons why a launch may be refused later."""
    judgement: SafetyJudgement | None = None
    """The result of the safety check; None if it is off."""

    def data(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {
            "valid": not self.errors,
            "errors": [_data(error) for error in self.errors],
            "warnings": [_data(warning) for warning in self.warnings],
            "verdict": self.judgement.verdict.value if self.judgement is not None else None,
        }

    def add_judgement(self, judgement: SafetyJudgement) -> None:
        """Add the result of the safety check: blocking findings as errors, others as warnings."""
        self.judgement = judgement
        for finding in judgement.findings:
            blocks = finding.severity is SafetyVerdict.BLOCK
            severity = finding.severity.value
            detail = f"{finding.reason} ({severity}, {finding.rule}: {finding.excerpt})"
            code = "safety_blocked" if blocks else "safety"
            error = FieldError(finding.pointer, detail, code)
            (self.errors if blocks else self.warnings).append(error)


@dataclass(frozen=True, slots=True)
class Visibility:
    """The credentials and files that the caller of a validation may see."""

    credentials: bool = True
    """True if the caller may see credentials."""
    sees_file: Callable[[str], Awaitable[bool]] | None = None
    """Return True if the caller may see this file; None: the caller may see all."""


ALL_VISIBLE = Visibility()


async def validate_job(
    launcher: Launcher,
    jobs: Jobs,
    draft: JobDraft,
    bounds: Bounds = NO_BOUNDS,
    visibility: Visibility = ALL_VISIBLE,
) -> ValidationReport:
    """Return the reasons why a launch of this job would be refused.

    These are targets, credentials, files and jobs that do not exist or are outside the caller's
    scope. A stored job of the same name is taken to be this job. Objects that the caller may not
    see are not looked up: the result is the same whether they exist or not.
    """
    report = ValidationReport()
    actions = await _visible_actions(draft.actions, visibility, report)
    order = LaunchOrder(actions, draft.targets, draft.policy, draft.name, bounds=bounds)
    targets = await _collect(launcher.select_targets(order), report, "/targets")
    if targets is not None and not targets:
        detail = "no target matches the selection: a launch would be refused"
        report.warnings.append(FieldError("/targets", detail, "no_targets"))
    if not bounds.act.everywhere:
        await _check_bounds(launcher, draft, order, report)
    # After an error a caller with a scope gets no further look-ups: they would reveal what exists
    # outside the scope.
    if bounds.act.everywhere or not report.errors:
        order = replace(order, job_id=await _job_id(jobs, draft.name))
        await _collect(launcher.freeze_actions(order, targets or []), report, "/actions")
        await _check_secrets(launcher, draft, visibility, report)
    await _check_jobs(jobs, draft, bounds, report)
    report.warnings += _policy_warnings(draft.policy)
    report.warnings += doubts(draft, None if targets is None else _labels(targets))
    if draft.state == "draft":
        report.warnings.append(FieldError("/state", "a draft is not executed", "job_is_draft"))
    return report


async def find_warnings(
    launcher: Launcher, draft: JobDraft, bounds: Bounds = NO_BOUNDS
) -> list[dict[str, str]]:
    """Return probable mistakes in a job that is stored or is to be stored."""
    order = LaunchOrder(draft.actions, draft.targets, draft.policy, draft.name, bounds=bounds)
    targets = await _collect(launcher.select_targets(order), ValidationReport(), "/targets")
    return [_data(doubt) for doubt in doubts(draft, _labels(targets or ()))]


async def _visible_actions(
    actions: Sequence[Action], visibility: Visibility, report: ValidationReport
) -> list[Action]:
    """Return the actions without credentials and files that the caller may not see.

    The report lists what was removed.
    """
    visible: list[Action] = []
    for position, action in enumerate(actions):
        one: Action = action
        become = one.become if isinstance(one, RunningAction) else None
        if become is not None and become.credential and not visibility.credentials:
            pointer = f"/actions/{position}/become/credential"
            report.warnings.append(_not_looked_up(pointer, become.credential))
            one = one.model_copy(update={"become": None})
        if isinstance(one, FileTransferAction) and await _is_hidden(one, visibility):
            report.errors.append(_unknown_file(one, position, "that you may use"))
            # A template, because no file is looked up for one.
            one = one.model_copy(update={"source": "${unseen}"})
        visible.append(one)
    return visible


async def _is_hidden(action: FileTransferAction, visibility: Visibility) -> bool:
    if visibility.sees_file is None or not _names_file(action):
        return False
    return not await visibility.sees_file(action.source)


async def _check_bounds(
    launcher: Launcher, draft: JobDraft, order: LaunchOrder, report: ValidationReport
) -> None:
    try:
        check_names(draft.policy.exclusive, order.bounds)
    except Forbidden as refused:
        report.errors += refused.errors
    for position, action in enumerate(draft.actions):
        if action.targets is not None:
            selection = launcher.select_targets(replace(order, targets=action.targets))
            await _collect(selection, report, f"/actions/{position}/targets")


async def _check_secrets(
    launcher: Launcher, draft: JobDraft, visibility: Visibility, report: ValidationReport
) -> None:
    if visibility.credentials:
        check = launcher.job_secrets.check_declared(draft.parameters)
        await _collect(check, report, "/parameters")
        return
    for position, parameter in enumerate(draft.parameters):
        if parameter.from_credential is not None:
            pointer = f"/parameters/{position}/from_credential"
            report.warnings.append(_not_looked_up(pointer, parameter.from_credential))


async def _check_jobs(
    jobs: Jobs, draft: JobDraft, bounds: Bounds, report: ValidationReport
) -> None:
    for position, action in enumerate(draft.actions):
        if isinstance(action, JobAction) and not await _job_exists(jobs, action.job, bounds):
            pointer, detail = f"/actions/{position}/job", f"there is no job {action.job!r}"
            report.errors.append(FieldError(pointer, detail, "unknown_job"))


async def _job_exists(jobs: Jobs, ref: str, bounds: Bounds) -> bool:
    if bounds.act.everywhere:
        return await jobs.knows(ref)
    labels = await jobs.labels_of(ref)
    return labels is not None and bounds.act.holds(labels)


async def _job_id(jobs: Jobs, name: str) -> int | None:
    found = (await jobs.list(PageRequest(limit=1, filters={"name": [name]}))).items
    return found[0].job.id if found else None


def _policy_warnings(policy: Policy) -> Iterator[FieldError]:
    gate = policy.gate
    if gate is None or not gate.pause_on_fail:
        return
    if gate.check is None and policy.max_fail is None:
        detail = (
            "without a check and without max_fail no failure stops an execution, so none pauses it"
        )
        yield FieldError("/policy/gate/pause_on_fail", detail, "never_paused")


async def _collect(question: Awaitable[T], report: ValidationReport, pointer: str) -> T | None:
    """Return the result; if it is refused, add the errors to the report and return None."""
    try:
        return await question
    except (Invalid, Forbidden) as refused:
        report.errors += refused.errors or (FieldError(pointer, refused.detail, refused.code),)
        return None


def _not_looked_up(pointer: str, credential: str) -> FieldError:
    detail = f"the credential {credential!r} was not looked up, which takes credentials:use"
    return FieldError(pointer, detail, "not_looked_up")


def _unknown_file(action: FileTransferAction, position: int, which: str) -> FieldError:
    detail = (
        f"There is no file {action.source[:60]!r} {which}: "
        "upload it first (POST /files), and use its id."
    )
    return FieldError(f"/actions/{position}/source", detail, "unknown_file")


def _names_file(action: FileTransferAction) -> bool:
    return names_uploaded_file(action.type, action.direction, action.source)


def _actions(draft: JobDraft | RunDraft) -> Iterator[Action]:
    yield from draft.actions
    if draft.policy.gate is not None and draft.policy.gate.check is not None:
        yield draft.policy.gate.check


def _labels(targets: Sequence[Target]) -> set[str] | None:
    """Return all label names of the targets; None if there are none."""
    return {label for target in targets for label in target.labels} or None


def _data(error: FieldError) -> dict[str, str]:
    return {"pointer": error.pointer, "detail": error.detail, "code": error.code}
