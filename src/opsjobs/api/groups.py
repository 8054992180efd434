"""/target-groups: named groups of targets.

Members are listed by hand, selected by label, or taken from other groups."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.dependencies import requires
from opsjobs.api.http import page_of, render_created, render_page
from opsjobs.api.idempotency import Idempotent
from opsjobs.api.resource import Resource
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.schemas.targets import GroupOut, GroupPageOut, TargetPageOut
from opsjobs.api.services import ServicesDep
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.composition.services import Services
from opsjobs.model.selection import GroupDraft
from opsjobs.store.groups import GROUPS, StoredGroup
from opsjobs.store.inventory import TARGETS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])
resource = Resource[StoredGroup](
    router=router,
    path="/target-groups",
    one="a group",
    many="groups",
    store=lambda services: services.groups,
    listing=GROUPS,
    reads=requires("targets:read"),
    manages=requires("targets:manage"),
    item_model=GroupOut,
    page_model=GroupPageOut,
)
resource.add_list("List groups. The default order is by name.")
resource.add_show("Return the group; `direct_targets` counts the targets that name it.")
resource.add_delete(
    "Delete the group, also from its targets. 409 while jobs or other groups name it."
)


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
    _check_members(services, draft)
    group = await services.groups.create(draft, idem)
    return render_created(request, "/target-groups", group)


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
    dependencies=[requires("targets:manage"), Depends(resource.load)],
    thing="a group",
    response_model=GroupOut,
)
async def replace(
    id: str,
    services: ServicesDep,
    change: Annotated[
        Edit[GroupDraft], edit(GroupDraft, resource.load, volatile=["direct_targets"])
    ],
) -> Response:
    """Replace the group; its targets stay if `targets` is left out.

    A new name is adopted by the targets and groups that name it.
    """
    _check_members(services, change.draft)
    return JSONResponse(
        (await services.groups.replace(id, change.draft, basis=change.basis)).data()
    )


def _check_members(services: Services, draft: GroupDraft) -> None:
    """Raise Conflict if `targets` would change groups that the Target Service keeps."""
    if draft.targets is not None:
        services.inventory.check_writable(f"put targets into the group {draft.name}")
