"""/circuits: logins that are suspended, with the reason, and their immediate retry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import Within, requires
from opsjobs.api.authorization import admitted, reach
from opsjobs.api.dependencies import ServicesDep, services_of
from opsjobs.api.listing import page_of, render_page
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.schemas.targets import CircuitPageOut, ResetCircuitsOut
from opsjobs.store.circuits import CIRCUITS
from opsjobs.store.inventory import StoredTarget
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])


async def load_target_id(target: str, request: Request) -> str:
    """The target's id. Raises NotFound or Forbidden before the body is judged."""
    stored: StoredTarget = await services_of(request).inventory.get(target)
    return admitted(request, "target", target, stored, sees="targets:read").target.id


@router.get(
    "/circuits",
    dependencies=[requires("system:read", Within.LIST)],
    summary="List circuits",
    response_model=CircuitPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(CIRCUITS)]
) -> Response:
    """List circuits that are not closed, the newest first; `state=closed` lists the others.

    A circuit whose pause is over is `half_open`.
    """
    return render_page(request, await services.circuits.list(page, reach(request)))


@router.post(
    "/circuits/{target}/reset",
    dependencies=[requires("targets:manage", Within.OBJECT)],
    summary="Reset a target's circuits",
    response_model=ResetCircuitsOut,
)
async def reset(
    services: ServicesDep, target_id: Annotated[str, Depends(load_target_id)]
) -> Response:
    """Close the circuits of the target, and return those that were not closed.

    The next run tries the login again, alone at first.
    """
    found = await services.circuits.reset(target_id)
    return JSONResponse({"items": [circuit.data() for circuit in found]})
