"""/jobs: definitions of work, stored in versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import Within, check, principal_of, requires
from opsjobs.api.authorization import admitted, bounds, check_override, is_caller, reach
from opsjobs.api.dependencies import ServicesDep, services_of
from opsjobs.api.listing import page_of, render_created, render_page, render_replayed, tag
from opsjobs.api.preconditions import Idempotent, IfMatch, IfMatchOrAny
from opsjobs.api.schemas.jobs import JobOut, JobPageOut, JobVersionPageOut
from opsjobs.api.schemas.responses import CREATED_VERSION, PAGED, VERSIONED
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.composition import Limits
from opsjobs.engine.launching.safety_service import refuse_blocked
from opsjobs.model.action import ApprovalAction, RunningAction, WaitAction
from opsjobs.model.api_model import Overriding
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.job import JobBody, JobDraft, RunDraft
from opsjobs.model.safety_verdict import Vetted
from opsjobs.model.units import format_duration, format_size
from opsjobs.store.idempotency import Answer
from opsjobs.store.jobs import JOBS, VERSIONS, StoredJob
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["jobs"])


def check_actions(request: Request, draft: JobDraft | RunDraft) -> None:
    """Check the credentials and the number of actions of a draft.

    Raises Forbidden if the draft names a credential and the caller may use none, Invalid if it has
    too many actions.
    """
    named = any(
        action.become is not None and action.become.credential is not None
        for action in _running(draft)
    )
    if named or (
        isinstance(draft, JobDraft) and any(p.from_credential is not None for p in draft.parameters)
    ):
        check(request, "credentials:use")
    check_limits(request, draft)


async def vet(request: Request, draft: JobDraft, overriding: Overriding, *, at: str = "") -> Vetted:
    """Return the result of the safety check of a job that is to be stored.

    Raises Invalid("safety_blocked") unless that is overridden. `at`: the place of the job in the
    body.
    """
    judging = services_of(request).judging
    judgement = None if judging is None else await judging.job(draft)
    if judgement is not None and overriding.override is None:
        refuse_blocked(judgement, before=at)
    return Vetted(judgement, overriding.override)


async def check_written(request: Request, draft: JobDraft | RunDraft, permission: str) -> None:
    """Check a draft as `check_actions` does, and its references against the caller's scope.

    Also raises Forbidden or Invalid if something that it names lies outside the scope in which the
    caller holds this permission.
    """
    check_actions(request, draft)
    await services_of(request).authoring.check(
        draft,
        bounds(request, permission),
        lambda file: is_caller(request, file.created_by, file.created_by_kind),
        sees_files=principal_of(request).reach("jobs:read").everywhere,
    )


def _running(draft: JobDraft | RunDraft) -> list[RunningAction]:
    gate = draft.policy.gate
    return [
        action
        for action in (*draft.actions, gate and gate.check)
        if isinstance(action, RunningAction)
    ]


def check_limits(request: Request, draft: JobDraft | RunDraft) -> None:
    """Raises Invalid for too many actions or attempts, too much output, or too long waits."""
    _check_sizes(services_of(request).limits, draft)
    limit = services_of(request).limits.max_actions
    if len(draft.actions) > limit:
        detail = (
            f"{len(draft.actions)} actions are more than the limit of {limit} "
            "(MAX_ACTIONS_PER_JOB). Make two jobs, or have the limit raised."
        )
        raise Invalid(
            "too_many_actions", detail, errors=[FieldError("/actions", detail, "too_many_actions")]
        )
    most = services_of(request).limits.max_attempts
    asked = {
        f"/actions/{position}/retry": action.retry for position, action in enumerate(draft.actions)
    }
    for pointer, retry in {"/policy/retry": draft.policy.retry, **asked}.items():
        if retry is not None and retry.max_attempts > most:
            detail = (
                f"{retry.max_attempts} attempts are more than the limit of {most} (MAX_RETRIES). "
                "Ask for fewer, or have the limit raised."
            )
            raise Invalid(
                "too_many_attempts",
                detail,
                errors=[FieldError(f"{pointer}/max_attempts", detail, "too_many_attempts")],
            )


def _check_sizes(limits: Limits, draft: JobDraft | RunDraft) -> None:
    gate = draft.policy.gate
    checked = [(f"/actions/{position}", action) for position, action in enumerate(draft.actions)]
    for pointer, action in [*checked, ("/policy/gate/check", gate and gate.check)]:
        if isinstance(action, RunningAction) and (action.output_limit or 0) > limits.output_bytes:
            detail = (
                f"An output_limit of {format_size(action.output_limit or 0)} is more than the "
                f"limit of {format_size(limits.output_bytes)} (OPSJOBS_OUTPUT_LIMIT_BYTES). "
                "Ask for less, or write the output to a file and download that."
            )
            raise Invalid(
                "output_limit",
                detail,
                errors=[FieldError(f"{pointer}/output_limit", detail, "output_limit")],
            )
    waits = [
        (f"/actions/{n}/duration", a.duration)
        for n, a in enumerate(draft.actions)
        if isinstance(a, WaitAction)
    ]
    waits += [
        (f"/actions/{n}/expires_in", a.expires_in)
        for n, a in enumerate(draft.actions)
        if isinstance(a, ApprovalAction)
    ]
    for pointer, seconds in [*waits, ("/policy/hold_offline", draft.policy.hold_offline)]:
        if seconds > limits.wait_seconds:
            detail = (
                f"{format_duration(seconds)} is more than the limit of "
                f"{format_duration(limits.wait_seconds)} (OPSJOBS_WAIT_LIMIT). "
                "Wait for less, or schedule a second job."
            )
            raise Invalid(
                "wait_too_long", detail, errors=[FieldError(pointer, detail, "wait_too_long")]
            )


async def load_job(id: str, request: Request) -> StoredJob:
    """Return the job. Raises NotFound or Forbidden.

    This precedes the check of the body: a wrong address is reported first.
    """
    found: StoredJob = await services_of(request).jobs.get(id)
    return admitted(request, "job", id, found, sees="jobs:read")


JobDep = Annotated[StoredJob, Depends(load_job)]


@router.post(
    "/jobs",
    status_code=201,
    dependencies=[requires("jobs:create", Within.BODY)],
    summary="Create a job",
    response_model=JobOut,
    responses=CREATED_VERSION,
)
async def create(
    request: Request, services: ServicesDep, body: JobBody, idem: Idempotent
) -> Response:
    """Store the job at version 1. Naming a credential needs `credentials:use`, too."""
    draft = body.draft
    await check_written(request, draft, "jobs:create")
    check_override(request, body)
    vetted = await vet(request, draft, body)
    by, within = principal_of(request).name, bounds(request, "jobs:create")
    job = await services.jobs.create(draft, by, idem, vetted=vetted, bounds=within)
    if isinstance(job, Answer):
        return render_replayed(request, job, etag=True)
    return render_created(request, f"/jobs/{job.job.id}", job, etag=job.job.version)


@router.get(
    "/jobs",
    dependencies=[requires("jobs:read", Within.LIST)],
    summary="List jobs",
    response_model=JobPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(JOBS)]
) -> Response:
    """List the jobs that are not deleted.

    The newest come first unless `sort` says otherwise.
    """
    return render_page(request, await services.jobs.list(page, reach(request)))


@router.get(
    "/jobs/{id}",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="Get a job",
    response_model=JobOut,
    responses=VERSIONED,
)
async def show(stored: JobDep) -> Response:
    """Return the job at its current version, which is also its ETag."""
    return _render_job(stored)


def _as_written(stored: StoredJob, base: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that a PATCH is merged onto.

    `state` is the written one, not a pause; with new actions, the old job type is dropped, because
    they may be of another type.
    """
    written = {**base, "state": stored.job.definition.state}
    if "actions" in body and "job_type" not in body:
        written.pop("job_type")
    return written


Changed = Annotated[Edit[JobBody], edit(JobBody, load_job, volatile=["status"], adapt=_as_written)]


@put_and_patch(
    router,
    "/jobs/{id}",
    dependencies=[requires("jobs:update", Within.OBJECT), Depends(load_job)],
    thing="a job",
    response_model=JobOut,
    responses=VERSIONED,
)
async def replace(
    id: str, request: Request, services: ServicesDep, if_match: IfMatch, change: Changed
) -> Response:
    """Create the next version, or none if nothing changes.

    Executions keep the version that they were launched with.
    """
    body, draft = change.draft, change.draft.draft
    await check_written(request, draft, "jobs:update")
    check_override(request, body)
    vetted = await vet(request, draft, body)
    by, within = principal_of(request).name, bounds(request, "jobs:update")
    jobs = services.jobs
    return _render_job(
        await jobs.replace(
            id, draft, by, if_match, vetted=vetted, bounds=within, basis=change.basis
        )
    )


@router.delete(
    "/jobs/{id}",
    status_code=204,
    dependencies=[requires("jobs:delete", Within.OBJECT), Depends(load_job)],
    summary="Delete a job",
)
async def delete(
    id: str, request: Request, services: ServicesDep, if_match: IfMatchOrAny
) -> Response:
    """Archive the job: its executions stay, its name becomes free. 409 while it runs."""
    await services.jobs.archive(id, principal_of(request).name, if_match)
    return Response(status_code=204)


@router.get(
    "/jobs/{id}/versions",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="List a job's versions",
    response_model=JobVersionPageOut,
    responses=PAGED,
)
async def versions(
    request: Request,
    services: ServicesDep,
    stored: JobDep,
    page: Annotated[PageRequest, page_of(VERSIONS)],
) -> Response:
    """List all versions as they were written, the newest first.

    Within a scope, only versions whose tags are within it.
    """
    return render_page(request, await services.jobs.versions(stored.job.id, page, reach(request)))


def _render_job(job: StoredJob) -> Response:
    return JSONResponse(job.data(), headers={"ETag": tag(job.job.version)})
