"""/approvals: questions that stand in the way of executions, and their answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from opsjobs.api.auth import principal_of, requires
from opsjobs.api.listing import listed, page_of
from opsjobs.model.wire import Wire
from opsjobs.store.approvals import APPROVALS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["approvals"])


class DecisionDraft(Wire):
    """Body of POST /approvals/{id}/approve and /reject."""

    reason: str | None = Field(default=None, max_length=2_000)


async def known(id: str, request: Request) -> None:
    """Raises NotFound before the body is judged."""
    await request.app.state.parts.approvals.get(id)


@router.get("/approvals", dependencies=[requires("executions:read")], summary="List approvals")
async def list_(request: Request, page: Annotated[PageRequest, page_of(APPROVALS)]) -> Response:
    """The newest first unless `sort` says otherwise; `status=pending` are those that wait for somebody."""
    return listed(request, await request.app.state.parts.approvals.list(page))


@router.get("/approvals/{id}", dependencies=[requires("executions:read")], summary="Show an approval")
async def show(id: str, request: Request) -> Response:
    """The question, and what was said to it."""
    return JSONResponse((await request.app.state.parts.approvals.get(id)).data())


@router.post("/approvals/{id}/approve", dependencies=[requires("approvals:decide"), Depends(known)], summary="Approve")
async def approve(id: str, request: Request, draft: DecisionDraft | None = None) -> Response:
    """The runs that wait for it go on. An approval is decided once: after that 409."""
    return await _decide(id, request, draft, approve=True)


@router.post("/approvals/{id}/reject", dependencies=[requires("approvals:decide"), Depends(known)], summary="Reject")
async def reject(id: str, request: Request, draft: DecisionDraft | None = None) -> Response:
    """The runs that wait for it end cancelled. An approval is decided once: after that 409."""
    return await _decide(id, request, draft, approve=False)


async def _decide(id: str, request: Request, draft: DecisionDraft | None, *, approve: bool) -> Response:
    parts = request.app.state.parts
    asked = await parts.approvals.get(id)
    decided = await parts.ledger.decide(
        asked.id, approve=approve, by=principal_of(request).name, reason=draft.reason if draft else None
    )
    for zone in await parts.executions.waiting_zones(asked.execution_id):
        parts.doorbell.ring(zone)
    return JSONResponse(decided.data())
