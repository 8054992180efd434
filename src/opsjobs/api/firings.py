"""/schedules/{id}/firings: what became of each due moment, and why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from opsjobs.api.auth import requires
from opsjobs.api.listing import listed, page_of
from opsjobs.model.explaining import explained
from opsjobs.store.firings import FIRINGS, Firing
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["schedules"])


@router.get("/schedules/{id}/firings", dependencies=[requires("schedules:read")], summary="List a schedule's firings")
async def list_(id: str, request: Request, page: Annotated[PageRequest, page_of(FIRINGS)]) -> Response:
    """The latest moment first unless `sort` says otherwise: ran, skipped by which rule, missed and why, late by how much."""
    parts = request.app.state.parts
    return listed(request, await parts.firings.list(await parts.schedules.get(id), page), told)


def told(firing: Firing) -> dict[str, Any]:
    """An item, with a sentence that explains it and a way to its execution."""
    item = firing.data()
    links = {"execution": f"/executions/{firing.execution_id}"} if firing.execution_id is not None else {}
    return {**item, "explained": explained(item), "links": links}
