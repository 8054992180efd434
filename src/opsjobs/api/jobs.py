"""/jobs: definitions of work, stored in versions; validated, previewed, cloned, paused."""

from __future__ import annotations

from dataclasses import replace as but
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import Field, ValidationError
from starlette.responses import JSONResponse, Response

from opsjobs.api import problems
from opsjobs.api.authorization import (
    FIELDS,
    Actions,
    Within,
    bounds,
    check_override,
    is_caller,
    reach,
)
from opsjobs.api.dependencies import Idempotent, JobDep, ServicesDep, load_job, requires
from opsjobs.api.http import IfMatch, IfMatchOrAny, page_of, render_created, render_page, tag
from opsjobs.api.job_checks import check_limits, check_written, own_webhooks_only, vet
from opsjobs.api.launches import ExecuteDraft, order_of, render_preview
from opsjobs.api.request import principal_of
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.executions import PreviewOut
from opsjobs.api.schemas.jobs import (
    JobDefinitionOut,
    JobDetailOut,
    JobOut,
    JobPageOut,
    JobVersionPageOut,
    ValidationOut,
)
from opsjobs.api.schemas.responses import CREATED_VERSION, PAGED, VERSIONED
from opsjobs.composition.services import services_of
from opsjobs.engine.launching.job_validation import ValidationReport, Visibility, validate_job
from opsjobs.model import text_patterns
from opsjobs.model.api_model import Overriding
from opsjobs.model.errors import Invalid, NotFound
from opsjobs.model.job import JobBody, JobDraft, LaunchOrder, export_definition
from opsjobs.model.naming import Title
from opsjobs.store.jobs import JOBS, VERSIONS, StoredJob, check_pausable, find_state_refusal
from opsjobs.store.paging import Page, PageRequest

RECENT_MAX = 30

router = APIRouter(tags=["jobs"])


class CloneDraft(Overriding):
    """Body of POST /jobs/{id}/clone.

    `name`: of the new job; None: the name of the old one, with " (copy)".
    """

    name: Title | None = Field(
        default=None, min_length=1, max_length=200, pattern=text_patterns.TITLE
    )


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
    return render_created(request, "/jobs", job, versioned=True)


@router.get(
    "/jobs",
    dependencies=[requires("jobs:read", Within.LIST)],
    summary="List jobs",
    response_model=JobPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(JOBS, also=["recent"])],
    recent: Annotated[
        int,
        Query(ge=0, le=RECENT_MAX, description="Include so many latest executions of each job."),
    ] = 0,
) -> Response:
    """List the jobs that are not deleted.

    The default order is newest first.
    """
    found: Page[StoredJob] = await services.jobs.list(page, reach(request))
    if not recent:
        return render_page(request, found)
    seen = principal_of(request).reach("executions:read")
    last = await services.overview.load_recent([one.job.id for one in found.items], recent, seen)
    return render_page(request, found, lambda one: {**one.data(), "recent": last[one.job.id]})


@router.get(
    "/jobs/{id}",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="Get a job",
    response_model=JobDetailOut,
    responses=VERSIONED,
)
async def show(request: Request, stored: JobDep) -> Response:
    """Return the job at its current version, which is also its ETag.

    `can` and `cannot` are what the caller may do: execute, update, pause, resume, clone, delete,
    add_schedule, add_trigger.
    """
    body = {**stored.data(), **await _actions(request, stored)}
    return JSONResponse(body, headers={"ETag": tag(stored.job.version)})


async def _actions(request: Request, stored: StoredJob) -> dict[str, Any]:
    job = stored.job
    actions = Actions(request, "job", job.id, stored.labels, sees="jobs:read")
    if actions.holds("execute", "jobs:execute"):
        actions.add("execute", find_state_refusal(job.definition.name, job.state))
    actions.allow("update", "jobs:update")
    for name in ("pause", "resume"):
        if actions.holds(name, "jobs:update"):
            with actions.checking(name):
                check_pausable(stored)
    actions.allow("clone", "jobs:create")
    if actions.holds("delete", "jobs:delete"):
        with actions.checking("delete"):
            await services_of(request).jobs.check_archive(stored)
    actions.allow("add_schedule", "schedules:manage")
    actions.allow("add_trigger", "triggers:manage", "jobs:execute")
    return actions.data()


def _as_written(stored: StoredJob, base: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that a PATCH is merged onto.

    `state` is the written one, not a pause; with new actions, the old job type is dropped, because
    they may be of another type.
    """
    written = {**base, "state": stored.job.definition.state}
    if "actions" in body and "job_type" not in body:
        written.pop("job_type")
    return written


Changed = Annotated[
    Edit[JobBody], edit(JobBody, load_job, volatile=["status", *FIELDS], adapt=_as_written)
]


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
    "/jobs/{id}/definition",
    dependencies=[requires("jobs:read", Within.OBJECT)],
    summary="Get a job as it was written",
    response_model=JobDefinitionOut,
)
async def definition(stored: JobDep) -> Response:
    """Return the body of POST /jobs that creates this job, without defaults."""
    return JSONResponse(export_definition(stored.job.definition))


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


@router.post(
    "/jobs/validate",
    dependencies=[requires("jobs:read", Within.BODY)],
    summary="Validate a job without storing it",
    response_model=ValidationOut,
)
async def validate_body(request: Request, body: Annotated[dict[str, Any], Body()]) -> Response:
    """Validate the body of POST /jobs. Always 200.

    `errors` would refuse the job, `warnings` would not.
    """
    try:
        draft = JobDraft.model_validate(body)
    except ValidationError as wrong:
        return JSONResponse(
            ValidationReport(errors=problems.field_errors(wrong.errors(), body)).data()
        )
    return JSONResponse((await _validate(request, draft)).data())


@router.post(
    "/jobs/{id}/validate",
    dependencies=[requires("jobs:read", Within.OBJECT), Depends(load_job)],
    summary="Validate a stored job",
    response_model=ValidationOut,
)
async def validate(request: Request, stored: JobDep) -> Response:
    """Check that the targets, credentials, files and jobs that the job names exist."""
    return JSONResponse((await _validate(request, stored.job.definition)).data())


@router.post(
    "/jobs/{id}/preview",
    dependencies=[requires("jobs:read", Within.OBJECT), Depends(load_job)],
    summary="Preview an execution",
    response_model=PreviewOut,
)
async def preview_(request: Request, stored: JobDep, draft: ExecuteDraft | None = None) -> Response:
    """Return the targets, waves, commands and estimated time of an execution.

    `changes`: how its targets differ from those of the last execution that the caller may see.
    """
    return await render_preview(request, _preview_order(request, stored, draft))


@router.post(
    "/jobs/{id}/clone",
    status_code=201,
    dependencies=[requires("jobs:create", Within.OBJECT), Depends(load_job)],
    summary="Clone a job",
    response_model=JobOut,
    responses=CREATED_VERSION,
)
async def clone(
    request: Request,
    services: ServicesDep,
    stored: JobDep,
    idem: Idempotent,
    draft: CloneDraft | None = None,
) -> Response:
    """Create a new job at version 1 with the definition of this one.

    Executions and schedules stay with the old job.
    """
    old = stored.job.definition
    copy = old.model_copy(update={"name": (draft and draft.name) or f"{old.name[:190]} (copy)"})
    await check_written(request, copy, "jobs:create")
    if draft is not None:
        check_override(request, draft)
    result = await vet(request, copy, draft or CloneDraft())
    by, within = principal_of(request).name, bounds(request, "jobs:create")
    made = await services.jobs.create(copy, by, idem, vetted=result, bounds=within)
    return render_created(request, "/jobs", made, versioned=True)


@router.post(
    "/jobs/{id}/pause",
    dependencies=[requires("jobs:update", Within.OBJECT), Depends(load_job)],
    summary="Pause a job",
    response_model=JobOut,
    responses=VERSIONED,
)
async def pause(id: str, request: Request) -> Response:
    """Refuse new executions (409 `job_is_paused`) until the job is resumed. Idempotent.

    Running executions continue.
    """
    return await _paused(id, request, paused=True)


@router.post(
    "/jobs/{id}/resume",
    dependencies=[requires("jobs:update", Within.OBJECT), Depends(load_job)],
    summary="Resume a job",
    response_model=JobOut,
    responses=VERSIONED,
)
async def resume(id: str, request: Request) -> Response:
    """Allow executions of the job again. Idempotent."""
    return await _paused(id, request, paused=False)


def _preview_order(request: Request, stored: StoredJob, draft: ExecuteDraft | None) -> LaunchOrder:
    """Return the order to preview, limited to the targets that the caller may read.

    Every caller who may read the job may preview it. If the job also has other targets, the preview
    reports that.
    """
    return but(order_of(stored, draft or ExecuteDraft()), bounds=bounds(request, "targets:read"))


async def _paused(id: str, request: Request, *, paused: bool) -> Response:
    job = await services_of(request).jobs.pause(id, paused=paused)
    return JSONResponse(job.data(), headers={"ETag": tag(job.job.version)})


def _visibility(request: Request) -> Visibility:
    """Return which credentials and files the caller may see.

    Credentials are visible as in GET /credentials, files as in GET /files/{id}.
    """
    services = services_of(request)
    credentials = principal_of(request).reach("credentials:use").everywhere

    async def file(ref: str) -> bool:
        try:
            stored = await services.files.get(ref)
        except NotFound:
            return False
        return is_caller(request, stored.created_by)

    return Visibility(
        credentials, None if principal_of(request).reach("jobs:read").everywhere else file
    )


async def _validate(request: Request, draft: JobDraft) -> ValidationReport:
    services = services_of(request)
    found = await validate_job(
        services.launcher, services.jobs, draft, bounds(request), _visibility(request)
    )
    sees_credentials = principal_of(request).reach("credentials:use").everywhere
    for position, rule in enumerate(draft.policy.notify or ()):
        found.errors += await services.notification_channels.find_faults(
            rule,
            f"/policy/notify/{position}",
            webhook_owner=own_webhooks_only(request),
            sees_credentials=sees_credentials,
        )
    if services.safety_service is not None:
        found.add_judgement(await services.safety_service.check_job(draft))
    try:
        check_limits(request, draft)
    except Invalid as refused:
        found.errors += refused.errors
    return found
