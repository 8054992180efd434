"""/executions/{id}/matrix and /spec: all runs in one answer, and what was launched."""

from __future__ import annotations

import json

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import ExecutionDep, Within, requires
from opsjobs.api.request import ServicesDep
from opsjobs.api.schemas.executions import MatrixOut, SpecificationOut
from opsjobs.model.execution import moment

router = APIRouter(tags=["executions"])


@router.get(
    "/executions/{id}/matrix",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get all runs as columns",
    response_model=MatrixOut,
)
async def matrix(services: ServicesDep, execution: ExecutionDep) -> Response:
    """Return all runs of an execution in one answer, in the order of launch.

    Each column has one value per run. `seq` is the position of the log at that moment: a client
    that follows `/events?after=SEQ` from there misses no change.
    """
    read = await services.overview.matrix(execution)
    head = json.dumps({"seq": read.seq, "created_at": moment(execution.created_at)})
    # The columns are sent as PostgreSQL wrote them: to parse them would cost most of the time.
    return Response(f'{head[:-1]}, "columns": {read.columns}}}', media_type="application/json")


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
