"""/executions/{id}/matrix and /spec: all runs in one answer, and what was launched."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, check_permission
from opsjobs.api.dependencies import ExecutionDep, requires
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.executions import MatrixOut, SpecificationOut
from opsjobs.api.services import ServicesDep
from opsjobs.model import text_patterns
from opsjobs.model.execution import moment

LABELS_MAX = 8

router = APIRouter(tags=["executions"])


@router.get(
    "/executions/{id}/matrix",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get all runs as columns",
    response_model=MatrixOut,
)
async def matrix(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    label: Annotated[
        list[Annotated[str, Query(pattern=text_patterns.LABEL_KEY)]] | None,
        Query(max_length=LABELS_MAX, description="Keys of labels to add as columns."),
    ] = None,
) -> Response:
    """Return all runs of an execution in one answer, in the order of launch.

    Each column has one value per run. `seq` is the position of the log at that moment: a client
    that follows `/events?after=SEQ` from there misses no change. `label` needs `targets:read`,
    too: its columns have the labels that the targets have now, null outside the caller's scope.
    """
    labels = "{}"
    if label:
        check_permission(request, "targets:read", within=Within.LIST)
        visible = principal_of(request).reach("targets:read")
        labels = await services.overview.labels(execution, label, visible)
    read = await services.overview.matrix(execution)
    head = json.dumps({"seq": read.seq, "created_at": moment(execution.created_at)})
    # The columns are sent as PostgreSQL wrote them: to parse them would cost most of the time.
    return Response(
        f'{head[:-1]}, "columns": {read.columns}, "labels": {labels}}}',
        media_type="application/json",
    )


@router.get(
    "/executions/{id}/spec",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get what was launched",
    response_model=SpecificationOut,
)
async def specification(services: ServicesDep, execution: ExecutionDep) -> Response:
    """Return the actions, parameters and policy that the launch fixed.

    They stay as they are if the job is changed later. Values of secret parameters are masked.
    """
    found = await services.overview.specification(execution)
    return JSONResponse(
        {"actions": found.actions, "parameters": found.parameters, "policy": found.policy}
    )
