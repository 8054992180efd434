"""/targets/resolve and /targets/labels: selections, and the labels to select by."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, bounds, reach
from opsjobs.api.dependencies import requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.schemas.targets import LabelCountsOut, ResolvedPageOut
from opsjobs.api.services import ServicesDep
from opsjobs.engine.launching.preview import preview_selection
from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel
from opsjobs.model.selection import SelectionDraft
from opsjobs.store.inventory import TARGETS, StoredTarget
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["targets"])


class ResolveDraft(ApiModel):
    """Body of POST /targets/resolve: a selection, as in a job or a launch."""

    targets: SelectionDraft


@router.post(
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
    targets on which the caller may not execute jobs. Nothing is launched.
    """
    limits = bounds(request, "jobs:execute")
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


@router.get(
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
