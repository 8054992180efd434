"""/target-groups: named sets of targets: listed, selected by label, or of other groups."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.http import Idempotent, page_of, render_created, render_page
from opsjobs.api.request import ServicesDep, services_of
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.schemas.targets import GroupOut, GroupPageOut, TargetPageOut
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.model.target_group import GroupDraft
from opsjobs.store.groups import GROUPS, StoredGroup
from opsjobs.store.idempotency import Answer
from opsjobs.store.inventory import TARGETS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])


async def load_group(id: str, request: Request) -> StoredGroup:
    """The group; raises NotFound before the body is judged."""
    group: StoredGroup = await services_of(request).groups.get(id)
    return group


@router.post(
    "/target-groups",
    status_code=201,
    dependencies=[requires("targets:manage")],
    summary="Create a group",
    response_model=GroupOut,
    responses=CREATED,
)
async def create(
    request: Request, services: ServicesDep, draft: GroupDraft, idem: Idempotent
) -> Response:
    """Create a group. The first target that names a group creates it, too."""
    group = await services.groups.create(draft, idem)
    return render_created(
        request, "" if isinstance(group, Answer) else f"/target-groups/{group.id}", group
    )


@router.get(
    "/target-groups",
    dependencies=[requires("targets:read")],
    summary="List groups",
    response_model=GroupPageOut,
    responses=PAGED,
)
async def list_(
    request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(GROUPS)]
) -> Response:
    """List groups, by name unless `sort` says otherwise."""
    return render_page(request, await services.groups.list(page))


@router.get(
    "/target-groups/{id}",
    dependencies=[requires("targets:read")],
    summary="Get a group",
    response_model=GroupOut,
)
async def show(id: str, services: ServicesDep) -> Response:
    """Return the group; `direct_targets` counts the targets that name it."""
    return JSONResponse((await services.groups.get(id)).data())


@router.get(
    "/target-groups/{id}/targets",
    dependencies=[requires("targets:read")],
    summary="List a group's targets",
    response_model=TargetPageOut,
    responses=PAGED,
)
async def members(
    id: str, request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(TARGETS)]
) -> Response:
    """List all targets of the group: by name, by its selector, and by way of other groups."""
    return render_page(
        request, await services.inventory.list(page, among=await services.groups.members(id))
    )


@put_and_patch(
    router,
    "/target-groups/{id}",
    dependencies=[requires("targets:manage"), Depends(load_group)],
    thing="a group",
    response_model=GroupOut,
)
async def replace(
    id: str,
    services: ServicesDep,
    change: Annotated[Edit[GroupDraft], edit(GroupDraft, load_group, volatile=["direct_targets"])],
) -> Response:
    """Replace the group; its targets stay if `targets` is left out.

    A new name is adopted by the targets and groups that name it.
    """
    return JSONResponse(
        (await services.groups.replace(id, change.draft, basis=change.basis)).data()
    )


@router.delete(
    "/target-groups/{id}",
    status_code=204,
    dependencies=[requires("targets:manage")],
    summary="Delete a group",
)
async def delete(id: str, services: ServicesDep) -> Response:
    """Delete the group, also from its targets. 409 while jobs or other groups name it."""
    await services.groups.delete(id)
    return Response(status_code=204)
