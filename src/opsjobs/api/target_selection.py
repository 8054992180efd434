"""/target-groups, /targets/resolve and /targets/labels: groups of targets, and selections.

Members of a group are listed by hand, selected by label, or taken from other groups.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, bounds, reach
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.http import page_of, render_created, render_page
from opsjobs.api.resource import Edit, Resource, edit, put_and_patch
from opsjobs.api.schemas.responses import CREATED, PAGED
from opsjobs.api.schemas.targets import (
    GroupOut,
    GroupPageOut,
    LabelCountsOut,
    ResolvedPageOut,
    TargetPageOut,
)
from opsjobs.composition.services import Services
from opsjobs.engine.launching.preview import preview_selection
from opsjobs.model import text_patterns
from opsjobs.model.access import LAUNCH, RUN_COMMANDS
from opsjobs.model.api_model import ApiModel
from opsjobs.model.selection import GroupDraft, SelectionDraft
from opsjobs.store.groups import GROUPS, StoredGroup
from opsjobs.store.inventory import TARGETS, StoredTarget
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


# --- selections, and the labels to select by


picker_router = APIRouter(tags=["targets"])


class ResolveDraft(ApiModel):
    """Body of POST /targets/resolve: a selection, as in a job or a launch.

    `ad_hoc`: the refusals are those of POST /run, not of a launch of a job."""

    targets: SelectionDraft
    ad_hoc: bool = False


@picker_router.post(
    "/targets/resolve",
    dependencies=[requires("targets:read", Within.BODY)],
    summary="Resolve a selection of targets",
    response_model=ResolvedPageOut,
    responses=PAGED,
)
async def resolve(
    request: Request,
    services: ServicesDep,
    draft: ResolveDraft,
    page: Annotated[PageRequest, page_of(TARGETS)],
) -> Response:
    """Return how many targets a selection finds now, a page of them, and their labels.

    `refusals` are the reasons why a launch on it would be refused, such as unknown names or
    targets on which the caller may not launch. Nothing is launched.
    """
    limits = bounds(request, RUN_COMMANDS if draft.ad_hoc else LAUNCH)
    found = await preview_selection(services.launcher, services.inventory, draft.targets, limits)
    shown = await services.inventory.list(
        page, among=[int(target.id) for target in found.targets], reach=limits.sight
    )
    summary = {
        "count": len(found.targets),
        "excluded": found.excluded,
        "labels": [label.data() for label in found.labels],
        "platforms": Counter(target.platform for target in found.targets),
        "refusals": [
            {"code": refusal.code, "detail": refusal.detail, "pointer": refusal.pointer}
            for refusal in found.refusals
        ],
    }
    return render_page(request, shown, _render_ref, more=summary)


def _render_ref(stored: StoredTarget) -> dict[str, str]:
    target = stored.target
    return {"id": target.id, "name": target.name, "host": target.host}


@picker_router.get(
    "/targets/labels",
    dependencies=[requires("targets:read", Within.LIST)],
    summary="List labels of targets",
    response_model=LabelCountsOut,
)
async def labels(
    request: Request,
    services: ServicesDep,
    key: Annotated[
        str | None, Query(pattern=text_patterns.LABEL_KEY, description="Only this label.")
    ] = None,
    q: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=text_patterns.LINE_OR_NOTHING,
            description="Only values that contain this text.",
        ),
    ] = None,
) -> Response:
    """Return the labels that targets have, and the number of targets with each value.

    At most 100 keys in order, each with its 50 most frequent values.
    """
    found = await services.inventory.count_labels(key=key, q=q, reach=reach(request))
    return JSONResponse({"labels": [label.data() for label in found]})
