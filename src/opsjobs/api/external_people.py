"""/external-people: people who log in at the OpenID Connect provider."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from opsjobs.api.dependencies import requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.schemas.access import PersonPageOut
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.services import ServicesDep
from opsjobs.store.identities.provider import PEOPLE
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["access"])


@router.get(
    "/external-people",
    dependencies=[requires("system:admin")],
    summary="List people of the OpenID Connect provider",
    response_model=PersonPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(PEOPLE)]
) -> Response:
    """List those who have logged in there, with the rights of their latest login.

    The default order is by name. A person is listed until a day after the last session. Their
    logins are those of `GET /auth/sessions?kind=external&user=NAME`.
    """
    return render_page(request, await services.identities.people.list(page))
