"""Jobs as code: export all as bodies of POST /jobs; import them by name, all or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, bounds, check_override, check_permission, reach
from opsjobs.api.dependencies import ServicesDep, requires
from opsjobs.api.job_checks import check_written, vet
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.jobs import AppliedOut, JobExportOut
from opsjobs.composition.services import services_of
from opsjobs.engine.launching.job_validation import find_warnings
from opsjobs.model.api_model import Overriding
from opsjobs.model.job import JobDraft, export_definition
from opsjobs.model.safety_verdict import Vetted
from opsjobs.model.validation_errors import fault
from opsjobs.store import audit
from opsjobs.store.paging import FILTER_VALUES_MAX, PageRequest
from opsjobs.store.reference import name_taken

JOBS_MAX = 1_000

router = APIRouter(tags=["jobs"])


class ApplyDraft(Overriding):
    """Body of POST /jobs/apply: bodies of POST /jobs, each under its own name."""

    jobs: list[JobDraft] = Field(min_length=1, max_length=JOBS_MAX)

    @model_validator(mode="after")
    def _each_name_once(self) -> ApplyDraft:
        seen: set[str] = set()
        for position, job in enumerate(self.jobs):
            if job.name in seen:
                raise fault(
                    "duplicate_name",
                    f"two jobs have the name {job.name!r}",
                    "jobs",
                    position,
                    "name",
                )
            seen.add(job.name)
        return self


@router.get(
    "/jobs/export",
    dependencies=[requires("jobs:read", Within.LIST)],
    summary="Export jobs",
    response_model=JobExportOut,
)
async def export(
    request: Request,
    services: ServicesDep,
    name: Annotated[
        list[str] | None,
        Query(
            max_length=FILTER_VALUES_MAX, description="Only jobs with this name; may be repeated."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        Query(
            max_length=FILTER_VALUES_MAX, description="Only jobs with this tag; may be repeated."
        ),
    ] = None,
) -> Response:
    """Return at most 1,000 jobs by name, without defaults, as POST /jobs/apply takes them."""
    filters = {key: values for key, values in (("name", name), ("tags", tag)) if values}
    found: list[JobDraft] = []
    cursor: str | None = None
    while len(found) < JOBS_MAX:
        wanted = PageRequest(limit=200, cursor=cursor, sort="name", filters=filters)
        page = await services.jobs.list(wanted, reach(request))
        found += [stored.job.definition for stored in page.items]
        if (cursor := page.next) is None:
            break
    bodies = [export_definition(draft) for draft in found[:JOBS_MAX]]
    await audit.note(services.database, "job.exported", "job", None, after={"jobs": len(bodies)})
    return JSONResponse({"jobs": bodies})


@router.post(
    "/jobs/apply",
    dependencies=[requires("jobs:create", Within.BODY)],
    summary="Apply jobs by name",
    response_model=AppliedOut,
)
async def apply(
    request: Request, services: ServicesDep, draft: ApplyDraft, dry_run: bool = False
) -> Response:
    """Create jobs that do not exist and update those that differ, all or none.

    Updates need `jobs:update`, too. `dry_run=true` returns what would change: created, updated
    (with JSON Pointers to what differs) or unchanged. `warnings` of an item: probable mistakes,
    such as a name that nothing replaces.
    """
    check_permission(request, "jobs:update", within=Within.BODY)
    await _check_drafts(request, draft.jobs)
    check_override(request, draft)
    vetted = await _vetted(request, draft, dry_run=dry_run)
    by, within = principal_of(request).name, bounds(request, "jobs:create")
    applied = await services.jobs.apply(
        draft.jobs, by, dry_run=dry_run, vetted=vetted, bounds=within
    )
    launcher, limits = services.launcher, bounds(request, "jobs:create")
    warnings = {job.name: await find_warnings(launcher, job, limits) for job in draft.jobs}
    items = [
        {**one.data(), **_render_judgement(vetted[one.name]), "warnings": warnings[one.name]}
        for one in applied
    ]
    return JSONResponse({"items": items, "dry_run": dry_run})


async def _vetted(request: Request, draft: ApplyDraft, *, dry_run: bool) -> dict[str, Vetted]:
    """Return the safety check's result for each job; a dry run reports them and refuses none."""
    how = Overriding(override_safety=True) if dry_run else draft
    return {
        job.name: await vet(request, job, how, at=f"/jobs/{n}") for n, job in enumerate(draft.jobs)
    }


def _render_judgement(vetted: Vetted) -> dict[str, Any]:
    return (
        vetted.judgement.data()
        if vetted.judgement is not None
        else {"verdict": None, "findings": []}
    )


async def _check_drafts(request: Request, drafts: Sequence[JobDraft]) -> None:
    """Check each draft as a separate write of it would. Raises the same exceptions."""
    update = bounds(request, "jobs:update", sees="jobs:read")
    there: Mapping[str, Mapping[str, str]] = {}
    if not update.act.everywhere:
        there = await services_of(request).jobs.labels_by_name([draft.name for draft in drafts])
    for position, draft in enumerate(drafts):
        labels = there.get(draft.name)
        if labels is not None and not update.sight.holds(labels):
            raise name_taken("job", draft.name)
        if labels is not None:
            update.check_labels(labels, f"The job {draft.name!r}")
        permission = "jobs:create" if labels is None else "jobs:update"
        await check_written(request, draft, permission, at=f"/jobs/{position}")
