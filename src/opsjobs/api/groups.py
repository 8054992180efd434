"""/target-groups: targets under one name, listed, selected by their labels, or held by way of other groups."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import requires
from opsjobs.api.dependencies import ServicesDep, services_of
from opsjobs.api.listing import created, listed, page_of
from opsjobs.api.preconditions import Idempotent
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.schemas.targets import GroupOut, GroupPageOut, TargetPageOut
from opsjobs.api.updates import Edit, edit, put_and_patch
from opsjobs.model.target_group import GroupDraft
from opsjobs.store.groups import GROUPS, StoredGroup
from opsjobs.store.idempotency import Answer
from opsjobs.store.inventory import TARGETS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])


async def known(id: str, request: Request) -> StoredGroup:
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
async def create(request: Request, services: ServicesDep, draft: GroupDraft, idem: Idempotent) -> Response:
    """A group is also made by the first target that names it."""
    group = await services.groups.create(draft, idem)
    return created(request, "" if isinstance(group, Answer) else f"/target-groups/{group.id}", group)


@router.get(
    "/target-groups", dependencies=[requires("targets:read")], summary="List groups", response_model=GroupPageOut, responses=PAGED
)
async def list_(request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(GROUPS)]) -> Response:
    """By name unless `sort` says otherwise."""
    return listed(request, await services.groups.list(page))


@router.get("/target-groups/{id}", dependencies=[requires("targets:read")], summary="Show a group", response_model=GroupOut)
async def show(id: str, services: ServicesDep) -> Response:
    """One group; `direct_targets` counts those that name it themselves."""
    return JSONResponse((await services.groups.get(id)).data())


@router.get(
    "/target-groups/{id}/targets",
    dependencies=[requires("targets:read")],
    summary="List a group's targets",
    response_model=TargetPageOut,
    responses=PAGED,
)
async def members(id: str, request: Request, services: ServicesDep, page: Annotated[PageRequest, page_of(TARGETS)]) -> Response:
    """All that are in it now: those that name it, those that its selector finds, and those of the groups that it holds."""
    return listed(request, await services.inventory.list(page, among=await services.groups.members(id)))


@put_and_patch(
    router,
    "/target-groups/{id}",
    dependencies=[requires("targets:manage"), Depends(known)],
    thing="a group",
    response_model=GroupOut,
)
async def replace(
    id: str,
    services: ServicesDep,
    change: Annotated[Edit[GroupDraft], edit(GroupDraft, known, volatile=["direct_targets"])],
) -> Response:
    """Changes the whole, but for who names it where `targets` is left out; a new name is taken over by targets and groups."""
    return JSONResponse((await services.groups.replace(id, change.draft, basis=change.basis)).data())


@router.delete("/target-groups/{id}", status_code=204, dependencies=[requires("targets:manage")], summary="Delete a group")
async def delete(id: str, services: ServicesDep) -> Response:
    """Its targets stay, and name it no more. 409 while jobs or other groups name it."""
    await services.groups.delete(id)
    return Response(status_code=204)
