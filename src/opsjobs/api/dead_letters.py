"""/dead-letters: runs that ended lost or dead, until they are revived or discarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as but
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, bounds, check_override, check_permission, reach
from opsjobs.api.dependencies import Idempotent, ServicesDep, requires
from opsjobs.api.execution_answers import add_links
from opsjobs.api.http import page_of, render_page, render_replayed
from opsjobs.api.launches import requester
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.approvals import DeadLetterPageOut, DiscardedLettersOut, RevivedOut
from opsjobs.api.schemas.responses import PAGED, REVIVED
from opsjobs.engine.launching.retries import REVIVED_MAX
from opsjobs.model.access import LAUNCH, RUN_COMMANDS, SEE_EXECUTIONS, Reach
from opsjobs.model.api_model import Moment
from opsjobs.model.retry_request import DiscardDraft, ReviveDraft
from opsjobs.store.dead_letters import DEAD_LETTERS
from opsjobs.store.idempotency import Answer
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["dead letters"])
Since = Annotated[Moment | None, Query(description="Ended at this time or later.")]


@router.get(
    "/dead-letters",
    dependencies=[requires("executions:read", Within.LIST)],
    summary="List dead letters",
    response_model=DeadLetterPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(DEAD_LETTERS, also=["since"])],
    since: Since = None,
) -> Response:
    """List dead letters; `job` and `target` are an id or a name.

    The default order is newest first.
    """
    if since is not None:
        page = but(page, filters={**page.filters, "at_after": [since.isoformat()]})
    return render_page(request, await services.dead_letters.list(page, reach(request)))


@router.post(
    "/dead-letters/revive",
    status_code=202,
    dependencies=[requires("dead_letters:manage", Within.BODY)],
    summary="Revive dead letters",
    response_model=RevivedOut,
    responses=REVIVED,
)
async def revive(
    request: Request, services: ServicesDep, draft: ReviveDraft, idem: Idempotent
) -> Response:
    """Launch a new execution for each old one that has letters among these, at most 100.

    `more`: other dead letters match the filter. Needs `jobs:execute`, too, or `commands:run` for
    those of executions without a job.
    """
    if not principal_of(request).has_permission(RUN_COMMANDS):
        check_permission(request, LAUNCH, within=Within.BODY)
    check_override(request, draft)
    quota, caller = request.app.state.open_executions, principal_of(request)
    room, made = await quota.take(caller, REVIVED_MAX), 0
    try:
        revived = await services.retries.revive(
            draft,
            reach=reach(request),
            sight=_sight(request),
            bounds=bounds(request, LAUNCH),
            ad_hoc_bounds=bounds(request, RUN_COMMANDS),
            idem=idem,
            at_most=room,
            requested_by=await requester(request),
        )
        if isinstance(revived, Answer):
            return render_replayed(request, but(revived, body=_add_links(revived.body)))
        made = len(revived.executions)
        return JSONResponse(_add_links(revived.data()), 202)
    finally:
        quota.give_back(caller, room - made)


@router.post(
    "/dead-letters/discard",
    dependencies=[requires("dead_letters:manage", Within.BODY)],
    summary="Discard dead letters",
    response_model=DiscardedLettersOut,
)
async def discard(request: Request, services: ServicesDep, draft: DiscardDraft) -> Response:
    """Remove dead letters from the list; the reason is stored. Runs keep their outcome."""
    discarded = await services.dead_letters.discard(
        draft, by=principal_of(request).name, reach=reach(request), sight=_sight(request)
    )
    return JSONResponse({"discarded": list(discarded)})


def _sight(request: Request) -> Reach | None:
    """Return the executions that the caller sees if its own are among them; None: no limit.

    What it revives becomes its own: it must not see by that what it could not see before.
    """
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    return None if seen.own is None else seen


def _add_links(revived: Mapping[str, Any]) -> dict[str, Any]:
    return {**revived, "executions": [add_links(one) for one in revived["executions"]]}
