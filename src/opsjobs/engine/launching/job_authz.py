"""What an author with a scope may write into a job: all that it names lies in his scope, for others will launch it unread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from opsjobs.engine.launching.launch import Launcher
from opsjobs.engine.launching.references import names_uploaded_file
from opsjobs.model.access import labels_of
from opsjobs.model.access_bounds import Bounds
from opsjobs.model.action import Action, FileTransferAction, JobAction
from opsjobs.model.errors import FieldError, Forbidden, Invalid, NotFound
from opsjobs.model.exclusive_names import check_names
from opsjobs.model.job import JobDraft, LaunchOrder, RunDraft
from opsjobs.model.target import SelectionDraft
from opsjobs.store.files import Files, StoredFile
from opsjobs.store.jobs import Jobs

Owns = Callable[[StoredFile], bool]


class JobAuthorization:
    """Asked of each job that is written and of each ad-hoc run; whoever is bound by nothing is let through unasked."""

    def __init__(self, launcher: Launcher, jobs: Jobs, files: Files) -> None:
        self._launcher = launcher
        self._jobs = jobs
        self._files = files

    async def check(
        self, draft: JobDraft | RunDraft, bounds: Bounds, owns: Owns, *, sees_files: bool = True
    ) -> None:
        """Raises Forbidden for what lies outside, and Invalid for what is not there or not to be seen. The name is the store's to judge.

        `owns`: whether a file is the author's: others' are not brought to targets by an author with a scope, or by one who may not
        see them (`sees_files` False).
        """
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
            if isinstance(action, JobAction):
                await self._check_job(action, position, bounds)
            if isinstance(action, FileTransferAction) and action.direction == "upload":
                await self._check_file(action, position, owns)

    async def _check_files(self, draft: JobDraft | RunDraft, owns: Owns) -> None:
        """Raise Invalid for a file of others. Which one a value names is asked when it is brought."""
        for position, action in enumerate(_actions(draft)):
            if isinstance(action, FileTransferAction) and names_uploaded_file(
                action.type, action.direction, action.source
            ):
                await self._check_file(action, position, owns)

    async def _check_selection(
        self, draft: JobDraft | RunDraft, selection: SelectionDraft, bounds: Bounds
    ) -> None:
        name = draft.name if isinstance(draft, JobDraft) else "ad-hoc"
        order = LaunchOrder(draft.actions, selection, draft.policy, name)
        await self._launcher.selected(replace(order, bounds=bounds))

    async def _check_job(self, action: JobAction, position: int, bounds: Bounds) -> None:
        labels = await self._jobs.labels_of(action.job)
        if labels is None or not bounds.act.holds(labels):
            detail = f"There is no job {action.job!r} within your scope: name one that is."
            raise Invalid(
                "unknown_job",
                detail,
                errors=[FieldError(f"/actions/{position}/job", detail, "unknown_job")],
            )

    async def _check_file(self, action: FileTransferAction, position: int, owns: Owns) -> None:
        pointer = f"/actions/{position}/source"
        if "${" in action.source:
            detail = "Which file it is would be said at the launch: within a scope, name one that you have uploaded yourself."
            raise Forbidden(
                "out_of_reach", detail, errors=[FieldError(pointer, detail, "out_of_reach")]
            )
        try:
            own = owns(await self._files.get(action.source))
        except NotFound:
            own = False
        if not own:
            detail = f"There is no file {action.source[:60]!r} of yours: upload it first (POST /files), and take its id."
            raise Invalid(
                "unknown_file", detail, errors=[FieldError(pointer, detail, "unknown_file")]
            )


def _actions(draft: JobDraft | RunDraft) -> Iterator[Action]:
    yield from draft.actions
    if draft.policy.gate is not None and draft.policy.gate.check is not None:
        yield draft.policy.gate.check
