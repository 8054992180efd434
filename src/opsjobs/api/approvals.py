"""/approvals: questions that stand in the way of executions, and their answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import Within, principal_of, requires
from opsjobs.api.listing import listed, page_of
from opsjobs.api.sight import admit, reach
from opsjobs.model.approval import Approval
from opsjobs.model.wire import Wire
from opsjobs.store.approvals import APPROVALS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["approvals"])


class DecisionDraft(Wire):
    """Body of POST /approvals/{id}/approve and /reject."""

    reason: str | None = Field(default=None, max_length=2_000)


async def known(id: str, request: Request) -> Approval:
    """The approval; raises NotFound or Forbidden, by the labels of its execution, before the body is judged."""
    parts = request.app.state.parts
    approval: Approval = await parts.approvals.get(id)
    if reach(request) is not None:
        admit(request, "approval", id, await parts.executions.labels(approval.execution_id), sees="executions:read")
    return approval


Known = Annotated[Approval, Depends(known)]


@router.get("/approvals", dependencies=[requires("executions:read", Within.LIST)], summary="List approvals")
async def list_(request: Request, page: Annotated[PageRequest, page_of(APPROVALS)]) -> Response:
    """The newest first unless `sort` says otherwise; `status=pending` are those that wait for somebody."""
    return listed(request, await request.app.state.parts.approvals.list(page, reach(request)))


@router.get("/approvals/{id}", dependencies=[requires("executions:read", Within.OBJECT)], summary="Show an approval")
async def show(approval: Known) -> Response:
    """The question, and what was said to it."""
    return JSONResponse(approval.data())


_DECIDES = requires("approvals:decide", Within.OBJECT)


@router.post("/approvals/{id}/approve", dependencies=[_DECIDES, Depends(known)], summary="Approve")
async def approve(request: Request, asked: Known, draft: DecisionDraft | None = None) -> Response:
    """The runs that wait for it go on. An approval is decided once: after that 409."""
    return await _decide(request, asked, draft, approve=True)


@router.post("/approvals/{id}/reject", dependencies=[_DECIDES, Depends(known)], summary="Reject")
async def reject(request: Request, asked: Known, draft: DecisionDraft | None = None) -> Response:
    """The runs that wait for it end cancelled. An approval is decided once: after that 409."""
    return await _decide(request, asked, draft, approve=False)


async def _decide(request: Request, asked: Approval, draft: DecisionDraft | None, *, approve: bool) -> Response:
    parts = request.app.state.parts
    decided = await parts.ledger.decide(
        asked.id, approve=approve, by=principal_of(request).name, reason=draft.reason if draft else None
    )
    for zone in await parts.executions.waiting_zones(asked.execution_id):
        parts.doorbell.ring(zone)
    return JSONResponse(decided.data())
