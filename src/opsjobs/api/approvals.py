"""/approvals: executions that wait for an approval, and the decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.actions import Actions
from opsjobs.api.authorization import Within, check_confirmed, reach
from opsjobs.api.dependencies import admit_part, requires
from opsjobs.api.http import page_of, render_page
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.approvals import ApprovalDetailOut, ApprovalOut, ApprovalPageOut
from opsjobs.api.schemas.responses import PAGED
from opsjobs.api.services import ServicesDep, services_of
from opsjobs.model import text_patterns
from opsjobs.model.access import SEE_EXECUTIONS
from opsjobs.model.api_model import ApiModel, Overriding
from opsjobs.model.approval import Approval
from opsjobs.store.approvals import APPROVALS
from opsjobs.store.ledger.approvals import Ruling
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["approvals"])

ANY_REASON = "-"
"""The reason of an override that is only judged: one is required, and none is recorded."""

Hash = Annotated[str, Field(pattern=text_patterns.SHA256)]


class RejectDraft(ApiModel):
    """Body of POST /approvals/{id}/reject.

    `hash`: of the plan that was reviewed, from GET /approvals/{id}; 409 if it has changed since.
    """

    reason: str | None = Field(default=None, max_length=2_000)
    hash: Hash | None = None


class ApproveDraft(Overriding):
    """Body of POST /approvals/{id}/approve.

    `hash`: as for a rejection. `override_safety`: approve alone, even one's own request.
    """

    hash: Hash | None = None


async def load_approval(id: str, request: Request) -> Approval:
    """Return the approval. Raises NotFound or Forbidden, by the labels of its execution.

    This precedes the check of the body.
    """
    services = services_of(request)
    approval: Approval = await services.approvals.get(id)
    seen = principal_of(request).reach(SEE_EXECUTIONS)
    if reach(request) is not None or seen.only_own:
        await admit_part(request, "approval", id, approval.execution_id)
    return approval


ApprovalDep = Annotated[Approval, Depends(load_approval)]


@router.get(
    "/approvals",
    dependencies=[requires("executions:read", Within.LIST)],
    summary="List approvals",
    response_model=ApprovalPageOut,
    responses=PAGED,
)
async def list_(
    request: Request,
    services: ServicesDep,
    page: Annotated[PageRequest, page_of(APPROVALS, also=["can"])],
    can: Annotated[
        Literal["approve"] | None,
        Query(
            description="Only pending ones that the caller may approve: of the newest 200 within "
            "its scopes."
        ),
    ] = None,
) -> Response:
    """List approvals; `status=pending` are those that are open.

    The default order is newest first.
    """
    if can is not None:
        found = await services.approval_service.find_approvable(principal_of(request))
        page = replace(page, among=found)
    return render_page(request, await services.approvals.list(page, reach(request)))


@router.get(
    "/approvals/{id}",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get an approval",
    response_model=ApprovalDetailOut,
)
async def show(request: Request, services: ServicesDep, approval: ApprovalDep) -> Response:
    """Return the approval, what would run where (`would_run`), its hash, and the decisions.

    `can` and `cannot` are what the caller may do: approve, reject, or override the others.
    """
    owned = await services.executions.ownership(approval.execution_id)
    actions = Actions(
        request, "approval", approval.id, owned.labels, sees=SEE_EXECUTIONS, launcher=owned.launcher
    )
    principal = principal_of(request)
    rulings = {
        name: ruling
        for name, ruling in (
            ("approve", Ruling(principal, approve=True)),
            ("reject", Ruling(principal, approve=False)),
            ("override", Ruling(principal, approve=True, override=True, reason=ANY_REASON)),
        )
        if actions.holds(
            name, "approvals:decide", *(["safety:override"] if ruling.override else [])
        )
    }
    refusals = await services.approval_service.find_refusals(approval, *rulings.values())
    for name, refusal in zip(rulings, refusals, strict=True):
        actions.add(name, refusal)
    return JSONResponse({**await services.approval_service.show(approval), **actions.data()})


_DECIDES = requires("approvals:decide", Within.OBJECT)


@router.post(
    "/approvals/{id}/approve",
    dependencies=[_DECIDES, Depends(load_approval)],
    summary="Approve",
    response_model=ApprovalOut,
)
async def approve(
    request: Request,
    services: ServicesDep,
    approval: ApprovalDep,
    draft: ApproveDraft | None = None,
) -> Response:
    """Approve. With the last of the required `approvers` the execution continues.

    403 `self_approval` for the caller who requested it, 403 `author_approval` for the author of
    what will run.
    """
    decision = draft or ApproveDraft()
    if decision.override_safety:
        check_confirmed(request)
    ruling = Ruling(
        principal_of(request), True, decision.reason, decision.hash, decision.override_safety
    )
    return await _answer(request, await services.approval_service.decide(approval, ruling))


@router.post(
    "/approvals/{id}/reject",
    dependencies=[_DECIDES, Depends(load_approval)],
    summary="Reject",
    response_model=ApprovalOut,
)
async def reject(
    request: Request, services: ServicesDep, approval: ApprovalDep, draft: RejectDraft | None = None
) -> Response:
    """Reject, which is final: waiting runs are cancelled.

    An execution that has not begun ends as rejected.
    """
    decision = draft or RejectDraft()
    ruling = Ruling(principal_of(request), False, decision.reason, decision.hash)
    return await _answer(request, await services.approval_service.decide(approval, ruling))


async def _answer(request: Request, decided: Approval) -> Response:
    services = services_of(request)
    for zone in await services.executions.list_waiting_zones(decided.execution_id):
        services.notifier.notify(zone)
    return JSONResponse(decided.data())
