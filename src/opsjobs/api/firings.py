"""/schedules/{id}/firings: what became of each due moment, and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from opsjobs.api.auth import Within, requires
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.listing import page_of, render_page
from opsjobs.api.schedules import ScheduleDep, render_firing
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.schemas.schedules import FiringPageOut
from opsjobs.store.paging import PageRequest
from opsjobs.store.scheduling.firings import FIRINGS

router = APIRouter(tags=["schedules"])


@router.get(
    "/schedules/{id}/firings",
    dependencies=[requires("schedules:read", Within.OBJECT)],
    summary="List a schedule's firings",
    response_model=FiringPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    schedule: ScheduleDep,
    page: Annotated[PageRequest, page_of(FIRINGS)],
) -> Response:
    """List firings, the latest due time first unless `sort` says otherwise.

    A firing says whether it ran, was skipped (by which rule) or missed (why), and how late it
    was.
    """
    return render_page(request, await services.firings.list(schedule, page), render_firing)
