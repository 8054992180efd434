"""/artifacts: what executions brought from their targets."""

from __future__ import annotations

import posixpath
from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from opsjobs.api.auth import Within, requires
from opsjobs.api.authorization import admit, reach
from opsjobs.api.dependencies import ServicesDep
from opsjobs.api.executions import ExecutionDep
from opsjobs.api.files import download
from opsjobs.api.listing import page_of, render_page
from opsjobs.api.schemas.files import ArtifactPageOut
from opsjobs.api.schemas.responses import BYTES, PAGED
from opsjobs.store.artifacts import ARTIFACTS
from opsjobs.store.paging import PageRequest

router = APIRouter(tags=["files"])


@router.get(
    "/executions/{id}/artifacts",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List artifacts",
    response_model=ArtifactPageOut,
    responses=PAGED,
)
async def of_execution(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(ARTIFACTS)],
) -> Response:
    """List the files that the execution downloaded, with their paths on the targets, in order."""
    return render_page(request, await services.artifacts.list(execution.id, page))


@router.get(
    "/artifacts/{id}",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Download an artifact",
    response_class=Response,
    responses=BYTES,
)
async def content(id: str, request: Request, services: ServicesDep) -> Response:
    """Return the bytes of the file."""
    artifact = await services.artifacts.get(id)
    # An unscoped caller needs no labels; if it loses that permission, the download ends.
    labels = (
        {} if reach(request) is None else await services.executions.labels(artifact.execution_id)
    )

    def still() -> None:
        admit(request, "artifact", id, labels, sees="executions:read")

    still()
    return download(request, posixpath.basename(artifact.path) or "file", artifact, still)
