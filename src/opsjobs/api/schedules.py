"""/schedules: write, pause and trigger schedules, which launch jobs at due times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as but
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import (
    FIELDS,
    Actions,
    Within,
    admit,
    bounds,
    check_override,
    check_permission,
    reach,
)
from opsjobs.api.dependencies import (
    Idempotent,
    JobDep,
    ScheduleDep,
    ServicesDep,
    confirm_caller,
    load_job,
    load_schedule,
    requires,
)
from opsjobs.api.http import IfMatch, IfMatchOrAny, page_of, render_page, render_replayed, tag
from opsjobs.api.job_checks import check_notify
from opsjobs.api.launches import Prefer, owner, render_launch, requester
from opsjobs.api.paths import build_location
from opsjobs.api.quotas import check_open
from opsjobs.api.request import principal_of, triggered_by
from opsjobs.api.resource import Edit, edit, put_and_patch
from opsjobs.api.schemas.executions import ExecutionOut
from opsjobs.api.schemas.responses import CREATED_VERSION, LAUNCHED, PAGED, VERSIONED
from opsjobs.api.schemas.schedules import (
    FiringPageOut,
    NamedFiringPageOut,
    ScheduleDetailOut,
    ScheduleOut,
    SchedulePageOut,
)
from opsjobs.composition.services import services_of
from opsjobs.model.api_model import ApiModel, Overriding
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.firing import explain
from opsjobs.model.parameter import ParameterDraft, bound
from opsjobs.model.schedule.draft import ScheduleDraft, refuse_past
from opsjobs.model.time_zones import in_words
from opsjobs.store.idempotency import Answer
from opsjobs.store.jobs import find_state_refusal
from opsjobs.store.paging import Page, PageRequest
from opsjobs.store.scheduling.rows import ALL_FIRINGS, FIRINGS, Firing, NamedFiring, StoredSchedule
from opsjobs.store.scheduling.schedules import SCHEDULES

router = APIRouter(tags=["schedules"])


class ReasonDraft(ApiModel):
    """Body of POST /schedules/{id}/pause. Each skipped firing shows the reason."""

    reason: str | None = Field(default=None, max_length=2_000)


class TriggerDraft(Overriding):
    """Body of POST /schedules/{id}/trigger."""


@router.post(
    "/jobs/{id}/schedules",
    status_code=201,
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_job)],
    summary="Schedule a job",
    response_model=ScheduleOut,
    responses=CREATED_VERSION,
)
async def create(
    request: Request,
    services: ServicesDep,
    job: JobDep,
    draft: ScheduleDraft,
    idem: Idempotent,
) -> Response:
    """Create a schedule at version 1.

    It launches the job in the name and with the permissions of the caller.
    """
    check_parameters(job.job.definition.parameters, draft)
    await check_notify(request, draft.notify, "/notify")
    refuse_past(draft, await services.schedule_overview.now())
    by = await owner(request)
    made = await services.schedules.create(str(job.job.id), draft, by.identity, idem)
    name = job.job.definition.name
    if isinstance(made, Answer):
        return render_replayed(
            request,
            Answer(made.status, made.location, render_schedule(made.body, name, None)),
            etag=True,
        )
    body = render_schedule(made.data(), name, None)
    return JSONResponse(
        body,
        201,
        {"Location": build_location(request, f"/schedules/{made.id}"), "ETag": tag(made.version)},
    )


@router.get(
    "/jobs/{id}/schedules",
    dependencies=[requires("schedules:read", Within.OBJECT)],
    summary="List a job's schedules",
    response_model=SchedulePageOut,
    responses=PAGED,
)
async def of_job(
    request: Request, stored: JobDep, page: Annotated[PageRequest, page_of(SCHEDULES)]
) -> Response:
    """List the schedules of a job.

    The default order is newest first.
    """
    return await _render_schedules(
        request, but(page, filters={**page.filters, "job_id": [str(stored.job.id)]})
    )


@router.get(
    "/schedules",
    dependencies=[requires("schedules:read", Within.LIST)],
    summary="List schedules",
    response_model=SchedulePageOut,
    responses=PAGED,
)
async def list_(request: Request, page: Annotated[PageRequest, page_of(SCHEDULES)]) -> Response:
    """List schedules, each with its next due time and its last firing.

    The default order is newest first.
    """
    return await _render_schedules(request, page)


@router.get(
    "/schedules/{id}",
    dependencies=[requires("schedules:read", Within.OBJECT)],
    summary="Get a schedule",
    response_model=ScheduleDetailOut,
    responses=VERSIONED,
)
async def show(request: Request, schedule: ScheduleDep) -> Response:
    """Return the schedule, its next due time and its last firing. Its version is its ETag.

    `can` and `cannot` are what the caller may do: update, pause, resume, trigger, delete.
    """
    return await _render_response(request, schedule, await _actions(request, schedule))


async def _actions(request: Request, schedule: StoredSchedule) -> dict[str, Any]:
    job = (await services_of(request).jobs.summaries([schedule.job_id]))[schedule.job_id]
    actions = Actions(request, "schedule", schedule.id, job.labels, sees="schedules:read")
    for name in ("update", "pause", "resume"):
        actions.allow(name, "schedules:manage")
    if actions.holds("trigger", "schedules:manage", "jobs:execute"):
        actions.add("trigger", find_state_refusal(job.name, job.state))
    actions.allow("delete", "schedules:manage")
    return actions.data()


_OF_TIME = ("job_name", "next_due_at", "next_fire_at", "next", "firings", "last_firing")
Changed = Annotated[
    Edit[ScheduleDraft], edit(ScheduleDraft, load_schedule, volatile=[*_OF_TIME, *FIELDS])
]


@put_and_patch(
    router,
    "/schedules/{id}",
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_schedule)],
    thing="a schedule",
    response_model=ScheduleOut,
    responses=VERSIONED,
)
async def replace(
    request: Request,
    services: ServicesDep,
    schedule: ScheduleDep,
    if_match: IfMatch,
    change: Changed,
) -> Response:
    """Create the next version, owned by the caller, or none if nothing changes.

    Firings that are already due are launched by the version before.
    """
    draft = change.draft
    check_parameters(
        (await services.jobs.get(str(schedule.job_id))).job.definition.parameters, draft
    )
    await check_notify(request, draft.notify, "/notify")
    by = await owner(request)
    changed = await services.schedules.replace(
        str(schedule.id), draft, by.identity, if_match, basis=change.basis
    )
    return await _render_response(request, changed)


@router.delete(
    "/schedules/{id}",
    status_code=204,
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_schedule)],
    summary="Delete a schedule",
)
async def delete(
    id: str, request: Request, services: ServicesDep, if_match: IfMatchOrAny
) -> Response:
    """Delete the schedule. Executions that it has launched stay and continue."""
    await services.schedules.delete(id, principal_of(request).name, if_match)
    return Response(status_code=204)


@router.post(
    "/schedules/{id}/pause",
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_schedule)],
    summary="Pause a schedule",
    response_model=ScheduleOut,
    responses=VERSIONED,
)
async def pause(
    request: Request, services: ServicesDep, schedule: ScheduleDep, draft: ReasonDraft | None = None
) -> Response:
    """Record each due time as skipped until the schedule is resumed. Idempotent."""
    return await _render_response(
        request,
        await services.schedules.pause(
            schedule.id, reason=draft.reason if draft is not None else None
        ),
    )


@router.post(
    "/schedules/{id}/resume",
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_schedule)],
    summary="Resume a schedule",
    response_model=ScheduleOut,
    responses=VERSIONED,
)
async def resume(request: Request, services: ServicesDep, schedule: ScheduleDep) -> Response:
    """Continue with the next due time; skipped ones are not run later. Idempotent.

    If its owner is deleted, disabled or expired, the caller becomes the owner.
    """
    by = await owner(request)
    ended = await services.platform_users.has_ended(schedule.owner)
    new_owner = by.identity if ended else None
    resumed = await services.schedules.resume(schedule.id, owner=new_owner)
    return await _render_response(request, resumed)


@router.post(
    "/schedules/{id}/trigger",
    status_code=202,
    dependencies=[requires("schedules:manage", Within.OBJECT), Depends(load_schedule)],
    summary="Trigger a schedule",
    response_model=ExecutionOut,
    responses=LAUNCHED,
)
async def trigger(
    *,
    request: Request,
    services: ServicesDep,
    schedule: ScheduleDep,
    idem: Idempotent,
    draft: TriggerDraft | None = None,
    prefer: Prefer = None,
) -> Response:
    """Launch the job now, regardless of overlap, calendars and pause.

    Due times stay as they are. Needs `jobs:execute`, too.
    """
    await confirm_caller(request)
    check_permission(request, "jobs:execute", within=Within.OBJECT)
    if not (limits := bounds(request, "jobs:execute")).act.everywhere:
        labels = await services.schedules.labels(schedule)
        admit(
            request,
            "schedule",
            schedule.id,
            labels,
            sees="schedules:read",
            permission="jobs:execute",
        )
    if draft is not None:
        check_override(request, draft)
    await check_open(request)
    launched = await services.triggers.trigger(
        str(schedule.id),
        triggered_by=triggered_by(request),
        bounds=limits,
        reason=draft.reason if draft is not None else None,
        override=draft.override if draft is not None else None,
        idem=idem,
        requested_by=await requester(request),
    )
    return await render_launch(request, launched, prefer)


def check_parameters(declared: list[ParameterDraft], draft: ScheduleDraft) -> None:
    """Raise Invalid if the job would refuse the schedule's parameters, or one is a secret."""
    secret = [p.name for p in declared if p.secret and draft.parameters.get(p.name) is not None]
    if secret:
        detail = (
            f"{secret[0]} is a secret, and a schedule stores its parameters unencrypted. Store it "
            "with `opsjobs credentials add NAME --type secret`, and declare the parameter with "
            "`from_credential: NAME` in the job."
        )
        raise Invalid(
            "secret_in_schedule",
            detail,
            errors=[FieldError(f"/parameters/{secret[0]}", detail, "secret_in_schedule")],
        )
    # Choices from a URL are fetched at each launch, because they may change.
    bound(declared, draft.parameters)


def render_firing(firing: Firing) -> dict[str, Any]:
    """Return the response for a firing, with an explanation and a link to its execution."""
    item = firing.data()
    links = (
        {"execution": f"/executions/{firing.execution_id}"}
        if firing.execution_id is not None
        else {}
    )
    return {**item, "explained": explain(item), "links": links}


def render_schedule(body: Mapping[str, Any], job_name: str, last: Firing | None) -> dict[str, Any]:
    """Return the response for a schedule.

    It has the schedule, the name of its job, a description of its next firing, and the result of
    its last firing.
    """
    due, zone = body["next_due_at"], body.get("timezone")
    next_ = None if due is None else in_words(datetime.fromisoformat(due), zone)
    return {
        **body,
        "job_name": job_name,
        "next": next_,
        "last_firing": render_firing(last) if last is not None else None,
    }


async def _render_schedules(request: Request, page: PageRequest) -> Response:
    services = services_of(request)
    found: Page[StoredSchedule] = await services.schedules.list(page, reach(request))
    around = await services.schedule_overview.load_jobs_and_last_firings(
        [schedule.id for schedule in found.items]
    )
    return render_page(
        request, found, lambda schedule: render_schedule(schedule.data(), *around[schedule.id])
    )


async def _render_response(
    request: Request, schedule: StoredSchedule, actions: Mapping[str, Any] | None = None
) -> Response:
    around = await services_of(request).schedule_overview.load_jobs_and_last_firings([schedule.id])
    return JSONResponse(
        {**render_schedule(schedule.data(), *around[schedule.id]), **(actions or {})},
        headers={"ETag": tag(schedule.version)},
    )


@router.get(
    "/schedules/{id}/firings",
    dependencies=[requires("schedules:read", Within.OBJECT)],
    summary="List a schedule's firings",
    response_model=FiringPageOut,
    responses=PAGED,
)
async def firings(
    request: Request,
    services: ServicesDep,
    schedule: ScheduleDep,
    page: Annotated[PageRequest, page_of(FIRINGS)],
) -> Response:
    """List firings. The default order is latest due time first.

    A firing shows whether it ran, was skipped (by which rule) or missed (why), and how late it
    was.
    """
    return render_page(request, await services.firings.list(schedule, page), render_firing)


@router.get(
    "/firings",
    dependencies=[requires("schedules:read", Within.LIST)],
    summary="List firings of all schedules",
    response_model=NamedFiringPageOut,
    responses=PAGED,
)
async def all_firings(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(ALL_FIRINGS)]
) -> Response:
    """List the firings of all schedules, the latest recorded first.

    `job_id`, which needs a `status`, looks through the last 10,000 firings with that status.
    """
    found = await services.firings.list_all(page, reach(request))
    return render_page(request, found, _render_named_firing)


def _render_named_firing(named: NamedFiring) -> dict[str, Any]:
    schedule = {
        "id": named.firing.schedule_id,
        "name": named.schedule_name,
        "job_id": named.job_id,
        "job_name": named.job_name,
    }
    return {**render_firing(named.firing), "schedule": schedule}
