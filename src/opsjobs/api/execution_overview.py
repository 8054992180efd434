"""/executions/{id}/matrix, /spec, /groups, /baseline: all runs in one answer.

Groups and baseline show the targets that differ from others, or from before.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse, Response

from opsjobs.api.authorization import Within, admit_execution, check_permission
from opsjobs.api.dependencies import ExecutionDep, ServicesDep, read_execution, requires
from opsjobs.api.execution_answers import render_execution, render_result_group
from opsjobs.api.http import page_of, render_page
from opsjobs.api.request import principal_of
from opsjobs.api.schemas.executions import (
    BaselineOut,
    MatrixOut,
    ResultGroupPageOut,
    SpecificationOut,
    TargetRunPageOut,
)
from opsjobs.api.schemas.responses import PAGED
from opsjobs.model import text_patterns
from opsjobs.model.errors import NotFound
from opsjobs.model.execution import moment
from opsjobs.store.executions import RUNS
from opsjobs.store.paging import PageRequest
from opsjobs.store.result_groups import GROUPS, Comparison

LABELS_MAX = 8
MEMBERS_MAX = 100_000
COMPARED = ("action", "stream", "normalise", "running")

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


def read_comparison(
    *,
    action: Annotated[
        str | None,
        Query(pattern=text_patterns.ACTION_KEY, description="Compare only this action."),
    ] = None,
    stream: Annotated[
        Literal["stdout", "stderr"] | None, Query(description="Compare only this stream.")
    ] = None,
    normalise: Annotated[
        bool,
        Query(
            description="Leave out what differs on every machine: its name, numbers, times, hex."
        ),
    ] = False,
    running: Annotated[
        bool, Query(description="Compare runs that have not ended, too, by their output so far.")
    ] = False,
) -> Comparison:
    """Return what is compared."""
    return Comparison(action, stream, normalise, running)


Compared = Annotated[Comparison, Depends(read_comparison)]


@router.get(
    "/executions/{id}/groups",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Group targets by identical result",
    response_model=ResultGroupPageOut,
    responses=PAGED,
)
async def groups(
    *,
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(GROUPS, also=[*COMPARED, "members"])],
    compared: Compared,
    members: Annotated[
        int | None,
        Query(ge=0, le=MEMBERS_MAX, description="Targets per group. Default: all."),
    ] = None,
) -> Response:
    """Group targets by identical result, the largest group first.

    Results are identical if status, exit code, error and output (the first 64 KiB, and the
    length) are the same; of targets that did not succeed, the first 64 KiB of stderr, too. With
    `normalise` the first 16 KiB are compared (8 MiB of all targets together), and no length.
    """
    return render_page(
        request,
        await services.result_groups.page(execution, page, compared, members=members),
        render_result_group,
    )


@router.get(
    "/executions/{id}/groups/{digest}/targets",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="List the target runs of a group",
    response_model=TargetRunPageOut,
    responses=PAGED,
)
async def members_of_group(
    *,
    digest: Annotated[str, Path(pattern=text_patterns.SHA256)],
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    page: Annotated[PageRequest, page_of(RUNS, also=COMPARED)],
    compared: Compared,
) -> Response:
    """List the runs of one group, in the order of launch.

    `digest` is that of a group of `/groups` with the same `action`, `stream`, `normalise` and
    `running`.
    """
    runs = await services.result_groups.runs(execution, digest, compared)
    return render_page(request, await services.executions.runs(execution.id, page, among=runs))


@router.get(
    "/executions/{id}/baseline",
    dependencies=[requires("executions:read", Within.OBJECT)],
    summary="Get the last good run before this one",
    response_model=BaselineOut,
)
async def baseline(
    request: Request,
    services: ServicesDep,
    execution: ExecutionDep,
    target: Annotated[
        str, Query(max_length=200, pattern=text_patterns.LINE_OR_NOTHING, description="Id or name.")
    ],
) -> Response:
    """Return the last run of the same job on a target that succeeded before this execution.

    404 `no_baseline` if there is none that the caller may see.
    """
    run = await services.executions.run_of(execution.id, target)
    good = await services.overview.last_good_run(
        execution, run.target.id, principal_of(request).reach("executions:read")
    )
    if good is None:
        raise _no_baseline(execution.job_name, run.target.name)
    found = await read_execution(request, good.execution_id)
    try:
        admit_execution(request, found.id, found)
    except NotFound:
        raise _no_baseline(execution.job_name, run.target.name) from None
    before = (await services.executions.runs_by_id([good.run_id]))[good.run_id]
    return JSONResponse({"execution": render_execution(found), "target_run": before.data()})


def _no_baseline(job: str, target: str) -> NotFound:
    return NotFound(
        "no_baseline", f"No earlier execution of {job} that you may see has succeeded on {target}."
    )
