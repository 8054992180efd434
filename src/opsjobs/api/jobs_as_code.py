"""Jobs as code: all of them out as bodies of POST /jobs, and in again by their names, all or none."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from opsjobs.api import jobs
from opsjobs.api.auth import check, principal_of, requires
from opsjobs.model.differences import written
from opsjobs.model.fault import fault
from opsjobs.model.job import JobDraft
from opsjobs.model.wire import Wire
from opsjobs.store.paging import PageRequest

JOBS_AT_MOST = 1_000

router = APIRouter(tags=["jobs"])


class ApplyDraft(Wire):
    """Body of POST /jobs/apply: bodies of POST /jobs, each under its own name."""

    jobs: list[JobDraft] = Field(min_length=1, max_length=JOBS_AT_MOST)

    @model_validator(mode="after")
    def _each_name_once(self) -> ApplyDraft:
        seen: set[str] = set()
        for position, job in enumerate(self.jobs):
            if job.name in seen:
                raise fault("duplicate_name", f"two jobs have the name {job.name!r}", "jobs", position, "name")
            seen.add(job.name)
        return self


@router.get("/jobs/export", dependencies=[requires("jobs:read")], summary="Export jobs as bodies of POST /jobs")
async def export(
    request: Request,
    name: Annotated[list[str] | None, Query(description="Only these; may be repeated.")] = None,
    tag: Annotated[list[str] | None, Query(description="Only those with any of these tags.")] = None,
) -> Response:
    """`{jobs: […]}`, by name, without what is so by default; POST /jobs/apply takes it as it is. At most 1,000."""
    filters = {key: values for key, values in (("name", name), ("tags", tag)) if values}
    found: list[JobDraft] = []
    cursor: str | None = None
    while len(found) < JOBS_AT_MOST:
        page = await request.app.state.parts.jobs.list(PageRequest(limit=200, cursor=cursor, sort="name", filters=filters))
        found += [stored.job.definition for stored in page.items]
        if (cursor := page.next) is None:
            break
    return JSONResponse({"jobs": [written(draft) for draft in found[:JOBS_AT_MOST]]})


@router.post("/jobs/apply", dependencies=[requires("jobs:create")], summary="Make jobs what these bodies say, by name")
async def apply(request: Request, draft: ApplyDraft, dry_run: bool = False) -> Response:
    """Creates what is not there and makes the next version of what differs (needs `jobs:update`, too); all or none.

    `dry_run=true` says what would change: created, updated (with JSON Pointers to what differs) or unchanged.
    """
    check(request, "jobs:update")
    for job in draft.jobs:
        jobs.check_actions(request, job)
    done = await request.app.state.parts.jobs.apply(draft.jobs, principal_of(request).name, dry_run=dry_run)
    return JSONResponse({"items": [one.data() for one in done], "dry_run": dry_run})
